//! The fully connected conditional random field that DeepLab ends with: Krähenbühl and Koltun, "Efficient Inference in
//! Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011, <https://arxiv.org/abs/1210.5644>; as pydensecrf has
//! it, with its symmetric normalization of the kernels.

mod lattice;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use self::lattice::{LANES, Lanes, Lattice};
use crate::{DataError, Image, Result};

/// Refines the probabilities of an image's classes: pixels that are near each other, and the more if their colors are
/// alike, shall be of one class, and so its borders move to the image's edges.
///
/// Each two pixels of different classes cost the sum of two Gaussian kernels, one of their positions, one of positions and
/// colors; of this model the mean field is computed. The defaults are those of DeepLabV2 for Pascal VOC (ResNet-101).
/// Another data set, or network, has others: DeepLab's authors searched `bilateral_weight`, `bilateral_sigma` and
/// `color_sigma` on a hundred images; pydensecrf's example has 10, 80 and 13.
///
/// Results have the same bits for any number of threads.
///
/// ```
/// use segkiln_data::{DenseCrf, Image};
///
/// // Two dark pixels, two light ones; the second is not sure.
/// let image = Image::new(4, 1, 1, vec![0.1, 0.1, 0.9, 0.9])?;
/// let dark = [0.9, 0.45, 0.1, 0.1];
/// let light = dark.map(|dark| 1.0 - dark);
/// let refined = DenseCrf::default().refine(&[dark, light].concat(), &image)?;
/// assert!(refined[1] > 0.5 && refined[2] < 0.1);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseCrf {
    /// Iterations of mean field, at most 1000; by default 10.
    pub iterations: usize,
    /// Weight of the smoothness kernel, a Gaussian of positions, 0 or more; by default 3.
    pub gaussian_weight: f32,
    /// Standard deviation of the smoothness kernel in pixels, from 0.1 to 100000; by default 3.
    pub gaussian_sigma: f32,
    /// Weight of the bilateral kernel, of positions and colors, 0 or more; by default 4.
    pub bilateral_weight: f32,
    /// Standard deviation of its positions in pixels, from 0.1 to 100000; by default 67.
    pub bilateral_sigma: f32,
    /// Standard deviation of its colors in 255ths of a channel's range `[0, 1]`, from 0.1 to 100000; by default 3.
    pub color_sigma: f32,
}

impl Default for DenseCrf {
    fn default() -> Self {
        Self {
            iterations: 10,
            gaussian_weight: 3.0,
            gaussian_sigma: 3.0,
            bilateral_weight: 4.0,
            bilateral_sigma: 67.0,
            color_sigma: 3.0,
        }
    }
}

/// Features from the origin, in standard deviations.
const FARTHEST: f32 = 1e5;

impl DenseCrf {
    /// Pixels of an image.
    const MOST_PIXELS: u64 = 1 << 24;
    /// Pixels times classes.
    const MOST_VALUES: u64 = 1 << 28;
    /// Vertices of a lattice.
    const MOST_VERTICES: usize = 1 << 25;

