use super::{
    geometry::{AxisCodes, Geometry, check_spacing},
    grid,
    resample::{Interpolation, LabelInterpolation, resample, resample_labels},
};
use crate::{DataError, Result};

/// Values of a volume, in one or more channels (modalities, points of time): `[channels, depth, height, width]`.
///
/// ```
/// use segkiln_data::volumes::{Geometry, Interpolation, Volume};
///
/// let geometry = Geometry::with_spacing([4, 8, 8], [3.0, 1.0, 1.0])?;
/// let volume = Volume::new(geometry, 1, vec![0.5; 4 * 8 * 8])?;
/// let finer = volume.resampled([1.0; 3], [Interpolation::Cubic; 3])?;
/// assert_eq!(finer.geometry().size(), [12, 8, 8]);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    geometry: Geometry,
    channels: usize,
    values: Vec<f32>,
}

impl Volume {
    /// A volume of `channels × voxels` values, channel by channel, then slice by slice, row by row.
    ///
    /// # Errors
    /// If there is another number of values, or no channel.
    pub fn new(geometry: Geometry, channels: usize, values: Vec<f32>) -> Result<Self> {
        if channels == 0 || geometry.voxels().checked_mul(channels) != Some(values.len()) {
            let reason = format!("{} for {channels} channels of {:?} voxels", values.len(), geometry.size());
            return Err(DataError::option("values of a volume", reason));
        }
        Ok(Self { geometry, channels, values })
    }

    /// Size and place of its voxels.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// All values, channel by channel.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// All values, writable.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Values of a channel: `[depth, height, width]`.
    ///
    /// # Panics
    /// If there is no such channel.
    pub fn channel(&self, channel: usize) -> &[f32] {
        let voxels = self.geometry.voxels();
        &self.values[channel * voxels..][..voxels]
    }

    /// The volume with voxels as close to `spacing` (depth, height, width in millimeters) as whole numbers of them allow. The
    /// outer edges stay: it is SciPy's `ndimage.zoom(…, mode="nearest", grid_mode=True)`, which nnU-Net resamples by.
    ///
    /// nnU-Net takes `Cubic` everywhere, but `Nearest` along the axis of thick slices where these are more than 3 times
    /// as thick as their pixels are wide: see [`Interpolation::for_spacing`].
    ///
    /// # Errors
    /// If a spacing is not positive and finite, or the result takes more than 2 GiB.
    pub fn resampled(&self, spacing: [f64; 3], by: [Interpolation; 3]) -> Result<Self> {
        check_spacing(spacing)?;
        self.resized(grid::size_for(&self.geometry, spacing), by)
    }

    /// [`resampled`](Self::resampled) to a number of voxels (depth, height, width).
    ///
    /// # Errors
    /// The errors of [`resampled`](Self::resampled).
    pub fn resized(&self, size: [usize; 3], by: [Interpolation; 3]) -> Result<Self> {
        let geometry = self.geometry.resized(size)?;
        check_bytes(&geometry, self.channels)?;
        let values = resample(&self.values, self.channels, self.geometry.size(), size, by);
        Ok(Self { geometry, channels: self.channels, values })
    }

    /// The volume with its axes in other directions; no value changes.
    #[must_use]
    pub fn reoriented(&self, codes: AxisCodes) -> Self {
        let (geometry, turn) = self.geometry.reoriented(codes);
        let size = self.geometry.size();
        let values = (0..self.channels).flat_map(|channel| grid::turned(self.channel(channel), size, turn)).collect();
        Self { geometry, channels: self.channels, values }
    }
}

/// Labels of a volume: `[depth, height, width]`.
///
/// ```
/// use segkiln_data::volumes::{AxisCodes, Geometry, LabelVolume};
///
/// let geometry = Geometry::with_spacing([1, 1, 3], [1.0; 3])?;
/// let labels = LabelVolume::new(geometry, vec![0, 1, 2])?;
/// let turned = labels.reoriented("LAS".parse()?);
/// assert_eq!(turned.as_slice(), [2, 1, 0]);
/// assert_eq!(turned.reoriented(AxisCodes::CANONICAL), labels);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LabelVolume {
    geometry: Geometry,
    labels: Vec<u32>,
}

impl LabelVolume {
    /// A volume of labels, slice by slice, row by row.
    ///
    /// # Errors
    /// If there is another number of labels than of voxels.
    pub fn new(geometry: Geometry, labels: Vec<u32>) -> Result<Self> {
        if geometry.voxels() != labels.len() {
            let reason = format!("{} for {:?} voxels", labels.len(), geometry.size());
            return Err(DataError::option("labels of a volume", reason));
        }
        Ok(Self { geometry, labels })
    }

    /// Size and place of its voxels.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// All labels.
    pub fn as_slice(&self) -> &[u32] {
        &self.labels
    }

    /// The share of voxels that is foreground: neither label 0 nor the ignored one. For
    /// [`k_fold`](crate::splits::k_fold) over cases.
    pub fn foreground(&self, ignore_index: Option<u32>) -> f64 {
        let foreground = self.labels.iter().filter(|label| **label != 0 && Some(**label) != ignore_index).count();
        foreground as f64 / self.labels.len() as f64
    }

    /// [`Volume::resampled`] for labels.
    ///
    /// # Errors
    /// The errors of [`Volume::resampled`].
    pub fn resampled(&self, spacing: [f64; 3], by: LabelInterpolation) -> Result<Self> {
        check_spacing(spacing)?;
        let geometry = self.geometry.resized(grid::size_for(&self.geometry, spacing))?;
        self.resized_to(&geometry, by)
    }

    /// Labels of the same space on another grid, such as a prediction on that of the image that was resampled before it.
    ///
    /// The result has exactly `geometry`. It is taken to cover the same space, so only its size matters to the labels.
    ///
    /// # Errors
    /// If the result takes more than 2 GiB.
    pub fn resized_to(&self, geometry: &Geometry, by: LabelInterpolation) -> Result<Self> {
        check_bytes(geometry, 1)?;
        let labels = resample_labels(&self.labels, self.geometry.size(), geometry.size(), by);
        Ok(Self { geometry: geometry.clone(), labels })
    }

    /// [`Volume::reoriented`] for labels.
    #[must_use]
    pub fn reoriented(&self, codes: AxisCodes) -> Self {
        let (geometry, turn) = self.geometry.reoriented(codes);
        Self { geometry, labels: grid::turned(&self.labels, self.geometry.size(), turn) }
    }
}

/// Refuses volumes that take more memory than [`Limits`](crate::Limits) allow by default.
fn check_bytes(geometry: &Geometry, channels: usize) -> Result<()> {
    let bytes = geometry.voxels() as u128 * channels as u128 * 4;
    let most = crate::Limits::default().max_bytes;
    if bytes > u128::from(most) {
        let reason =
            format!("{:?} voxels of {channels} channels take {bytes} bytes, over the limit of {most}", geometry.size());
        return Err(DataError::option("spacing", reason));
    }
    Ok(())
}
