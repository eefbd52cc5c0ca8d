//! Boxes of annotation files, of which some are not boxes.

use segkiln_core::{BBox, Size};

/// Handling of invalid boxes: without area, with a coordinate that is not a number, or wholly outside the image.
///
/// A box that is partly outside is clipped in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum InvalidBoxes {
    /// Report an error that names the file and the object.
    #[default]
    Refuse,
    /// Leave the object out, and count it.
    Drop,
}

/// Takes the boxes of annotations, and counts what is done to them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boxes {
    invalid: InvalidBoxes,
    /// Objects left out.
    pub dropped: usize,
    /// Boxes that reached beyond their images.
    pub clipped: usize,
}

impl Boxes {
    pub fn new(invalid: InvalidBoxes) -> Self {
        Self { invalid, dropped: 0, clipped: 0 }
    }

    /// The part of the box with the corners `[x1, y1, x2, y2]` within an image of this width and height; none if the object
    /// is to be left out, and what is wrong if it is to be refused.
    pub fn take(&mut self, corners: [f64; 4], Size { width, height }: Size) -> Result<Option<BBox>, String> {
        let [x1, y1, x2, y2] = corners;
        let whole = BBox::new(x1, y1, x2, y2).ok();
        let clipped = whole.and_then(|bbox| bbox.clip(width, height));
        match (clipped, self.invalid) {
            (Some(bbox), _) => self.clipped += usize::from(whole != Some(bbox)),
            (None, InvalidBoxes::Drop) => self.dropped += 1,
            (None, InvalidBoxes::Refuse) => {
                return Err(format!(
                    "the box from ({x1}, {y1}) to ({x2}, {y2}) has no area within the image of {width}x{height}; correct \
                     it, or leave such objects out with `InvalidBoxes::Drop`"
                ));
            }
        }
        Ok(clipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_partly_outside_is_clipped_and_the_rest_refused_or_dropped() {
        let bad = [[3.0, 3.0, 3.0, 5.0], [5.0, 3.0, 3.0, 5.0], [f64::NAN, 0.0, 1.0, 1.0], [10.0, 0.0, 12.0, 5.0]];
        let mut refusing = Boxes::new(InvalidBoxes::Refuse);
        let mut dropping = Boxes::new(InvalidBoxes::Drop);
        let size = Size { width: 10, height: 8 };
        for corners in bad {
            let error = refusing.take(corners, size).unwrap_err();
            assert!(error.contains("within the image of 10x8; correct it, or leave"), "{error}");
            assert_eq!(dropping.take(corners, size), Ok(None));
        }
        for boxes in [&mut refusing, &mut dropping] {
            assert_eq!(boxes.take([-1.0, 2.0, 4.5, 9.0], size), Ok(BBox::new(0.0, 2.0, 4.5, 8.0).ok()));
            assert_eq!(boxes.take([0.0, 0.0, 10.0, 8.0], size), Ok(BBox::new(0.0, 0.0, 10.0, 8.0).ok()));
            assert_eq!(boxes.clipped, 1);
        }
        assert_eq!((refusing.dropped, dropping.dropped), (0, 4));
    }
}
