use super::{Border, Bounds, Motion, Target, Transform, warp::Warp};
use crate::{Result, Sample, TransformRng};

/// Rotates, scales, shears and moves a sample about its center, by amounts drawn evenly from ranges. The size stays.
///
/// A point `p` seen from the center moves to `scale * R(angle) * S(shear) * p + translation`, where `R` turns
/// counter-clockwise and `S` moves points sideways by `tan(shear)` of their height above the center.
///
/// ```
/// use segkiln_data::transforms::Affine;
///
/// let affine = Affine::new().rotate([-15.0, 15.0])?.scale([0.8, 1.25])?;
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    rotate: Bounds,
    scale: Bounds,
    shear: Bounds,
    translate: Bounds,
    border: Border,
}

impl Default for Affine {
    fn default() -> Self {
        Self::new()
    }
}

impl Affine {
    /// No change.
    pub fn new() -> Self {
        let none = Bounds { low: 0.0, high: 0.0 };
        let scale = Bounds { low: 1.0, high: 1.0 };
        Self { rotate: none, scale, shear: none, translate: none, border: Border::default() }
    }

    /// Turns by degrees, positive counter-clockwise.
    ///
    /// # Errors
    /// If the bounds are not in order or beyond ±360.
    pub fn rotate(mut self, degrees: [f32; 2]) -> Result<Self> {
        self.rotate = Bounds::new("Affine rotate", degrees, -360.0..=360.0)?;
        Ok(self)
    }

    /// Enlarges (over 1) or shrinks by a factor.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0.01 and 100.
    pub fn scale(mut self, factors: [f32; 2]) -> Result<Self> {
        self.scale = Bounds::new("Affine scale", factors, 0.01..=100.0)?;
        Ok(self)
    }

    /// Slants by degrees: the upper edge goes to the right.
    ///
    /// # Errors
    /// If the bounds are not in order or beyond ±80.
    pub fn shear(mut self, degrees: [f32; 2]) -> Result<Self> {
        self.shear = Bounds::new("Affine shear", degrees, -80.0..=80.0)?;
        Ok(self)
    }

    /// Moves by a fraction of the width, and another one of the height; positive right and down.
    ///
    /// # Errors
    /// If the bounds are not in order or beyond ±1.
    pub fn translate(mut self, fractions: [f32; 2]) -> Result<Self> {
        self.translate = Bounds::new("Affine translate", fractions, -1.0..=1.0)?;
        Ok(self)
    }

    /// Sets how pixels beyond the edges are filled.
    pub fn border(mut self, border: Border) -> Self {
        self.border = border;
        self
    }
}

impl<T: Target> Transform<T> for Affine {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let (sin, cos) = self.rotate.draw(rng).to_radians().sin_cos();
        let scale = self.scale.draw(rng);
        let slant = self.shear.draw(rng).to_radians().tan();
        let (width, height) = (sample.image.width() as f32, sample.image.height() as f32);
        let shift = [self.translate.draw(rng) * width, self.translate.draw(rng) * height];

        // The inverse, S(-shear) R(-angle) / scale, takes what is seen to where it comes from. Rows count downwards, so
        // a counter-clockwise turn has the matrix [cos sin; -sin cos].
        let (a, b) = (cos / scale, -sin / scale);
        let (c, d) = (sin / scale, cos / scale);
        let (a, b) = (a + slant * c, b + slant * d);
        let center = [width / 2.0, height / 2.0];
        let warp = Warp::new(sample.image.width(), sample.image.height(), self.border, |row, points| {
            let y = row as f32 + 0.5 - center[1] - shift[1];
            for (column, point) in points.iter_mut().enumerate() {
                let x = column as f32 + 0.5 - center[0] - shift[0];
                *point = [a * x + b * y + center[0], c * x + d * y + center[1]];
            }
        });
        sample.moved(&Motion::Warp(warp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agreement, agrees, blocks, ramp};

    fn apply(affine: Affine, sample: Sample) -> Sample {
        affine.apply(sample, &mut TransformRng::new(0, 0, 0)).unwrap()
    }

    #[test]
    fn nothing_changes_nothing() {
        assert_eq!(apply(Affine::new(), ramp(7, 5, 3)), ramp(7, 5, 3));
    }

    #[test]
    fn a_quarter_turns_counter_clockwise() {
        // 0 1 2     2 5 8
        // 3 4 5     1 4 7
        // 6 7 8     0 3 6
        let turned = apply(Affine::new().rotate([90.0, 90.0]).unwrap(), ramp(3, 3, 1));
        assert_eq!(turned.target.as_slice(), [2, 5, 8, 1, 4, 7, 0, 3, 6]);
        for (value, label) in turned.image.as_slice().iter().zip(turned.target.as_slice()) {
            assert!((value - *label as f32).abs() < 1e-4);
        }
    }

    #[test]
    fn translation_moves_right_and_down() {
        let moved = apply(Affine::new().translate([0.5, 0.5]).unwrap(), ramp(4, 2, 1));
        assert!(agrees(&moved));
        assert_eq!(moved.target.as_slice(), [1, 0, 0, 1, 1, 0, 0, 1]);
    }

    #[test]
    fn scale_and_shear_go_the_way_they_say() {
        let larger = apply(Affine::new().scale([2.0, 2.0]).unwrap(), ramp(4, 4, 1));
        assert_eq!(larger.target.as_slice(), [5, 5, 6, 6, 5, 5, 6, 6, 9, 9, 10, 10, 9, 9, 10, 10]);
        // tan 45° = 1: the upper row, half a pixel above the center, goes half a pixel to the right
        let border = Border::Constant { value: 0.0, label: 99 };
        let slanted = apply(Affine::new().shear([45.0, 45.0]).unwrap().border(border), ramp(4, 2, 1));
        assert_eq!(slanted.image.as_slice(), [0.0, 0.5, 1.5, 2.5, 4.5, 5.5, 6.5, 3.5]);
    }

    #[test]
    fn image_and_mask_stay_together() {
        let affine = Affine::new().rotate([-180.0, 180.0]).unwrap().scale([0.7, 1.4]).unwrap();
        let affine = affine.shear([-20.0, 20.0]).unwrap().translate([-0.2, 0.2]).unwrap();
        for position in 0..10 {
            let moved = affine.apply(blocks(96, 64, 3, 32), &mut TransformRng::new(1, 0, position)).unwrap();
            // pixels at the blocks' borders mix two values
            assert!(agreement(&moved) > 0.85, "{}", agreement(&moved));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Affine::new().scale([0.0, 1.0]).is_err());
        assert!(Affine::new().rotate([10.0, -10.0]).is_err());
        assert!(Affine::new().shear([f32::NAN, 1.0]).is_err());
        let error = Affine::new().translate([0.0, 2.0]).unwrap_err().to_string();
        assert_eq!(error, "Affine translate: needs two bounds in order between -1 and 1, got [0, 2]");
    }
}
