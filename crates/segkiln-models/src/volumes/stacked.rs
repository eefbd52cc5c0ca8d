use burn::{
    config::Config,
    module::Module,
    tensor::{Device, Tensor},
};
use segkiln_ops::{ResizeMode, resize, slices, volumes};

use super::{UNet3d, UNet3dConfig};
use crate::{
    ConfigError,
    segmentation::{HeadLogits, SegmentationNetwork, SegmentationNetworkConfig, owned},
};

/// Configuration of a [`StackedUNet3d`].
#[derive(Config, Debug)]
pub struct StackedUNet3dConfig {
    /// The network of volumes.
    pub unet: UNet3dConfig,
    /// Slices of a volume.
    pub slices: usize,
}

/// A [`UNet3d`] as a segmentation network, so that the trainer with its losses, metrics and checkpoints takes it: a volume is an
/// image whose slices lie one below the other, from the first to the last.
///
/// Transforms that move pixels between rows, such as crops and rotations, would move them between slices too; mirrored rows mirror
/// slices and rows. A data set of patches crops volumes before it stacks them.
///
/// # Panics
/// The forward pass, if an image's height is no multiple of the slices.
#[derive(Module, Debug)]
pub struct StackedUNet3d {
    /// The network of volumes.
    pub unet: UNet3d,
    #[module(skip)]
    slices: usize,
}

impl StackedUNet3d {
    /// Returns volumes of which an image's rows are the slices.
    fn volumes(&self, x: Tensor<4>) -> Tensor<5> {
        let [batch, channels, rows, width] = x.dims();
        assert!(rows.is_multiple_of(self.slices), "{rows} rows are not those of {} slices", self.slices);
        x.reshape([batch, channels, self.slices, rows / self.slices, width])
    }
}

/// Returns the slices of volumes one below the other.
fn stacked(x: Tensor<5>) -> Tensor<4> {
    let [batch, channels, depth, height, width] = x.dims();
    x.reshape([batch, channels, depth * height, width])
}

/// Repeats voxels `factor` times along each axis.
fn enlarged(x: Tensor<5>, factor: usize) -> Tensor<5> {
    let [batch, channels, depth, height, width] = x.dims();
    let (height, width) = (height * factor, width * factor);
    let x = resize(slices(x), [height, width], ResizeMode::Nearest);
    let x = x.reshape([batch * depth, 1, channels * height * width]);
    let x = x.expand([batch * depth, factor, channels * height * width]);
    volumes(x.reshape([batch * depth * factor, channels, height, width]), batch)
}

impl SegmentationNetwork for StackedUNet3d {
    type Config = StackedUNet3dConfig;

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        stacked(self.unet.forward(self.volumes(x)))
    }

    /// The logits of a level with half the size count half as much, as in nnU-Net; their voxels are repeated.
    fn forward_heads(&self, x: Tensor<4>) -> Vec<HeadLogits> {
        let x = self.volumes(x);
        let [batch, _, depth, height, width] = x.dims();
        let heads = self.unet.forward_heads(x);
        let last = heads.len() - 1;
        let heads = heads.into_iter().enumerate().map(|(index, logits)| {
            let factor = 1usize << (last - index);
            let logits = if factor == 1 { logits } else { enlarged(logits, factor) };
            let classes = logits.dims()[1];
            // Of a volume that was mirrored up to whole windows of pooling, its own part.
            let logits = logits.slice([0..batch, 0..classes, 0..depth, 0..height, 0..width]);
            HeadLogits { weight: 1.0 / factor as f64, logits: stacked(logits) }
        });
        heads.collect()
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["unet.head.", "unet.heads."])
    }
}

impl SegmentationNetworkConfig for StackedUNet3dConfig {
    type Network = StackedUNet3d;

    fn check(&self) -> Result<(), ConfigError> {
        if self.slices == 0 {
            return Err(ConfigError::new("slices", "must be at least 1, is 0"));
        }
        self.unet.check()
    }

    fn init(&self, device: &Device) -> StackedUNet3d {
        StackedUNet3d { unet: self.unet.init(device), slices: self.slices }
    }

    fn in_channels(&self) -> usize {
        self.unet.in_channels
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        Self { unet: UNet3dConfig { in_channels, ..self.unet }, ..self }
    }

    fn classes(&self) -> usize {
        self.unet.classes
    }

    fn summary(&self, [height, width]: [usize; 2], device: &Device) -> crate::Summary {
        let image = Tensor::zeros([1, self.in_channels(), self.slices * height, width], &device.clone().inner());
        crate::Summary::of(&self.init(&device.clone().inner()), |model| drop(model.forward(image)))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    #[test]
    fn is_the_network_of_the_volume() {
        let device = Device::default();
        let config = UNet3dConfig::new(2, 3).with_base(4).with_depth(2).with_deep_supervision(true);
        let network = StackedUNet3dConfig::new(config, 6).init(&device);
        let x = Tensor::<5>::random([2, 2, 6, 5, 9], Distribution::Default, &device);
        let volume = network.unet.forward(x.clone());
        let image = network.forward(x.clone().reshape([2, 2, 30, 9]));
        let expected = volume.reshape([2, 3, 30, 9]).into_data();
        image.clone().into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
        let heads = network.forward_heads(x.reshape([2, 2, 30, 9]));
        assert_eq!(
            heads.iter().map(|head| (head.weight, head.logits.dims())).collect::<Vec<_>>(),
            [(0.5, [2, 3, 30, 9]), (1.0, [2, 3, 30, 9])]
        );
        heads[1].logits.clone().into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
    }

    #[test]
    fn repeats_voxels() {
        let x = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &Device::default()).reshape([1, 1, 2, 1, 2]);
        let y = enlarged(x, 2).reshape([4, 2, 4]).into_data().try_to_vec::<f32>().unwrap();
        let slice = |a: f32, b: f32| [a, a, b, b].repeat(2);
        assert_eq!(y, [slice(1.0, 2.0), slice(1.0, 2.0), slice(3.0, 4.0), slice(3.0, 4.0)].concat());
    }

    #[test]
    #[should_panic(expected = "31 rows are not those of 6 slices")]
    fn refuses_rows_of_no_whole_slices() {
        let device = Device::default();
        let config = StackedUNet3dConfig::new(UNet3dConfig::new(1, 1).with_base(1).with_depth(1), 6);
        config.init(&device).forward(Tensor::zeros([1, 1, 31, 8], &device));
    }
}
