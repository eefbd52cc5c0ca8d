use super::{Bounds, Target, Transform, geometry::mirror};
use crate::{Image, Result, Sample, TransformRng};

/// Blurs the image with a Gaussian, cut off at three standard deviations; mirrored at the edges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaussianBlur(Bounds);

impl GaussianBlur {
    /// Standard deviations in pixels drawn evenly from a range; 0 changes nothing.
    ///
    /// # Errors
    /// If the bounds are not in order or not between 0 and 100.
    pub fn new(sigma: [f32; 2]) -> Result<Self> {
        Bounds::new("GaussianBlur", sigma, 0.0..=100.0).map(Self)
    }
}

impl<T: Target> Transform<T> for GaussianBlur {
    fn apply(&self, mut sample: Sample<T>, rng: &mut TransformRng) -> Result<Sample<T>> {
        let sigma = self.0.draw(rng);
        if sigma > 0.0 {
            sample.image = blur(&sample.image, &kernel(sigma));
        }
        Ok(sample)
    }
}

/// An odd number of weights that sum to 1.
fn kernel(sigma: f32) -> Vec<f32> {
    let radius = (3.0 * sigma).ceil() as i32;
    let weights: Vec<f32> = (-radius..=radius).map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

fn blur(image: &Image, kernel: &[f32]) -> Image {
    let (width, height, channels) = (image.width() as usize, image.height() as usize, image.channels());
    let radius = (kernel.len() / 2) as i64;
    let stride = width * channels;

    let mut across = vec![0.0; stride * height];
    let mut padded = vec![0.0; (width + kernel.len() - 1) * channels];
    for (to, from) in across.chunks_exact_mut(stride).zip(image.as_slice().chunks_exact(stride)) {
        for (x, pixel) in (-radius..).zip(padded.chunks_exact_mut(channels)) {
            let seen = mirror(x, width as i64) as usize * channels;
            pixel.copy_from_slice(&from[seen..seen + channels]);
        }
        for (i, weight) in kernel.iter().enumerate() {
            to.iter_mut().zip(&padded[i * channels..]).for_each(|(to, from)| *to += weight * from);
        }
    }

    let mut down = vec![0.0; stride * height];
    for (y, to) in (0..).zip(down.chunks_exact_mut(stride)) {
        for (i, weight) in (-radius..).zip(kernel) {
            let from = &across[mirror(y + i, height as i64) as usize * stride..][..stride];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
        }
    }
    Image::from_parts(image.width(), image.height(), channels, down)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::{pixels, ramp};

    #[test]
    fn a_point_becomes_the_kernel() {
        let mut image = Image::new(15, 15, 2, vec![0.0; 450]).unwrap();
        image.as_mut_slice()[(7 * 15 + 7) * 2] = 1.0;
        let kernel = kernel(1.5);
        assert_eq!(kernel.len(), 11);
        let blurred = blur(&image, &kernel);
        for y in 0..11 {
            for x in 0..11 {
                let at = ((y + 2) * 15 + x + 2) * 2;
                assert!((blurred.as_slice()[at] - kernel[x] * kernel[y]).abs() < 1e-7);
                assert_eq!(blurred.as_slice()[at + 1], 0.0);
            }
        }
    }

    #[test]
    fn constants_stay_and_the_mask_is_not_blurred() {
        let wide = GaussianBlur::new([20.0, 20.0]).unwrap();
        let mut rng = TransformRng::new(0, 0, 0);
        let constant = wide.apply(pixels(3, &[0.5; 12]), &mut rng).unwrap();
        assert!(constant.image.as_slice().iter().all(|value| (value - 0.5).abs() < 1e-5));
        assert_eq!(wide.apply(ramp(4, 3, 1), &mut rng).unwrap().target, ramp(4, 3, 1).target);
        let none = GaussianBlur::new([0.0, 0.0]).unwrap();
        assert_eq!(none.apply(ramp(4, 3, 1), &mut rng).unwrap(), ramp(4, 3, 1));
    }
}
