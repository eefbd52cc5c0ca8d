use super::{Bounds, Target, Transform, color_channels};
use crate::{Image, Result, Sample, TransformRng, statistics::quantile};

/// Optical density below which a pixel has no stain.
const CLEAR: f64 = 0.15;
/// Share of the pixels' directions that are left out at each end, against noise.
const ROBUST: f64 = 0.01;
/// Pixels that stains are estimated from, at least; images with fewer that are stained stay as they are.
const FEWEST: usize = 16;

/// Strengthens and weakens the two stains of a slide's image, hematoxylin and eosin for one, each by a random factor and a random
/// amount. The stains are found in each image (Macenko et al., 2009), so that what changes is what differs between laboratories (Tellez et
/// al., 2018). Images that are not RGB or RGBA, and such without stained pixels, stay as they are.
///
/// ```
/// use segkiln_data::{Image, Sample, TransformRng, transforms::{StainJitter, Transform}};
/// # use segkiln_core::LabelMap;
/// # let image = Image::new(1, 1, 3, vec![0.5, 0.3, 0.6])?;
/// # let sample = Sample { name: "slide".into(), image, target: LabelMap::filled(1, 1, 0) };
///
/// let jitter = StainJitter::new([0.8, 1.2], [-0.05, 0.05])?;
/// let sample = jitter.apply(sample, &mut TransformRng::new(0, 0, 0))?;
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StainJitter {
    factor: Bounds,
    amount: Bounds,
}

impl StainJitter {
    /// Factors and amounts of a stain's optical density (base e) drawn evenly from ranges; Tellez et al. use `[0.95, 1.05]` and
    /// `[-0.05, 0.05]`, and up to four times that.
    ///
    /// # Errors
    /// If the bounds are not in order, factors not between 0 and 10 or amounts not between -1 and 1.
    pub fn new(factor: [f32; 2], amount: [f32; 2]) -> Result<Self> {
        Ok(Self {
            factor: Bounds::new("StainJitter", factor, 0.0..=10.0)?,
            amount: Bounds::new("StainJitter", amount, -1.0..=1.0)?,
        })
    }
}

impl<T: Target> Transform<T> for StainJitter {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let changes = [(); 2].map(|()| [self.factor.draw(rng), self.amount.draw(rng)].map(f64::from));
        let channels = sample.image.channels();
        let is_color = color_channels(&sample.image) == 3;
        if let Some(stains) = is_color.then(|| stains(&sample.image)).flatten() {
            for pixel in sample.image.as_mut_slice().chunks_exact_mut(channels) {
                let before = density([pixel[0], pixel[1], pixel[2]]);
                let amounts = concentrations(&stains, before);
                // What neither stain explains stays.
                let shift = [0, 1].map(|stain| changes[stain][0] * amounts[stain] + changes[stain][1] - amounts[stain]);
                for channel in 0..3 {
                    let change = stains[0][channel] * shift[0] + stains[1][channel] * shift[1];
                    pixel[channel] = (-(before[channel] + change)).exp().clamp(0.0, 1.0) as f32;
                }
            }
        }
        Ok(sample)
    }
}

/// Optical density of a color with values from 0 to 1; the darkest is half of a step of 8 bits.
fn density(color: [f32; 3]) -> [f64; 3] {
    color.map(|value| -f64::from(value.clamp(0.5 / 255.0, 1.0)).ln())
}

/// Colors of the two stains of an image, as optical densities of length 1: that with more red first, which is hematoxylin. None if too few
/// pixels are stained, or all are in one color.
fn stains(image: &Image) -> Option<[[f64; 3]; 2]> {
    let pixels = image.as_slice().chunks_exact(image.channels());
    let stained: Vec<[f64; 3]> = pixels
        .map(|pixel| density([pixel[0], pixel[1], pixel[2]]))
        .filter(|density| density.iter().all(|value| *value >= CLEAR))
        .collect();
    if stained.len() < FEWEST {
        return None;
    }
    let count = stained.len() as f64;
    let mean = [0, 1, 2].map(|channel| stained.iter().map(|density| density[channel]).sum::<f64>() / count);
    let mut covariance = [[0.0; 3]; 3];
    for density in &stained {
        for (row, values) in covariance.iter_mut().enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                *value += (density[row] - mean[row]) * (density[column] - mean[column]) / (count - 1.0);
            }
        }
    }
    // The plane that the densities lie in, its axes towards them.
    let axes = largest_two(covariance).map(|axis| {
        let sum: f64 = axis.iter().sum();
        if sum < 0.0 { axis.map(|value| -value) } else { axis }
    });
    let mut angles: Vec<f64> =
        stained.iter().map(|density| dot(&axes[1], density).atan2(dot(&axes[0], density))).collect();
    angles.sort_by(f64::total_cmp);
    let ends = [ROBUST, 1.0 - ROBUST].map(|share| quantile(&angles, share));
    let color = |angle: f64| {
        let color = [0, 1, 2].map(|channel| axes[0][channel] * angle.cos() + axes[1][channel] * angle.sin());
        let length = dot(&color, &color).sqrt();
        color.map(|value| value / length)
    };
    let [one, two] = ends.map(color);
    let stains = if one[0] > two[0] { [one, two] } else { [two, one] };
    // As one color they cannot be told apart.
    (dot(&one, &two) < 0.9999).then_some(stains)
}

fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Amounts of the stains that explain a density best, by least squares.
fn concentrations(stains: &[[f64; 3]; 2], density: [f64; 3]) -> [f64; 2] {
    // The stains have length 1.
    let (both, own) = (dot(&stains[0], &stains[1]), stains.map(|stain| dot(&stain, &density)));
    let determinant = 1.0 - both * both;
    [(own[0] - both * own[1]) / determinant, (own[1] - both * own[0]) / determinant]
}

/// Eigenvectors of a symmetric matrix with the largest two eigenvalues, the largest first (Jacobi).
fn largest_two(mut matrix: [[f64; 3]; 3]) -> [[f64; 3]; 2] {
    // Columns become the eigenvectors.
    let mut vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    // Convergence is quadratic: a few sweeps reach the last bit.
    for (p, q) in [(0, 1), (0, 2), (1, 2)].repeat(12) {
        if matrix[p][q] == 0.0 {
            continue;
        }
        let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
        let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
        let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
        let sine = tangent * cosine;
        for row in &mut matrix {
            (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
        }
        let (a, b) = (matrix[p], matrix[q]);
        matrix[p] = [0, 1, 2].map(|column| cosine * a[column] - sine * b[column]);
        matrix[q] = [0, 1, 2].map(|column| sine * a[column] + cosine * b[column]);
        for row in &mut vectors {
            (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
        }
    }
    let mut order = [0, 1, 2];
    order.sort_by(|a, b| matrix[*b][*b].total_cmp(&matrix[*a][*a]));
    [order[0], order[1]].map(|column| [vectors[0][column], vectors[1][column], vectors[2][column]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::pixels;

    /// Hematoxylin and eosin (Ruifrok and Johnston, 2001).
    const STAINS: [[f64; 3]; 2] = [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]];

    /// A slide of both stains in 8 bits, by the formula of `tests/parity/stain.py`.
    fn slide() -> Sample {
        let values = (0..1200u32).flat_map(|at| {
            let (x, y) = (at % 40, at / 40);
            let amounts = [f64::from((7 * x + 3 * y) % 50) / 25.0, f64::from((5 * x + 11 * y) % 40) / 30.0];
            [0, 1, 2].map(|c| {
                let density = amounts[0] * STAINS[0][c] + amounts[1] * STAINS[1][c];
                ((255.0 * (-density).exp()).round() / 255.0) as f32
            })
        });
        pixels(3, &values.collect::<Vec<f32>>())
    }

    #[test]
    fn stains_are_those_of_numpy() {
        // Printed by tests/parity/stain.py.
        let expected = [
            [0.649_258_941_659_870_9, 0.702_906_401_630_418_3, 0.290_491_681_845_936_77],
            [0.145_899_822_494_669_12, 0.979_875_458_453_322_7, 0.136_225_282_957_732_29],
        ];
        let found = stains(&slide().image).unwrap();
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn nothing_changes_without_jitter_and_stains_do_with_it() {
        let same = StainJitter::new([1.0, 1.0], [0.0, 0.0]).unwrap();
        let sample: Sample = same.apply(slide(), &mut TransformRng::new(0, 0, 0)).unwrap();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(sample.image.as_slice(), slide().image.as_slice()));
        let more = StainJitter::new([1.5, 1.5], [0.0, 0.0]).unwrap();
        let darker = more.apply(slide(), &mut TransformRng::new(0, 0, 0)).unwrap().image;
        for (before, after) in slide().image.as_slice().chunks_exact(3).zip(darker.as_slice().chunks_exact(3)) {
            // What both stains explain is 1.5 times as dense.
            let (before, after) = (density([before[0], before[1], before[2]]), density([after[0], after[1], after[2]]));
            assert!(before.iter().zip(after).all(|(before, after)| (1.5 * before - after).abs() < 0.1));
        }
        let clear = pixels(3, &[1.0; 300]);
        assert_eq!(more.apply(clear.clone(), &mut TransformRng::new(0, 0, 0)).unwrap().image, clear.image);
        let gray = pixels(1, &[0.3; 100]);
        assert_eq!(more.apply(gray.clone(), &mut TransformRng::new(0, 0, 0)).unwrap().image, gray.image);
        let one = pixels(3, &[0.3; 300]);
        assert_eq!(more.apply(one.clone(), &mut TransformRng::new(0, 0, 0)).unwrap().image, one.image);
        assert!(StainJitter::new([1.2, 0.8], [0.0, 0.0]).is_err());
    }
}
