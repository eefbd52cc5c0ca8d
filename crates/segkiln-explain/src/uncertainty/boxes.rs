//! Conformal margins of boxes.

use segkiln_core::{BBox, Detection, Instances};

use crate::{ExplainError, Result};

/// Boxes that hold the true ones with a guarantee: split conformal prediction with the largest of the four sides' errors as the score, after
/// de Grancey et al., SAFECOMP workshop 2022, <https://doi.org/10.1007/978-3-031-14862-0_9>.
///
/// At least the share `1 - alpha` of new objects like the calibration's (exchangeable) that a detector finds lies within its box with the
/// margin. Objects that it does not find are not covered: [`RiskControl`](super::RiskControl) with the share of missed objects is for those.
///
/// ```
/// use segkiln_core::BBox;
/// use segkiln_explain::uncertainty::BoxMargin;
///
/// let found = BBox::new(10.0, 10.0, 20.0, 30.0)?;
/// let truth = |more: f64| BBox::new(10.0 - more, 10.0, 20.0, 30.0 + more / 2.0);
/// let pairs: Vec<(BBox, BBox)> = (0..19).map(|index| Ok((found, truth(f64::from(index))?))).collect::<Result<_, segkiln_core::CoreError>>()?;
/// let margin = BoxMargin::fit(&pairs, 0.1, false)?;
/// assert_eq!(margin.margin, 17.0);
/// assert_eq!(margin.extended(&found)?.xyxy(), [-7.0, -7.0, 37.0, 47.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxMargin {
    /// Distance by which each side is moved outwards, in pixels or in shares of the found box's width and height. Below 0 the found boxes are
    /// too large.
    pub margin: f64,
    /// True if the margin is in shares, false if it is in pixels.
    pub is_relative: bool,
    /// Share of boxes that need not hold the true ones.
    pub alpha: f64,
    /// Number of calibration objects.
    pub objects: usize,
}

impl BoxMargin {
    /// Finds the margin from found boxes and the true boxes of the same objects, which the network did not learn from.
    ///
    /// # Errors
    /// [`ExplainError::Calibration`] if there are too few for `alpha`.
    pub fn fit(pairs: &[(BBox, BBox)], alpha: f64, is_relative: bool) -> Result<Self> {
        if !(alpha > 0.0 && alpha < 1.0) {
            let reason = format!("must be between 0 and 1, is {alpha}");
            return Err(ExplainError::Option { option: "alpha", reason });
        }
        let objects = pairs.len();
        // The ⌈(n + 1)(1 - α)⌉-th smallest score, which needs n to be as large.
        let rank = ((objects as f64 + 1.0) * (1.0 - alpha) - 1e-9).ceil() as usize;
        if rank > objects || objects == 0 {
            let least = (1.0 / alpha - 1.0).ceil().max(1.0) as usize;
            return Err(ExplainError::Calibration { images: objects, alpha, least });
        }
        let mut scores: Vec<f64> = pairs.iter().map(|(found, truth)| score(found, truth, is_relative)).collect();
        scores.sort_by(f64::total_cmp);
        Ok(Self { margin: scores[rank.max(1) - 1], is_relative, alpha, objects })
    }

    /// The box with the margin; its center, where a margin below 0 leaves nothing.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if the sides are not finite.
    pub fn extended(&self, found: &BBox) -> Result<BBox> {
        let [x1, y1, x2, y2] = found.xyxy();
        let [width, height] = if self.is_relative { [found.width(), found.height()] } else { [1.0; 2] };
        let side = |low: f64, high: f64, unit: f64| {
            let by = (self.margin * unit).max((low - high) / 2.0);
            [low - by, high + by]
        };
        let ([x1, x2], [y1, y2]) = (side(x1, x2, width), side(y1, y2, height));
        BBox::new(x1, y1, x2, y2).map_err(|error| ExplainError::Option { option: "margin", reason: error.to_string() })
    }

    /// Share of the true boxes that lie within the extended ones.
    ///
    /// # Errors
    /// As [`extended`](Self::extended).
    pub fn coverage(&self, pairs: &[(BBox, BBox)]) -> Result<f64> {
        let mut held = 0;
        for (found, truth) in pairs {
            let ([a, b, c, d], [x1, y1, x2, y2]) = (self.extended(found)?.xyxy(), truth.xyxy());
            // The calibration's own boxes lie on the sides, up to rounding.
            let near = 1e-9 * (1.0 + a.abs().max(b.abs()).max(c.abs()).max(d.abs()));
            held += usize::from(a <= x1 + near && b <= y1 + near && x2 <= c + near && y2 <= d + near);
        }
        Ok(held as f64 / pairs.len().max(1) as f64)
    }
}

