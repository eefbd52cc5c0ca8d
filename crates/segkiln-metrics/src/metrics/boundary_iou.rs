use segkiln_core::LabelMap;

use super::confusion::same_size;
use crate::{MetricsError, Result};

/// Boundary IoU (Cheng et al. 2021) of one label: the intersection over union of the inner boundary regions, which are the
/// pixels of a mask within a distance of its edge. Exact over all images shown: intersections and unions are added up.
///
/// The distance is `ratio` times the image's diagonal, rounded, at least 1 pixel, and measured along the longer axis (erosion
/// by squares); outside the image is outside the mask. This is the paper's code.
///
/// ```
/// use segkiln_core::LabelMap;
/// use segkiln_metrics::metrics::BoundaryIou;
///
/// let map = LabelMap::filled(8, 8, 1);
/// let mut metric = BoundaryIou::new(1, BoundaryIou::RATIO)?;
/// metric.update(&map, &map)?;
/// assert_eq!(metric.value(), Some(1.0));
/// # Ok::<(), segkiln_metrics::MetricsError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BoundaryIou {
    label: u32,
    ratio: f64,
    intersection: u64,
    union: u64,
}

impl BoundaryIou {
    /// The paper's ratio of boundary width to diagonal.
    pub const RATIO: f64 = 0.02;

    /// Creates the metric for one label.
    ///
    /// # Errors
    /// A ratio that is negative or not finite.
    pub fn new(label: u32, ratio: f64) -> Result<Self> {
        if ratio.is_finite() && ratio >= 0.0 {
            Ok(Self { label, ratio, intersection: 0, union: 0 })
        } else {
            Err(MetricsError::OutOfRange { name: "ratio", expected: "finite and not negative", value: ratio })
        }
    }

    /// Adds an image.
    ///
    /// # Errors
    /// Maps of different size.
    pub fn update(&mut self, predicted: &LabelMap, target: &LabelMap) -> Result<()> {
        same_size(predicted, target)?;
        let (width, height) = (f64::from(target.width()), f64::from(target.height()));
        let distance = ((self.ratio * width.hypot(height)).round_ties_even() as usize).max(1);
        let (predicted, target) = (boundary(predicted, self.label, distance), boundary(target, self.label, distance));
        for (p, t) in predicted.into_iter().zip(target) {
            self.intersection += u64::from(p && t);
            self.union += u64::from(p || t);
        }
        Ok(())
    }

    /// Boundary IoU, or `None` if the label was neither predicted nor a target.
    pub fn value(&self) -> Option<f64> {
        (self.union > 0).then(|| self.intersection as f64 / self.union as f64)
    }

    /// Adds the images of another metric.
    ///
    /// # Errors
    /// Another label or ratio.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if (self.label, self.ratio) != (other.label, other.ratio) {
            return Err(MetricsError::Unlike("boundary IoUs"));
        }
        self.intersection += other.intersection;
        self.union += other.union;
        Ok(())
    }

    /// Removes all images.
    pub fn reset(&mut self) {
        (self.intersection, self.union) = (0, 0);
    }
}

/// Returns the pixels of a label that an erosion by a square of side 2·distance + 1 removes.
fn boundary(map: &LabelMap, label: u32, distance: usize) -> Vec<bool> {
    let (width, height) = (map.width() as usize, map.height() as usize);
    let mask: Vec<bool> = map.as_slice().iter().map(|l| *l == label).collect();
    // A square is a row times a column, so rows are eroded first and columns then.
    let mut eroded = mask.clone();
    for y in 0..height {
        erode_line(&mut eroded[y * width..][..width], 1, distance);
    }
    for x in 0..width {
        erode_line(&mut eroded[x..], width, distance);
    }
    mask.into_iter().zip(eroded).map(|(mask, eroded)| mask && !eroded).collect()
}

/// Clears the pixels within `distance` of a clear pixel or of either end of a line whose pixels are `stride` apart.
fn erode_line(line: &mut [bool], stride: usize, distance: usize) {
    let length = line.len().div_ceil(stride);
    let mut run_start = 0;
    for i in 0..=length {
        if i < length && line[i * stride] {
            continue;
        }
        // The run of set pixels before `i` keeps its middle.
        let run = i - run_start;
        for k in 0..distance.min(run) {
            line[(run_start + k) * stride] = false;
            line[(i - 1 - k) * stride] = false;
        }
        run_start = i + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_have_the_given_width() {
        let map = LabelMap::filled(5, 6, 3);
        let rows: Vec<String> = boundary(&map, 3, 2)
            .chunks(5)
            .map(|row| row.iter().map(|on| if *on { '#' } else { '.' }).collect())
            .collect();
        assert_eq!(rows, ["#####", "#####", "##.##", "##.##", "#####", "#####"]);
        assert!(boundary(&map, 3, 9).iter().all(|on| *on));
        assert!(boundary(&map, 2, 1).iter().all(|on| !on));
    }

    #[test]
    fn no_label_has_no_value() {
        let mut metric = BoundaryIou::new(1, BoundaryIou::RATIO).unwrap();
        metric.update(&LabelMap::filled(2, 2, 0), &LabelMap::filled(2, 2, 0)).unwrap();
        assert_eq!(metric.value(), None);
        assert!(metric.update(&LabelMap::filled(2, 2, 0), &LabelMap::filled(1, 4, 0)).is_err());
        assert!(BoundaryIou::new(1, f64::NAN).is_err());
    }
}