    /// Whether every option is in its range, and so many classes of an image of this size can be refined.
    ///
    /// # Errors
    /// [`DataError::Option`], naming the option.
    pub fn check(&self, classes: usize, width: u32, height: u32) -> Result<()> {
        let refuse = |option, reason| Err(DataError::option(option, reason));
        if self.iterations > 1000 {
            return refuse("DenseCrf iterations", format!("must be at most 1000, got {}", self.iterations));
        }
        for (option, weight) in
            [("DenseCrf gaussian_weight", self.gaussian_weight), ("DenseCrf bilateral_weight", self.bilateral_weight)]
        {
            if !(0.0..=1e6).contains(&weight) {
                return refuse(option, format!("must be from 0 to 1000000, got {weight}"));
            }
        }
        for (option, sigma, is_position) in [
            ("DenseCrf gaussian_sigma", self.gaussian_sigma, true),
            ("DenseCrf bilateral_sigma", self.bilateral_sigma, true),
            ("DenseCrf color_sigma", self.color_sigma, false),
        ] {
            if !(0.1..=1e5).contains(&sigma) {
                return refuse(option, format!("must be from 0.1 to 100000, got {sigma}"));
            }
            if is_position && width.max(height) as f32 / sigma > FARTHEST {
                let reason = format!("an image of {width}x{height} pixels has a side of over {FARTHEST} times {sigma}");
                return refuse(option, reason);
            }
        }
        let pixels = u64::from(width) * u64::from(height);
        let values = u128::from(pixels) * classes as u128;
        if pixels == 0 || classes == 0 || pixels > Self::MOST_PIXELS || values > Self::MOST_VALUES.into() {
            let reason = format!(
                "{width}x{height} pixels times {classes} classes must be at least 1, at most {} pixels and {} values",
                Self::MOST_PIXELS,
                Self::MOST_VALUES
            );
            return refuse("DenseCrf size", reason);
        }
        Ok(())
    }

    /// The refined probabilities of an image, as those that are given: `[class][row][column]`, in `[0, 1]`. Less than
    /// 1e-5 counts as 1e-5.
    ///
    /// The image has one channel, or three, or four of which the last is not looked at, with values in the units that
    /// [`color_sigma`](Self::color_sigma) is given in: those of 8-bit files lie in `[0, 1]`.
    ///
    /// Memory: 12 bytes a pixel and class, 200 a pixel and 150 for each vertex of the lattice of colors, of which a
    /// photograph has about three a pixel.
    ///
    /// # Errors
    /// [`DataError::Option`] as of [`check`](Self::check), if the probabilities are not as many as pixels of some classes
    /// or one is not in `[0, 1]`, or the lattice has too many vertices; [`DataError::Channels`].
    pub fn refine(&self, probabilities: &[f32], image: &Image) -> Result<Vec<f32>> {
        let (width, height) = (image.width(), image.height());
        let pixels = width as usize * height as usize;
        let classes = probabilities.len() / pixels;
        if classes == 0 || classes * pixels != probabilities.len() {
            let reason = format!(
                "must be as many for each class as the image of {width}x{height} pixels has, got {}",
                probabilities.len()
            );
            return Err(DataError::option("DenseCrf probabilities", reason));
        }
        self.check(classes, width, height)?;
        // Averages may be above 1 by some bits.
        if let Some(index) = probabilities.iter().position(|value| !(-1e-3..=1.001).contains(value)) {
            let (class, pixel) = (index / pixels, index % pixels);
            let (x, y) = (pixel % width as usize, pixel / width as usize);
            let reason = format!(
                "must be from 0 to 1, that of class {class} at pixel (x {x}, y {y}) is {}",
                probabilities[index]
            );
            return Err(DataError::option("DenseCrf probabilities", reason));
        }
        let kernels = self.kernels(image)?;

        // Four classes at a time: what is read in no order then fits the cache. Of lanes that are no class, probabilities
        // of 0.
        let mut unary = vec![vec![[f32::NEG_INFINITY; LANES]; pixels]; classes.div_ceil(LANES)];
        for (class, plane) in probabilities.chunks_exact(pixels).enumerate() {
            let logs = unary[class / LANES].par_iter_mut().zip(plane).with_min_len(1024);
            logs.for_each(|(logs, value)| logs[class % LANES] = value.clamp(1e-5, 1.0).ln());
        }
        let mut mean = unary.clone();
        softmax(&mut mean);
        let mut buffers = [Vec::new(), Vec::new()];
        let mut sums = Vec::new();
        for _ in 0..self.iterations {
            for (mean, unary) in mean.iter_mut().zip(&unary) {
                sums.clone_from(unary);
                for (weight, lattice) in &kernels {
                    lattice.blur(mean, &mut buffers);
                    lattice.add_to(&mut sums, *weight, &buffers[0]);
                }
                std::mem::swap(mean, &mut sums);
            }
            softmax(&mut mean);
        }
        let mut refined = vec![0.0; probabilities.len()];
        refined.par_chunks_mut(pixels).enumerate().for_each(|(class, plane)| {
            for (value, mean) in plane.iter_mut().zip(&mean[class / LANES]) {
                *value = mean[class % LANES];
            }
        });
        Ok(refined)
    }

