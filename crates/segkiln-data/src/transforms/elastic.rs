use super::{Border, Motion, Target, Transform, warp::Warp};
use crate::{DataError, Result, Sample, TransformRng};

/// Smooth random deformation: displacements drawn from a normal distribution on a coarse grid over the image, and
/// interpolated bicubically (Catmull–Rom) for each pixel.
///
/// Ronneberger, Fischer & Brox, "U-Net" (2015), section 3.1, where the grid is 3x3 and the standard deviation 10 pixels.
///
/// ```
/// use segkiln_data::transforms::ElasticDeformation;
///
/// let gentle = ElasticDeformation::new(3, 4.0)?;
/// assert_eq!(ElasticDeformation::unet(), ElasticDeformation::new(3, 10.0)?);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ElasticDeformation {
    grid: usize,
    std: f32,
    border: Border,
}

impl ElasticDeformation {
    /// `grid` displacements a side, whose outermost lie on the image's edges, with a standard deviation of `std` pixels
    /// in each direction.
    ///
    /// # Errors
    /// If `grid` is less than 2 or more than 64, or `std` is negative or not finite.
    pub fn new(grid: usize, std: f32) -> Result<Self> {
        if !(2..=64).contains(&grid) {
            return Err(DataError::option("ElasticDeformation grid", format!("must be 2 to 64, got {grid}")));
        }
        if !(std.is_finite() && std >= 0.0) {
            let reason = format!("must be finite and not negative, got {std}");
            return Err(DataError::option("ElasticDeformation std", reason));
        }
        Ok(Self { grid, std, border: Border::default() })
    }

    /// The U-Net paper's: 3x3, 10 pixels.
    pub fn unet() -> Self {
        Self { grid: 3, std: 10.0, border: Border::default() }
    }

    /// Sets how pixels beyond the edges are filled.
    pub fn border(mut self, border: Border) -> Self {
        self.border = border;
        self
    }
}

impl<T: Target> Transform<T> for ElasticDeformation {
    fn apply(&self, sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let n = self.grid;
        let displacements: Vec<[f32; 2]> = (0..n * n).map(|_| rng.normals().map(|v| v * self.std)).collect();
        let (width, height) = (sample.image.width(), sample.image.height());
        let columns: Vec<Cubic> = (0..width).map(|x| Cubic::at(x, width, n)).collect();
        let mut line = vec![[0.0; 2]; n];
        let warp = Warp::new(width, height, self.border, |y, points| {
            // First down the grid to this row, then along it to each pixel.
            let row = Cubic::at(y as u32, height, n);
            for (column, value) in line.iter_mut().enumerate() {
                *value = row.mix(|i| displacements[i * n + column]);
            }
            for (x, (point, column)) in points.iter_mut().zip(&columns).enumerate() {
                let [dx, dy] = column.mix(|i| line[i]);
                *point = [x as f32 + 0.5 + dx, y as f32 + 0.5 + dy];
            }
        });
        sample.moved(&Motion::Warp(warp))
    }
}

/// The four grid points around a pixel and their weights.
struct Cubic {
    at: [usize; 4],
    weights: [f32; 4],
}

impl Cubic {
    /// For the center of pixel `i` of `length`, on a grid of `n` points from edge to edge.
    fn at(i: u32, length: u32, n: usize) -> Self {
        let place = (i as f32 + 0.5) / length as f32 * (n - 1) as f32;
        let t = place - place.floor();
        let (t2, t3) = (t * t, t * t * t);
        let weights =
            [-0.5 * t + t2 - 0.5 * t3, 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, -0.5 * t2 + 0.5 * t3];
        // Beyond the grid its outermost values go on.
        let at = [-1, 0, 1, 2].map(|i| (place.floor() as i64 + i).clamp(0, n as i64 - 1) as usize);
        Self { at, weights }
    }

    fn mix(&self, value: impl Fn(usize) -> [f32; 2]) -> [f32; 2] {
        let mut mixed = [0.0; 2];
        for (at, weight) in self.at.into_iter().zip(self.weights) {
            let [dx, dy] = value(at);
            mixed[0] += weight * dx;
            mixed[1] += weight * dy;
        }
        mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{agreement, blocks, ramp};

    #[test]
    fn no_displacement_changes_nothing() {
        let still = ElasticDeformation::new(3, 0.0).unwrap();
        assert_eq!(still.apply(ramp(6, 5, 3), &mut TransformRng::new(0, 0, 0)).unwrap(), ramp(6, 5, 3));
    }

    #[test]
    fn cubic_goes_through_its_points_and_keeps_straight_lines() {
        // 9 pixels, 4 grid points: the center of pixel 4 lies half way between points 1 and 2.
        assert_eq!(Cubic::at(4, 9, 4).weights, [-0.0625, 0.5625, 0.5625, -0.0625]);
        let line = |i: usize| [i as f32, 2.0 * i as f32];
        for pixel in 3..6 {
            let expected = (pixel as f32 + 0.5) / 9.0 * 3.0;
            let [x, y] = Cubic::at(pixel, 9, 4).mix(line);
            assert!((x - expected).abs() < 1e-6 && (y - 2.0 * expected).abs() < 1e-6);
        }
        let constant = Cubic::at(0, 9, 3).mix(|_| [3.0, -1.0]);
        assert!((constant[0] - 3.0).abs() < 1e-6 && (constant[1] + 1.0).abs() < 1e-6);
    }

    #[test]
    fn image_and_mask_stay_together() {
        let mut moved_pixels = 0;
        for position in 0..10 {
            let sample = blocks(128, 96, 3, 32);
            let deformed = ElasticDeformation::unet().apply(sample.clone(), &mut TransformRng::new(1, 0, position));
            let deformed = deformed.unwrap();
            assert!(agreement(&deformed) > 0.85, "{}", agreement(&deformed));
            let pairs = deformed.target.as_slice().iter().zip(sample.target.as_slice());
            moved_pixels += pairs.filter(|(new, old)| new != old).count();
        }
        assert!(moved_pixels > 10 * 128 * 96 / 10, "{moved_pixels}");
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(ElasticDeformation::new(1, 1.0).is_err());
        assert!(ElasticDeformation::new(3, -1.0).is_err());
        assert!(ElasticDeformation::new(3, f32::NAN).is_err());
    }
}
