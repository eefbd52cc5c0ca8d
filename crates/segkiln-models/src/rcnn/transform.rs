use burn::tensor::Tensor;
use segkiln_ops::{ResizeMode, resize};

use super::{Corners, RcnnConfig};

/// What sides must be a multiple of.
const DIVISOR: usize = 32;

/// Images of any sizes in one tensor.
pub(super) struct Images {
    /// `[n, channels, height, width]`, each image in the upper left corner, zeros around it.
    pub tensor: Tensor<4>,
    /// Height and width of each image in the tensor.
    pub sizes: Vec<[usize; 2]>,
    /// Height and width that each had before.
    pub original: Vec<[usize; 2]>,
}

impl Images {
    /// Normalises images `[channels, height, width]`, resizes them and puts them side by side.
    pub fn prepare(images: &[Tensor<3>], config: &RcnnConfig) -> Self {
        let original: Vec<[usize; 2]> = images.iter().map(size).collect();
        let sizes: Vec<[usize; 2]> = original.iter().map(|original| resized(*original, config)).collect();
        let padded =
            [0, 1].map(|side| sizes.iter().map(|size| size[side]).max().unwrap_or(1).next_multiple_of(DIVISOR));
        let device = images[0].device();
        let channels = config.mean.len();
        let [mean, std] = [&config.mean, &config.std]
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
        Self { tensor: Tensor::cat(images.collect(), 0), sizes, original }
    }

    /// What an image's coordinates in x and y are multiplied by to be those of the tensor.
    pub fn scale(&self, image: usize) -> [f32; 2] {
        let ([height, width], [from_height, from_width]) = (self.sizes[image], self.original[image]);
        [width as f32 / from_width as f32, height as f32 / from_height as f32]
    }

    /// A box in an image's own pixels.
    pub fn restore(&self, image: usize, [x1, y1, x2, y2]: Corners) -> Corners {
        let ([height, width], [to_height, to_width]) = (self.sizes[image], self.original[image]);
        let (x, y) = (to_width as f32 / width as f32, to_height as f32 / height as f32);
        [x1 * x, y1 * y, x2 * x, y2 * y]
    }
}

/// Height and width.
pub(super) fn size(image: &Tensor<3>) -> [usize; 2] {
    let [_, height, width] = image.dims();
    [height, width]
}

/// Height and width that the network sees an image with.
fn resized([height, width]: [usize; 2], config: &RcnnConfig) -> [usize; 2] {
    let (least, most) = (height.min(width) as f64, height.max(width) as f64);
    let scale = (config.min_size as f64 / least).min(config.max_size as f64 / most);
    // A very long image would have no row left.
    [height, width].map(|side| ((side as f64 * scale).floor() as usize).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_torchvision_s() {
        let config = RcnnConfig::by_name("fasterrcnn_resnet50_fpn", 2).unwrap();
        for (from, to) in [
            ([480, 640], [800, 1066]),
            ([640, 480], [1066, 800]),
            ([426, 640], [800, 1201]),
            ([100, 1000], [133, 1333]),
            ([800, 800], [800, 800]),
            ([1, 5000], [1, 1333]),
        ] {
            assert_eq!(resized(from, &config), to);
        }
    }
}
