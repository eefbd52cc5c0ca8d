use burn::tensor::Tensor;
use segkiln_ops::{ResizeMode, resize};

use super::Corners;

use crate::ConfigError;

/// Multiple that the sides of a batch are padded to: the stride of the backbones' last map.
const SIZE_DIVISIBLE: usize = 32;

/// Normalization, resizing and batching of images; torchvision's `GeneralizedRCNNTransform`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTransform {
    /// Shorter side that images are resized to, in pixels.
    pub min_size: usize,
    /// Upper bound of the longer side, in pixels.
    pub max_size: usize,
    /// Mean of each channel, of values from 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl ImageTransform {
    /// Checks sizes (1 to 16,384 pixels), and that `mean` and `std` have finite values for `channels` channels.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self, channels: usize) -> Result<(), ConfigError> {
        for (name, value) in [("min_size", self.min_size), ("max_size", self.max_size)] {
            if !(1..=16_384).contains(&value) {
                return Err(ConfigError::new(name, format!("must be from 1 to 16384, is {value}")));
            }
        }
        if self.mean.len() != channels || self.std.len() != channels {
            return Err(ConfigError::new(
                "mean and std",
                format!("need {channels} values each, one for each channel of the image"),
            ));
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) || !self.std.iter().all(|std| *std > 0.0 && std.is_finite()) {
            return Err(ConfigError::new("mean and std", "must be finite and std above 0"));
        }
        Ok(())
    }

    /// Normalizes images, resizes them (bilinear) and pads them at the right and the bottom to one size.
    ///
    /// # Shapes
    /// Each image `[channels, height, width]`, values from 0 to 1; at least one.
    ///
    /// # Panics
    /// If there is no image, or one has other channels than `mean`; [`check_images`](super::check_images) finds these.
    pub fn forward(&self, images: &[Tensor<3>]) -> ImageBatch {
        let original_sizes: Vec<[usize; 2]> = images.iter().map(size).collect();
        let sizes: Vec<[usize; 2]> = original_sizes.iter().map(|size| self.resized(*size)).collect();
        let padded =
            [0, 1].map(|side| sizes.iter().map(|size| size[side]).max().unwrap_or(1).next_multiple_of(SIZE_DIVISIBLE));
        let device = images[0].device();
        let channels = self.mean.len();
        let [mean, std] = [&self.mean, &self.std]
            .map(|values| Tensor::<1>::from_floats(values.as_slice(), &device).reshape([1, channels, 1, 1]));
        let images = images.iter().zip(&sizes).map(|(image, size)| {
            let image = (image.clone().unsqueeze() - mean.clone()) / std.clone();
            let image = resize(image, *size, ResizeMode::default());
            if *size == padded {
                return image;
            }
            let all = Tensor::zeros([1, channels, padded[0], padded[1]], &device);
            all.slice_assign([0..1, 0..channels, 0..size[0], 0..size[1]], image)
        });
        ImageBatch { tensor: Tensor::cat(images.collect(), 0), sizes, original_sizes }
    }

    /// Height and width that an image of `[height, width]` is resized to.
    pub fn resized(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let (least, most) = (height.min(width) as f64, height.max(width) as f64);
        let scale = (self.min_size as f64 / least).min(self.max_size as f64 / most);
        // A very long image would have no row left.
        [height, width].map(|side| ((side as f64 * scale).floor() as usize).max(1))
    }
}

/// Images of any sizes in one tensor.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// `[n, channels, height, width]`, each image in the upper left corner, zeros around it.
    pub tensor: Tensor<4>,
    /// Height and width of each image in the tensor.
    pub sizes: Vec<[usize; 2]>,
    /// Height and width of each image before it was resized.
    pub original_sizes: Vec<[usize; 2]>,
}

impl ImageBatch {
    /// Height and width of the tensor.
    pub fn padded_size(&self) -> [usize; 2] {
        let [_, _, height, width] = self.tensor.dims();
        [height, width]
    }

    /// Factors of x and y from an image's own pixels to the tensor's.
    pub fn scale(&self, image: usize) -> [f32; 2] {
        let ([height, width], [from_height, from_width]) = (self.sizes[image], self.original_sizes[image]);
        [width as f32 / from_width as f32, height as f32 / from_height as f32]
    }

    /// Brings a box from the tensor's pixels to those of its image.
    pub fn restore(&self, image: usize, [x1, y1, x2, y2]: Corners) -> Corners {
        let ([height, width], [to_height, to_width]) = (self.sizes[image], self.original_sizes[image]);
        let (x, y) = (to_width as f32 / width as f32, to_height as f32 / height as f32);
        [x1 * x, y1 * y, x2 * x, y2 * y]
    }
}

/// Height and width of an image `[channels, height, width]`.
pub(super) fn size(image: &Tensor<3>) -> [usize; 2] {
    let [_, height, width] = image.dims();
    [height, width]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_torchvision_s() {
        let transform = ImageTransform { min_size: 800, max_size: 1333, mean: vec![0.5], std: vec![0.5] };
        for (from, to) in [
            ([480, 640], [800, 1066]),
            ([640, 480], [1066, 800]),
            ([426, 640], [800, 1201]),
            ([100, 1000], [133, 1333]),
            ([800, 800], [800, 800]),
            ([1, 5000], [1, 1333]),
        ] {
            assert_eq!(transform.resized(from), to);
        }
    }
}
