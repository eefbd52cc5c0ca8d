use segkiln_core::LabelMap;

use super::confusion::same_size;
use super::image_mean::ImageMean;
use crate::distance::distance_transform;
use crate::{MetricsError, Result};

/// Distances between the contours of one label in a predicted and a target map, or volume.
///
/// The contour is the mask minus its erosion by a cross: the label's pixels with a pixel of another label, or the outside of the
/// image, above, below, left or right; in a volume also before or behind. Each contour pixel has its exact Euclidean distance to
/// the nearest pixel of the other contour. All this, and what follows from it, is as in MONAI.
///
/// If neither map has the label, the figures are `None`. If only one has it, distances are infinite and the surface Dice is 0.
///
/// ```
/// use segkiln_core::LabelMap;
/// use segkiln_metrics::metrics::SurfaceDistances;
///
/// let target = LabelMap::new(5, 1, vec![0, 1, 1, 0, 0])?;
/// let predicted = LabelMap::new(5, 1, vec![0, 0, 1, 1, 1])?;
/// let distances = SurfaceDistances::new(&predicted, &target, 1, [1.0, 0.5])?;
/// assert_eq!(distances.hausdorff(), Some(1.0));
/// assert_eq!(distances.surface_dice(0.5), Some(0.8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SurfaceDistances {
    /// Distances of the predicted contour's pixels to the target's contour, ascending.
    to_target: Vec<f64>,
    /// Distances of the target contour's pixels to the predicted contour, ascending.
    to_predicted: Vec<f64>,
}

impl SurfaceDistances {
    /// Computes the distances in the unit of `spacing`, which is the size of a pixel, height before width.
    ///
    /// # Errors
    /// Maps of different size, or a spacing that is not above zero.
    pub fn new(predicted: &LabelMap, target: &LabelMap, label: u32, spacing: [f64; 2]) -> Result<Self> {
        same_size(predicted, target)?;
        check_spacing(spacing)?;
        let size = [1, target.height() as usize, target.width() as usize];
        Ok(Self::between([predicted.as_slice(), target.as_slice()], size, label, [1.0, spacing[0], spacing[1]], false))
    }

    /// Computes the distances between contours in volumes of `size` (depth, height, width), in the unit of `spacing`, the size of
    /// a voxel in the same order.
    ///
    /// # Errors
    /// Volumes of another number of labels, or a spacing that is not above zero.
    pub fn of_volumes(
        predicted: &[u32],
        target: &[u32],
        size: [usize; 3],
        label: u32,
        spacing: [f64; 3],
    ) -> Result<Self> {
        for labels in [predicted.len(), target.len()] {
            if size.iter().try_fold(1usize, |product, side| product.checked_mul(*side)) != Some(labels) {
                return Err(MetricsError::Voxels { size, labels });
            }
        }
        check_spacing(spacing)?;
        Ok(Self::between([predicted, target], size, label, spacing, true))
    }

    fn between(maps: [&[u32]; 2], size: [usize; 3], label: u32, spacing: [f64; 3], is_volume: bool) -> Self {
        let Some(window) = Window::of_label(label, maps, size) else {
            return Self { to_target: Vec::new(), to_predicted: Vec::new() };
        };
        let [predicted, target] = maps.map(|map| window.contour(map, size, label, is_volume));
        let distances = |from: &[bool], to: &[bool]| {
            let distances = distance_transform(to, window.size(), spacing);
            let mut distances: Vec<f64> =
                distances.into_iter().zip(from).filter(|(_, on)| **on).map(|(d, _)| d).collect();
            distances.sort_unstable_by(f64::total_cmp);
            distances
        };
        Self { to_target: distances(&predicted, &target), to_predicted: distances(&target, &predicted) }
    }

    /// Hausdorff distance: the greatest of all distances.
    pub fn hausdorff(&self) -> Option<f64> {
        self.hausdorff_percentile(100.0)
    }

    /// The greater of the two directions' `percent`-th percentiles (0 to 100, linear between neighbors as in NumPy), 95 for
    /// HD95.
    pub fn hausdorff_percentile(&self, percent: f64) -> Option<f64> {
        self.figure(|to_target, to_predicted| percentile(to_target, percent).max(percentile(to_predicted, percent)))
    }

    /// Average surface distance: the mean over the predicted contour.
    pub fn average(&self) -> Option<f64> {
        self.figure(|to_target, _| to_target.iter().sum::<f64>() / to_target.len() as f64)
    }

