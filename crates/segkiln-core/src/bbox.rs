use serde::{Deserialize, Serialize};

use crate::{CoreError, Result};

/// Largest magnitude of a coordinate: areas of such boxes and of their hulls are finite.
const MOST: f64 = 1e9;
/// Keeps the quotients of [`BBox::diou`] and [`BBox::ciou`] finite, as torchvision does.
const EPSILON: f64 = 1e-7;

/// An axis-aligned box in pixels, from its left upper corner `(x1, y1)` to its right lower one `(x2, y2)`.
///
/// Coordinates are finite (within ±10⁹), and width and height are positive. Pixel `(i, j)` covers the box from `(i, j)` to
/// `(i + 1, j + 1)`, as in COCO: no coordinate is a pixel's index plus one half, and no width has a pixel added.
///
/// ```
/// use segkiln_core::BBox;
///
/// let a = BBox::new(0.0, 0.0, 4.0, 2.0)?;
/// let b = BBox::from_xywh([2.0, 0.0, 4.0, 2.0])?;
/// assert_eq!(a.iou(&b), 4.0 / 12.0);
/// assert!(BBox::new(3.0, 0.0, 3.0, 2.0).is_err());
/// # Ok::<(), segkiln_core::CoreError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; 4]", into = "[f64; 4]")]
pub struct BBox {
    x1: f64,
    y1: f64,
    x2: f64,
    y2: f64,
}

impl BBox {
    /// Creates a box from its corners.
    ///
    /// # Errors
    /// [`CoreError::InvalidBox`] if a coordinate is not a number within ±10⁹, or width or height is not positive.
    pub fn new(x1: f64, y1: f64, x2: f64, y2: f64) -> Result<Self> {
        let valid = [x1, y1, x2, y2].iter().all(|value| value.abs() <= MOST) && x2 > x1 && y2 > y1;
        if valid { Ok(Self { x1, y1, x2, y2 }) } else { Err(CoreError::InvalidBox { x1, y1, x2, y2 }) }
    }

    /// Creates a box from its left upper corner, width and height: COCO's form.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_xywh([x, y, width, height]: [f64; 4]) -> Result<Self> {
        Self::new(x, y, x + width, y + height)
    }

    /// Creates a box from its center, width and height.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_cxcywh([x, y, width, height]: [f64; 4]) -> Result<Self> {
        Self::new(x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0)
    }

    /// `[x1, y1, x2, y2]`.
    pub fn xyxy(&self) -> [f64; 4] {
        [self.x1, self.y1, self.x2, self.y2]
    }

    /// Left upper corner, width and height.
    pub fn xywh(&self) -> [f64; 4] {
        [self.x1, self.y1, self.width(), self.height()]
    }

    /// Center, width and height.
    pub fn cxcywh(&self) -> [f64; 4] {
        let [x, y] = self.center();
        [x, y, self.width(), self.height()]
    }

    /// Width in pixels.
    pub fn width(&self) -> f64 {
        self.x2 - self.x1
    }

    /// Height in pixels.
    pub fn height(&self) -> f64 {
        self.y2 - self.y1
    }

    /// Area in pixels.
    pub fn area(&self) -> f64 {
        self.width() * self.height()
    }

    fn center(&self) -> [f64; 2] {
        [(self.x1 + self.x2) / 2.0, (self.y1 + self.y2) / 2.0]
    }

    /// Clips to an image; `None` if nothing of positive area remains.
    pub fn clip(&self, width: u32, height: u32) -> Option<Self> {
        let [width, height] = [f64::from(width), f64::from(height)];
        let [x1, x2] = [self.x1, self.x2].map(|x| x.clamp(0.0, width));
        let [y1, y2] = [self.y1, self.y2].map(|y| y.clamp(0.0, height));
        Self::new(x1, y1, x2, y2).ok()
    }

    /// Areas of the intersection and of the union of two boxes.
    fn intersection_and_union(&self, other: &Self) -> [f64; 2] {
        let width = (self.x2.min(other.x2) - self.x1.max(other.x1)).max(0.0);
        let height = (self.y2.min(other.y2) - self.y1.max(other.y1)).max(0.0);
        let intersection = width * height;
        [intersection, self.area() + other.area() - intersection]
    }

    /// Width and height of the smallest box that contains both boxes.
    fn hull(&self, other: &Self) -> [f64; 2] {
        [self.x2.max(other.x2) - self.x1.min(other.x1), self.y2.max(other.y2) - self.y1.min(other.y1)]
    }

    /// Intersection over union, from 0 to 1.
    pub fn iou(&self, other: &Self) -> f64 {
        let [intersection, union] = self.intersection_and_union(other);
        intersection / union
    }

    /// Generalized intersection over union, from -1 to 1: Rezatofighi et al., CVPR 2019,
    /// <https://arxiv.org/abs/1902.09630>.
    pub fn giou(&self, other: &Self) -> f64 {
        let ([intersection, union], [width, height]) = (self.intersection_and_union(other), self.hull(other));
        let hull = width * height;
        intersection / union - (hull - union) / hull
    }

    /// Distance intersection over union, from -1 to 1: Zheng et al., AAAI 2020, <https://arxiv.org/abs/1911.08287>.
    pub fn diou(&self, other: &Self) -> f64 {
        let [width, height] = self.hull(other);
        let ([ax, ay], [bx, by]) = (self.center(), other.center());
        let distance = (ax - bx).powi(2) + (ay - by).powi(2);
        self.iou(other) - distance / (width.powi(2) + height.powi(2) + EPSILON)
    }

    /// Complete intersection over union: [`diou`](Self::diou) minus a penalty for different aspect ratios; from the same paper.
    pub fn ciou(&self, other: &Self) -> f64 {
        let angle = |bbox: &Self| (bbox.width() / bbox.height()).atan();
        let difference = 4.0 / std::f64::consts::PI.powi(2) * (angle(other) - angle(self)).powi(2);
        let weight = difference / (1.0 - self.iou(other) + difference + EPSILON);
        self.diou(other) - weight * difference
    }
}

impl TryFrom<[f64; 4]> for BBox {
    type Error = CoreError;

    /// Creates a box from `[x1, y1, x2, y2]`.
    fn try_from([x1, y1, x2, y2]: [f64; 4]) -> Result<Self> {
        Self::new(x1, y1, x2, y2)
    }
}

impl From<BBox> for [f64; 4] {
    fn from(bbox: BBox) -> Self {
        bbox.xyxy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_round_trip() {
        let bbox = BBox::new(-1.5, 2.0, 3.0, 8.0).unwrap();
        assert_eq!(BBox::from_xywh(bbox.xywh()).unwrap(), bbox);
        assert_eq!(BBox::from_cxcywh(bbox.cxcywh()).unwrap(), bbox);
        assert_eq!(bbox.clip(2, 20).map(|bbox| bbox.xyxy()), Some([0.0, 2.0, 2.0, 8.0]));
        assert_eq!(bbox.clip(10, 2), None);
    }

    #[test]
    fn invalid_boxes_are_rejected() {
        for [x1, y1, x2, y2] in [
            [0.0, 0.0, 0.0, 1.0],
            [0.0, 2.0, 1.0, 1.0],
            [f64::NAN, 0.0, 1.0, 1.0],
            [0.0, 0.0, f64::INFINITY, 1.0],
            [-f64::MAX, 0.0, f64::MAX, 1.0],
        ] {
            assert!(matches!(BBox::new(x1, y1, x2, y2), Err(CoreError::InvalidBox { .. })));
        }
    }
}
