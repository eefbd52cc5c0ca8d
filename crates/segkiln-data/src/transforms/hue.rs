use super::{Bounds, Target, Transform, color_channels};
use crate::{Result, Sample, TransformRng};

/// Turns the colors around the gray axis of the HSV cone by a random part of a full turn, as torchvision's
/// `adjust_hue`. Images that are not RGB or RGBA stay as they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hue(Bounds);

impl Hue {
    /// Parts of a turn drawn evenly from a range: a third makes red green.
    ///
    /// # Errors
    /// If the bounds are not in order or not between -0.5 and 0.5.
    pub fn new(turns: [f32; 2]) -> Result<Self> {
        Bounds::new("Hue", turns, -0.5..=0.5).map(Self)
    }
}

impl<T: Target> Transform<T> for Hue {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let turn = self.0.draw(rng);
        let channels = sample.image.channels();
        if color_channels(&sample.image) == 3 {
            for pixel in sample.image.as_mut_slice().chunks_exact_mut(channels) {
                let turned = turned([pixel[0], pixel[1], pixel[2]].map(|value| value.clamp(0.0, 1.0)), turn);
                pixel[..3].copy_from_slice(&turned);
            }
        }
        Ok(sample)
    }
}

/// RGB to HSV, the hue moved, and back (Smith 1978).
fn turned([r, g, b]: [f32; 3], turn: f32) -> [f32; 3] {
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);
    if chroma == 0.0 {
        return [r, g, b];
    }
    // In sixths of a turn from red.
    let hue = if value == r {
        (g - b) / chroma
    } else if value == g {
        (b - r) / chroma + 2.0
    } else {
        (r - g) / chroma + 4.0
    };
    // A turn is at most half, so that one lap takes it back to 0..6; a remainder would be a call.
    let lap = |hue: f32| if hue < 0.0 { hue + 6.0 } else { hue - if hue >= 6.0 { 6.0 } else { 0.0 } };
    let hue = lap(hue + 6.0 * turn);
    [5.0, 3.0, 1.0].map(|offset| {
        let k = lap(hue + offset);
        value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: [f32; 3], b: [f32; 3]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn thirds_swap_the_primaries() {
        assert!(close(turned([1.0, 0.0, 0.0], 1.0 / 3.0), [0.0, 1.0, 0.0]));
        assert!(close(turned([1.0, 0.0, 0.0], -1.0 / 3.0), [0.0, 0.0, 1.0]));
        assert!(close(turned([0.5, 0.5, 0.25], 0.5), [0.25, 0.25, 0.5]));
        assert_eq!(turned([0.3; 3], 0.2), [0.3; 3]);
    }

    #[test]
    fn there_and_back() {
        for rgb in [[0.1, 0.7, 0.3], [0.9, 0.2, 0.4], [0.0, 0.3, 1.0], [0.6, 0.6, 0.1]] {
            assert!(close(turned(rgb, 0.0), rgb));
            assert!(close(turned(turned(rgb, 0.17), -0.17), rgb));
        }
        assert!(Hue::new([-0.6, 0.0]).is_err());
    }
}
