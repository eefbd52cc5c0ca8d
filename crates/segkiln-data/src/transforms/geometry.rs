//! Borders, and cropping windows out of samples: shared by crops, pads and warps.

use segkiln_core::{BBox, LabelMap, Size};
use serde::{Deserialize, Serialize};

use super::Bounds;
use crate::{Image, Result, Sample};

/// Fill of the pixels beyond the edge of an image.
///
/// Objects end at the edge whatever the border is: their mirror images are in no [`Instances`](segkiln_core::Instances), and
/// a network that learns to find objects needs [`Constant`](Self::Constant), or it is told that they are background.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Border {
    /// Image and mask mirrored at the edge, the outermost pixel twice: `c b a | a b c | c b a`.
    #[default]
    Mirror,
    /// The image mirrored, the mask filled with this label: that of the background, or the ignored one so that only true
    /// pixels count.
    MirrorImage {
        /// The label beyond the edge.
        label: u32,
    },
    /// A constant.
    Constant {
        /// The value of each channel beyond the edge.
        value: f32,
        /// The label beyond the edge.
        label: u32,
    },
}

impl Border {
    /// The value of the image beyond the edge, `None` where it is mirrored.
    pub(super) fn value(self) -> Option<f32> {
        match self {
            Self::Mirror | Self::MirrorImage { .. } => None,
            Self::Constant { value, .. } => Some(value),
        }
    }

    /// The label beyond the edge, `None` where the mask is mirrored.
    pub(super) fn label(self) -> Option<u32> {
        match self {
            Self::Mirror => None,
            Self::MirrorImage { label } | Self::Constant { label, .. } => Some(label),
        }
    }
}

/// The pixel of `0..n` that is seen at `i` when both edges are mirrors.
pub(super) fn mirror(i: i64, n: i64) -> i64 {
    if (0..n).contains(&i) {
        return i;
    }
    let i = i.rem_euclid(2 * n);
    i.min(2 * n - 1 - i)
}

/// The window of `width` x `height` pixels whose upper left one is (`left`, `top`); it may reach beyond the edges.
pub(crate) fn crop(sample: &Sample, left: i64, top: i64, width: u32, height: u32, border: Border) -> Sample {
    let channels = sample.image.channels();
    let size = sample.image.size();
    let window = Window::new(width, height).at(left, top);
    let values = window.cut(sample.image.as_slice(), size, channels, border.value());
    let labels = window.cut(sample.target.as_slice(), size, 1, border.label());
    Sample {
        name: sample.name.clone(),
        image: Image::from_parts(width, height, channels, values),
        target: LabelMap::new(width, height, labels).expect("one label a pixel"),
    }
}

/// A rectangle of pixels that may reach beyond the edges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    left: i64,
    top: i64,
    width: u32,
    height: u32,
    pub(super) border: Border,
    /// The share of an object's area that must be within it.
    pub(super) min_visible: f32,
}

impl Window {
    /// Creates a window at the image's upper left corner, with [`Border::Mirror`], that keeps all objects with a visible part.
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self { left: 0, top: 0, width, height, border: Border::default(), min_visible: 0.0 }
    }

    /// Returns the window with another border.
    pub(super) fn border(self, border: Border) -> Self {
        Self { border, ..self }
    }

    /// Returns the window with its upper left corner at (`left`, `top`).
    pub(super) fn at(self, left: i64, top: i64) -> Self {
        Self { left, top, ..self }
    }

    /// Returns the window with the least share of an object's area that must lie within it; other objects are dropped.
    pub(super) fn min_visible(self, option: &'static str, share: f32) -> Result<Self> {
        Bounds::new(option, [share; 2], 0.0..=1.0)?;
        Ok(Self { min_visible: share, ..self })
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        Size { width: self.width, height: self.height }
    }

    /// A box seen from the window's upper left corner, not clipped.
    pub(super) fn shifted(&self, bbox: &BBox) -> Option<BBox> {
        let [x1, y1, x2, y2] = bbox.xyxy();
        let (left, top) = (self.left as f64, self.top as f64);
        BBox::new(x1 - left, y1 - top, x2 - left, y2 - top).ok()
    }

    pub(super) fn bbox(&self, bbox: &BBox) -> Option<BBox> {
        self.shifted(bbox)?.clip(self.width, self.height)
    }

    /// Its pixels of those of an image of a width and a height.
    pub(super) fn cut<T: Copy + Default>(&self, from: &[T], size: Size, channels: usize, outside: Option<T>) -> Vec<T> {
        let [columns, rows] = [size.width, size.height].map(i64::from);
        let (width, height) = (self.width as usize, self.height as usize);
        let mut out = vec![outside.unwrap_or_default(); width * height * channels];
        for (y, to) in (self.top..).zip(out.chunks_exact_mut(width * channels)) {
            let y = match outside {
                Some(_) if !(0..rows).contains(&y) => continue,
                _ => mirror(y, rows) as usize,
            };
            let row = &from[y * columns as usize * channels..][..columns as usize * channels];
            // The columns that lie inside are copied at once.
            let first = self.left.clamp(0, columns);
            let last = (self.left + i64::from(self.width)).clamp(first, columns);
            if first < last {
                let at = (first - self.left) as usize * channels;
                let inside = &row[first as usize * channels..last as usize * channels];
                to[at..at + inside.len()].copy_from_slice(inside);
            }
            if outside.is_none() {
                let end = self.left + i64::from(self.width);
                for x in (self.left..end).filter(|x| !(first..last).contains(x)) {
                    let at = (x - self.left) as usize * channels;
                    let seen = mirror(x, columns) as usize * channels;
                    to[at..at + channels].copy_from_slice(&row[seen..seen + channels]);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn mirrors_repeat_the_edge() {
        let seen: Vec<i64> = (-4..7).map(|i| mirror(i, 3)).collect();
        assert_eq!(seen, [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]);
        assert_eq!(mirror(-1_000_000_007, 1), 0);
    }

    #[test]
    fn crops_inside_and_beyond() {
        let inside = crop(&ramp(4, 3, 3), 1, 1, 2, 2, Border::Mirror);
        assert!(agrees(&inside));
        assert_eq!(inside.target.as_slice(), [5, 6, 9, 10]);

        let around = crop(&ramp(2, 2, 2), -1, -1, 4, 4, Border::Mirror);
        assert!(agrees(&around));
        assert_eq!(around.target.as_slice(), [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]);

        let far = crop(&ramp(2, 1, 1), 5, 0, 2, 1, Border::Mirror);
        assert_eq!(far.target.as_slice(), [1, 1]);
    }

    #[test]
    fn borders_fill() {
        let labeled = crop(&ramp(2, 1, 1), -1, 0, 4, 1, Border::MirrorImage { label: 255 });
        assert_eq!(labeled.target.as_slice(), [255, 0, 1, 255]);
        assert_eq!(labeled.image.as_slice(), [0.0, 0.0, 1.0, 1.0]);

        let constant = crop(&ramp(2, 1, 1), 1, -1, 2, 2, Border::Constant { value: 0.5, label: 9 });
        assert_eq!(constant.target.as_slice(), [9, 9, 1, 9]);
        assert_eq!(constant.image.as_slice(), [0.5, 0.5, 1.0, 0.5]);
    }
}
