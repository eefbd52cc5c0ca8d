use serde::{Deserialize, Serialize};

use super::{LabelVolume, Volume};
use crate::{DataError, Result, statistics::quantile};

/// Normalization of a volume's values to the range that networks learn in, as in nnU-Net (Isensee et al. 2021).
///
/// ```
/// use segkiln_data::volumes::{ForegroundStatistics, Geometry, Intensities, LabelVolume, Volume};
///
/// let geometry = Geometry::with_spacing([1, 1, 4], [1.0; 3])?;
/// let labels = LabelVolume::new(geometry.clone(), vec![0, 1, 1, 1])?;
/// let mut volume = Volume::new(geometry, 1, vec![-1000.0, 10.0, 20.0, 30.0])?;
///
/// // CT: once, of the training set
/// let intensities = Intensities::Ct(ForegroundStatistics::of([(&volume, &labels)], None)?);
/// intensities.apply(&mut volume)?;
/// // air is clipped to the least of the foreground
/// assert!((volume.as_slice()[0] - volume.as_slice()[1]).abs() < 0.02);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Intensities {
    /// For CT, whose numbers mean the same in every case: clipped to the percentiles 0.5 and 99.5 of the training set's
    /// foreground, then its mean is subtracted and the rest divided by its standard deviation. One entry a channel.
    Ct(Vec<ForegroundStatistics>),
    /// For MR and others without a fixed scale: each channel of each case gets a mean of 0 and a standard deviation of 1.
    ZScore {
        /// Only voxels other than 0 count, and the others stay 0: for images whose background was removed.
        nonzero: bool,
    },
}

/// Intensities of the foreground of a training set, of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ForegroundStatistics {
    /// Percentile 0.5.
    pub lower: f32,
    /// Percentile 99.5.
    pub upper: f32,
    /// Mean, before clipping.
    pub mean: f32,
    /// Population standard deviation, before clipping.
    pub std: f32,
}

/// Deviations below this are taken for it, as in nnU-Net.
const LEAST_STD: f32 = 1e-8;

impl ForegroundStatistics {
    /// Most voxels that are kept of a case: of more, every n-th, which is a function of the case alone.
    pub const VOXELS_A_CASE: usize = 100_000;

    /// The statistics of each channel over the foreground, the labels other than 0 and `ignore_index`, of the cases of a training
    /// set.
    ///
    /// All of a case's foreground counts, up to [`VOXELS_A_CASE`](Self::VOXELS_A_CASE) voxels. (nnU-Net draws 10,000 a case at
    /// random.) Percentiles are linear between neighbors, as NumPy's.
    ///
    /// # Errors
    /// If an image and its labels differ in size, images in channels, or there is no foreground at all.
    pub fn of<'a>(
        cases: impl IntoIterator<Item = (&'a Volume, &'a LabelVolume)>,
        ignore_index: Option<u32>,
    ) -> Result<Vec<Self>> {
        let mut channels: Vec<Vec<f32>> = Vec::new();
        for (volume, labels) in cases {
            let (size, label_size) = (volume.geometry().size(), labels.geometry().size());
            if size != label_size {
                let reason = format!("an image of {size:?} voxels has labels of {label_size:?}");
                return Err(DataError::option("cases", reason));
            }
            if channels.is_empty() {
                channels = vec![Vec::new(); volume.channels()];
            }
            check_channels(volume, channels.len())?;
            let is_foreground = |label: &u32| *label != 0 && Some(*label) != ignore_index;
            let count = labels.as_slice().iter().filter(|label| is_foreground(label)).count();
            let step = count.div_ceil(Self::VOXELS_A_CASE).max(1);
            for (channel, kept) in channels.iter_mut().enumerate() {
                let values = volume.channel(channel).iter().zip(labels.as_slice());
                kept.extend(values.filter(|(_, label)| is_foreground(label)).map(|(value, _)| *value).step_by(step));
            }
        }
        if channels.first().is_none_or(Vec::is_empty) {
            return Err(DataError::Empty { what: "the foreground of the cases".into() });
        }
        Ok(channels.into_iter().map(Self::of_values).collect())
    }

    fn of_values(mut values: Vec<f32>) -> Self {
        values.sort_unstable_by(f32::total_cmp);
        let (mean, std) = moments(values.iter());
        Self { lower: quantile(&values, 0.005) as f32, upper: quantile(&values, 0.995) as f32, mean, std }
    }
}

impl Intensities {
    /// Changes the values of a volume.
    ///
    /// # Errors
    /// If the statistics are of another number of channels, or out of order or not finite.
    pub fn apply(&self, volume: &mut Volume) -> Result<()> {
        let voxels = volume.geometry().voxels();
        match self {
            Self::Ct(channels) => {
                check_channels(volume, channels.len())?;
                for of in channels {
                    let all = [of.lower, of.upper, of.mean, of.std];
                    if all.iter().any(|value| !value.is_finite()) || of.lower > of.upper || of.std < 0.0 {
                        return Err(DataError::option("intensities", format!("{of:?} are no statistics of values")));
                    }
                }
                for (values, of) in volume.as_mut_slice().chunks_exact_mut(voxels).zip(channels) {
                    let std = of.std.max(LEAST_STD);
                    values.iter_mut().for_each(|value| *value = (value.clamp(of.lower, of.upper) - of.mean) / std);
                }
            }
            Self::ZScore { nonzero } => {
                let counts = |value: &&f32| !nonzero || **value != 0.0;
                for values in volume.as_mut_slice().chunks_exact_mut(voxels) {
                    let (mean, std) = moments(values.iter().filter(counts));
                    let std = std.max(LEAST_STD);
                    for value in values.iter_mut().filter(|value| !nonzero || **value != 0.0) {
                        *value = (*value - mean) / std;
                    }
                }
            }
        }
        Ok(())
    }
}

fn check_channels(volume: &Volume, expected: usize) -> Result<()> {
    match volume.channels() {
        actual if actual == expected => Ok(()),
        actual => Err(DataError::Channels { what: "intensities", expected, actual }),
    }
}

/// Mean and population standard deviation, in two passes of `f64`.
fn moments<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> (f32, f32) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().map(|value| f64::from(*value)).sum::<f64>() / count;
    let squares = values.map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>();
    (mean as f32, (squares / count).sqrt() as f32)
}