/// Largest distance by which the true box exceeds the found one at a side.
fn score(found: &BBox, truth: &BBox, is_relative: bool) -> f64 {
    let ([a, b, c, d], [x1, y1, x2, y2]) = (found.xyxy(), truth.xyxy());
    let [width, height] = if is_relative { [found.width(), found.height()] } else { [1.0; 2] };
    // A box without an area has no shares.
    let share = |distance: f64, unit: f64| if unit > 0.0 { distance / unit } else { f64::INFINITY };
    [share(a - x1, width), share(b - y1, height), share(x2 - c, width), share(y2 - d, height)]
        .into_iter()
        .fold(f64::NEG_INFINITY, f64::max)
}

/// The found box and the true box of each object that a detector finds: the best scores first, each with the object of its class that it
/// meets best, if the IoU is at least `iou` and no better score has it already.
pub fn matched_boxes(found: &[Detection], truth: &Instances, iou: f64) -> Vec<(BBox, BBox)> {
    let mut found: Vec<&Detection> = found.iter().collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut left: Vec<_> = truth.as_slice().iter().filter(|object| !object.crowd).collect();
    let mut pairs = Vec::new();
    for detection in found {
        let same = left.iter().enumerate().filter(|(_, object)| object.label() == detection.label());
        let overlaps = same.map(|(index, object)| (index, detection.bbox.iou(&object.bbox)));
        let best = overlaps.filter(|(_, overlap)| *overlap >= iou).max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((index, _)) = best {
            pairs.push((detection.bbox, left.remove(index).bbox));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use segkiln_core::Instance;

    use super::*;

    /// Boxes whose sides are off by errors that are no multiples of each other.
    fn pairs(from: usize, count: usize) -> Vec<(BBox, BBox)> {
        let error = |index: usize, side: usize| ((index * 37 + side * 101) as f64 * 0.618_034).fract() * 8.0 - 4.0;
        let pair = |index: usize| {
            let [x, y] = [(index % 17) as f64, (index % 23) as f64];
            let size = 12.0 + (index % 7) as f64;
            let truth = BBox::new(x, y, x + size, y + size).unwrap();
            let [a, b, c, d] = [0, 1, 2, 3].map(|side| error(index, side));
            (BBox::new(x + a, y + b, x + size + c, y + size + d).unwrap(), truth)
        };
        (from..from + count).map(pair).collect()
    }

    #[test]
    fn coverage_holds_on_other_boxes() {
        for (alpha, is_relative) in [(0.1, false), (0.2, false), (0.1, true)] {
            let margin = BoxMargin::fit(&pairs(0, 400), alpha, is_relative).unwrap();
            let own = margin.coverage(&pairs(0, 400)).unwrap();
            assert!(own >= 1.0 - alpha && own < 1.0 - alpha + 0.02, "{own} of {alpha}");
            let other = margin.coverage(&pairs(400, 2000)).unwrap();
            assert!((other - (1.0 - alpha)).abs() < 0.04, "{other} of {alpha}");
        }
    }

    #[test]
    fn too_few_boxes_are_refused() {
        assert!(BoxMargin::fit(&pairs(0, 9), 0.1, false).is_ok());
        let error = BoxMargin::fit(&pairs(0, 8), 0.1, false).unwrap_err();
        assert!(matches!(error, ExplainError::Calibration { images: 8, least: 9, .. }), "{error}");
        assert!(BoxMargin::fit(&[], 0.1, false).is_err() && BoxMargin::fit(&pairs(0, 9), 0.0, false).is_err());
    }

    #[test]
    fn boxes_are_matched_once_and_by_class() {
        let bbox = |x: f64| BBox::new(x, 0.0, x + 10.0, 10.0).unwrap();
        let object = |x: f64, class: u32| Instance::new(bbox(x), class).unwrap();
        let truth = Instances::new(64, 64, vec![object(0.0, 1), object(30.0, 2)]).unwrap();
        let found = |x: f64, class: u32, score: f32| Detection::new(bbox(x), class, score).unwrap();
        let found = [found(2.0, 1, 0.5), found(1.0, 1, 0.9), found(30.0, 1, 0.8), found(31.0, 2, 0.3)];
        let pairs = matched_boxes(&found, &truth, 0.5);
        assert_eq!(pairs, [(bbox(1.0), bbox(0.0)), (bbox(31.0), bbox(30.0))]);
    }
}