    /// Builds the kernels with a weight above 0, each with that weight.
    fn kernels(&self, image: &Image) -> Result<Vec<(f32, Lattice)>> {
        let (width, pixels) = (image.width() as usize, image.width() as usize * image.height() as usize);
        let place = |pixel: usize, sigma: f32| [(pixel % width) as f32 / sigma, (pixel / width) as f32 / sigma];
        let kernel = |weight: f32, option: &'static str, lattice: Option<Lattice>| match lattice {
            Some(mut lattice) => {
                lattice.normalize();
                Ok((weight, lattice))
            }
            None => {
                let most = Self::MOST_VERTICES;
                Err(DataError::option(
                    option,
                    format!("the lattice has over {most} vertices; a larger one needs fewer"),
                ))
            }
        };
        let mut kernels = Vec::new();
        if self.gaussian_weight > 0.0 {
            let lattice = Lattice::new(pixels, |pixel| place(pixel, self.gaussian_sigma), Self::MOST_VERTICES);
            kernels.push(kernel(self.gaussian_weight, "DenseCrf gaussian_sigma", lattice)?);
        }
        if self.bilateral_weight > 0.0 {
            let feature = |value: f32| value * 255.0 / self.color_sigma;
            let near = -FARTHEST..=FARTHEST;
            if let Some(value) = image.as_slice().iter().find(|value| !near.contains(&feature(**value))) {
                let reason = format!("the image has the value {value}, which is {} times this", feature(*value));
                return Err(DataError::option("DenseCrf color_sigma", reason));
            }
            let color = |pixel: usize, channel: usize| feature(image.as_slice()[pixel * image.channels() + channel]);
            let place = |pixel| place(pixel, self.bilateral_sigma);
            let lattice = match image.channels() {
                1 => {
                    let point = |pixel| {
                        let [x, y] = place(pixel);
                        [x, y, color(pixel, 0)]
                    };
                    Lattice::new(pixels, point, Self::MOST_VERTICES)
                }
                3 | 4 => {
                    let point = |pixel| {
                        let [x, y] = place(pixel);
                        [x, y, color(pixel, 0), color(pixel, 1), color(pixel, 2)]
                    };
                    Lattice::new(pixels, point, Self::MOST_VERTICES)
                }
                actual => return Err(DataError::Channels { what: "DenseCrf", expected: 3, actual }),
            };
            kernels.push(kernel(self.bilateral_weight, "DenseCrf bilateral_sigma", lattice)?);
        }
        Ok(kernels)
    }
}

/// Softmax over the lanes of all planes, at each pixel.
fn softmax(planes: &mut [Vec<Lanes>]) {
    let pixels = planes.first().map_or(0, Vec::len);
    let mut most = vec![f32::NEG_INFINITY; pixels];
    for plane in planes.iter() {
        let pairs = most.par_iter_mut().zip(plane).with_min_len(1024);
        pairs.for_each(|(most, values)| *most = values.iter().copied().fold(*most, f32::max));
    }
    let mut sum = vec![0.0; pixels];
    for plane in planes.iter_mut() {
        let pairs = sum.par_iter_mut().zip(&most).zip(plane).with_min_len(1024);
        pairs.for_each(|((sum, most), values)| {
            *values = values.map(|value| (value - most).exp());
            *sum += values.iter().sum::<f32>();
        });
    }
    for plane in planes {
        let pairs = plane.par_iter_mut().zip(&sum).with_min_len(1024);
        pairs.for_each(|(values, sum)| *values = values.map(|value| value / sum));
    }
}