    /// Average symmetric surface distance: the mean over both contours together.
    pub fn average_symmetric(&self) -> Option<f64> {
        self.figure(|to_target, to_predicted| {
            let sum = to_target.iter().chain(to_predicted).sum::<f64>();
            sum / (to_target.len() + to_predicted.len()) as f64
        })
    }

    /// Surface Dice (Nikolov et al. 2018): the share of both contours that lies within `tolerance` of the other, in pixels
    /// of contour.
    pub fn surface_dice(&self, tolerance: f64) -> Option<f64> {
        let all = self.to_target.len() + self.to_predicted.len();
        let within = |distances: &[f64]| distances.partition_point(|distance| *distance <= tolerance);
        (all > 0).then(|| (within(&self.to_target) + within(&self.to_predicted)) as f64 / all as f64)
    }

    fn figure(&self, of: impl Fn(&[f64], &[f64]) -> f64) -> Option<f64> {
        match (self.to_target.is_empty(), self.to_predicted.is_empty()) {
            (true, true) => None,
            (false, false) => Some(of(&self.to_target, &self.to_predicted)),
            _ => Some(f64::INFINITY),
        }
    }
}

fn check_spacing<const N: usize>(spacing: [f64; N]) -> Result<()> {
    match spacing.into_iter().find(|size| !(size.is_finite() && *size > 0.0)) {
        Some(value) => Err(MetricsError::OutOfRange { name: "spacing", expected: "finite and above zero", value }),
        None => Ok(()),
    }
}

/// Percentile of ascending values, linear between neighbors as in NumPy.
pub(super) fn percentile(values: &[f64], percent: f64) -> f64 {
    let place = percent.clamp(0.0, 100.0) / 100.0 * (values.len() - 1) as f64;
    let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
    // Equal values may be infinite, whose difference is not a number.
    if below == above { below } else { below + (above - below) * place.fract() }
}

/// Bounding box of a label: first and last index along depth, height and width.
struct Window([(usize, usize); 3]);

impl Window {
    fn of_label(label: u32, maps: [&[u32]; 2], [_, height, width]: [usize; 3]) -> Option<Self> {
        let mut window: Option<[(usize, usize); 3]> = None;
        for map in maps {
            for (index, row) in map.chunks_exact(width.max(1)).enumerate() {
                let (Some(first), Some(last)) =
                    (row.iter().position(|l| *l == label), row.iter().rposition(|l| *l == label))
                else {
                    continue;
                };
                let (z, y) = (index / height, index % height);
                let found = [(z, z), (y, y), (first, last)];
                let window = window.get_or_insert(found);
                for (side, (first, last)) in window.iter_mut().zip(found) {
                    *side = (side.0.min(first), side.1.max(last));
                }
            }
        }
        window.map(Self)
    }

    /// Depth, height and width.
    fn size(&self) -> [usize; 3] {
        self.0.map(|(first, last)| last - first + 1)
    }

    /// The contour of the label inside the window.
    fn contour(&self, map: &[u32], [depth, height, width]: [usize; 3], label: u32, is_volume: bool) -> Vec<bool> {
        // Before index 0 wraps to an index that no map has.
        let inside = |z: usize, y: usize, x: usize| {
            z < depth && y < height && x < width && map[(z * height + y) * width + x] == label
        };
        let enclosed = |z: usize, y: usize, x: usize| {
            let in_plane = inside(z, y, x.wrapping_sub(1))
                && inside(z, y, x + 1)
                && inside(z, y.wrapping_sub(1), x)
                && inside(z, y + 1, x);
            in_plane && (!is_volume || inside(z.wrapping_sub(1), y, x) && inside(z + 1, y, x))
        };
        let [depths, rows, columns] = self.0.map(|(first, last)| first..=last);
        let mut contour = Vec::with_capacity(self.size().iter().product());
        for z in depths {
            for y in rows.clone() {
                contour.extend(columns.clone().map(|x| inside(z, y, x) && !enclosed(z, y, x)));
            }
        }
        contour
    }
}

/// Mean surface distances of one label over the images of an epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct SurfaceMetrics {
    label: u32,
    spacing: [f64; 2],
    tolerance: f64,
    /// Hausdorff distance.
    pub hausdorff: ImageMean,
    /// 95th percentile of the Hausdorff distance.
    pub hausdorff_95: ImageMean,
    /// Average surface distance.
    pub average: ImageMean,
    /// Average symmetric surface distance.
    pub average_symmetric: ImageMean,
    /// Surface Dice at the tolerance.
    pub surface_dice: ImageMean,
}

