use super::{Border, Motion, Target, Transform, geometry::Window};
use crate::{DataError, Result, Sample, TransformRng};

/// Extends the right and lower edges so that both sides are multiples of a number, as the halvings of a network need.
///
/// ```
/// use segkiln_data::transforms::PadToMultiple;
///
/// let pad = PadToMultiple::new(16)?;
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PadToMultiple {
    multiple: u32,
    border: Border,
}

impl PadToMultiple {
    /// Sides become multiples of `multiple`.
    ///
    /// # Errors
    /// If `multiple` is 0 or more than 65,536.
    pub fn new(multiple: u32) -> Result<Self> {
        if !(1..=65_536).contains(&multiple) {
            return Err(DataError::option("PadToMultiple", format!("must be 1 to 65536, got {multiple}")));
        }
        Ok(Self { multiple, border: Border::default() })
    }

    /// Sets how pixels beyond the edges are filled.
    pub fn border(mut self, border: Border) -> Self {
        self.border = border;
        self
    }
}

impl<T: Target> Transform<T> for PadToMultiple {
    fn apply(&self, sample: Sample<T>, _rng: &mut TransformRng) -> Result<Sample<T>> {
        let width = sample.image.width().next_multiple_of(self.multiple);
        let height = sample.image.height().next_multiple_of(self.multiple);
        sample.moved(&Motion::Window(Window::new(width, height).border(self.border)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agrees, ramp};

    #[test]
    fn pads_right_and_below() {
        let mut rng = TransformRng::new(0, 0, 0);
        let padded = PadToMultiple::new(2).unwrap().apply(ramp(3, 1, 2), &mut rng).unwrap();
        assert!(agrees(&padded));
        assert_eq!(padded.target.as_slice(), [0, 1, 2, 2, 0, 1, 2, 2]);
        assert_eq!(PadToMultiple::new(1).unwrap().apply(ramp(3, 1, 2), &mut rng).unwrap(), ramp(3, 1, 2));
        assert!(PadToMultiple::new(0).is_err());
    }
}