impl SurfaceMetrics {
    /// Creates the metric for one label, with the size of a pixel (height before width) and the tolerance of the surface Dice in its unit.
    pub fn new(label: u32, spacing: [f64; 2], tolerance: f64) -> Self {
        let none = ImageMean::default();
        Self {
            label,
            spacing,
            tolerance,
            hausdorff: none,
            hausdorff_95: none,
            average: none,
            average_symmetric: none,
            surface_dice: none,
        }
    }

    /// Adds an image.
    ///
    /// # Errors
    /// As [`SurfaceDistances::new`]; nothing is added then.
    pub fn update(&mut self, predicted: &LabelMap, target: &LabelMap) -> Result<()> {
        let distances = SurfaceDistances::new(predicted, target, self.label, self.spacing)?;
        self.hausdorff.push(distances.hausdorff());
        self.hausdorff_95.push(distances.hausdorff_percentile(95.0));
        self.average.push(distances.average());
        self.average_symmetric.push(distances.average_symmetric());
        self.surface_dice.push(distances.surface_dice(self.tolerance));
        Ok(())
    }

    /// Adds the images of another metric.
    ///
    /// # Errors
    /// Another label, spacing or tolerance.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.label, self.spacing, self.tolerance) != (other.label, other.spacing, other.tolerance) {
            return Err(MetricsError::Unlike("surface metrics"));
        }
        self.hausdorff.merge(&other.hausdorff);
        self.hausdorff_95.merge(&other.hausdorff_95);
        self.average.merge(&other.average);
        self.average_symmetric.merge(&other.average_symmetric);
        self.surface_dice.merge(&other.surface_dice);
        Ok(())
    }

    /// Removes all images.
    pub fn reset(&mut self) {
        *self = Self::new(self.label, self.spacing, self.tolerance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_masks() {
        let (empty, full) = (LabelMap::filled(3, 2, 0), LabelMap::filled(3, 2, 1));
        let none = SurfaceDistances::new(&empty, &empty, 1, [1.0; 2]).unwrap();
        assert_eq!((none.hausdorff(), none.average(), none.surface_dice(1.0)), (None, None, None));
        for (predicted, target) in [(&empty, &full), (&full, &empty)] {
            let one = SurfaceDistances::new(predicted, target, 1, [1.0; 2]).unwrap();
            assert_eq!(one.hausdorff_percentile(95.0), Some(f64::INFINITY));
            assert_eq!(one.average_symmetric(), Some(f64::INFINITY));
            assert_eq!(one.surface_dice(1.0), Some(0.0));
        }
        let equal = SurfaceDistances::new(&full, &full, 1, [1.0; 2]).unwrap();
        assert_eq!((equal.hausdorff(), equal.surface_dice(0.0)), (Some(0.0), Some(1.0)));
        assert!(SurfaceDistances::new(&full, &LabelMap::filled(2, 3, 1), 1, [1.0; 2]).is_err());
        assert!(SurfaceDistances::new(&full, &full, 1, [0.0, 1.0]).is_err());
        let nothing = LabelMap::filled(0, 0, 0);
        assert_eq!(SurfaceDistances::new(&nothing, &nothing, 0, [1.0; 2]).unwrap().hausdorff(), None);
    }

    #[test]
    fn images_are_averaged() {
        let target = LabelMap::new(4, 1, vec![1, 0, 0, 0]).unwrap();
        let far = LabelMap::new(4, 1, vec![0, 0, 0, 1]).unwrap();
        let mut metrics = SurfaceMetrics::new(1, [1.0; 2], 1.0);
        metrics.update(&target, &target).unwrap();
        let mut other = SurfaceMetrics::new(1, [1.0; 2], 1.0);
        other.update(&far, &target).unwrap();
        metrics.merge(&other).unwrap();
        assert_eq!(metrics.hausdorff.mean(), Some(1.5));
        assert_eq!(metrics.surface_dice.mean(), Some(0.5));
        assert!(metrics.merge(&SurfaceMetrics::new(2, [1.0; 2], 1.0)).is_err());
        metrics.reset();
        assert_eq!(metrics.hausdorff.mean(), None);
    }
}
