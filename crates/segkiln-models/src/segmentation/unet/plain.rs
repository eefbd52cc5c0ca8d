//! U-Net: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
//! <https://arxiv.org/abs/1505.04597>.

use burn::{
    config::Config,
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};

use super::Encoder;
use crate::layers::{DoubleConv, NormConfig, Upsample, center_crop, conv2d, mirror_pad, pad_to_multiple};
use crate::precision::keep_reduced;
use crate::segmentation::{SegmentationNetwork, owned};

/// Whether convolutions keep height and width.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum ConvPadding {
    /// Zeros around each input: logits of the input's height and width.
    Same,
    /// No padding: logits smaller than the input, free of border effects; skips are cropped. The paper's form.
    Valid,
}

super::plain_config! {
    /// Configuration of a [`UNet`].
    UNetConfig of UNet, base 64, padding |config| usize::from(config.padding == ConvPadding::Same);
    /// Whether convolutions keep height and width.
    #[config(default = "ConvPadding::Same")]
    padding: ConvPadding,
}

impl UNetConfig {
    /// The paper's network: valid convolutions without normalization, 64 channels, 4 levels, one gray channel in, two
    /// classes out; 572×572 pixels give logits of 388×388.
    pub fn paper() -> Self {
        Self::new(1, 2).with_norm(NormConfig::None).with_padding(ConvPadding::Valid).with_dropout(0.5)
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> UNet {
        let blocks = self.blocks();
        let levels = || (0..self.depth).rev();
        UNet {
            encoder: blocks.encoder(device),
            up: levels()
                .map(|level| self.upsample.init(blocks.channels(level + 1), blocks.channels(level), device))
                .collect(),
            decoder: levels().map(|level| blocks.double_conv(2 * blocks.channels(level), level, device)).collect(),
            head: blocks.head(self.classes, device),
            padding: self.padding,
        }
    }
}

/// The network; see [`UNetConfig`].
#[derive(Module, Debug)]
pub struct UNet {
    /// Contracting path.
    pub encoder: Encoder,
    /// Up-sampling of the expanding path, deepest first.
    pub up: Vec<Upsample>,
    /// Convolutions of the expanding path, deepest first.
    pub decoder: Vec<DoubleConv>,
    /// 1×1 convolution to the logits.
    pub head: Conv2d,
    #[module(skip)]
    padding: ConvPadding,
}

impl UNet {
    /// # Shapes
    /// - `x`: `[batch, in_channels, height, width]`
    /// - logits: `[batch, classes, height, width]` with same padding, for any height and width of at least one pixel;
    ///   with valid convolutions the sides that the paper's arithmetic gives (572 → 388)
    ///
    /// # Panics
    /// With valid convolutions, if the image is too small for a single output pixel; see [`forward_full`](Self::forward_full).
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self.padding {
            ConvPadding::Valid => self.raw(x),
            ConvPadding::Same => {
                let [n, _, height, width] = x.dims();
                let logits = self.raw(pad_to_multiple(x, 1 << self.up.len()));
                let [_, classes, _, _] = logits.dims();
                logits.slice([0..n, 0..classes, 0..height, 0..width])
            }
        }
    }

    /// Logits of the image's own height and width for both paddings: with valid convolutions the image is mirrored past
    /// its borders first, as the paper's overlap-tile strategy does.
    ///
    /// # Shapes
    /// `[batch, in_channels, height, width]` → `[batch, classes, height, width]`
    pub fn forward_full(&self, x: Tensor<4>) -> Tensor<4> {
        if self.padding == ConvPadding::Same {
            return self.forward(x);
        }
        let [_, _, height, width] = x.dims();
        let around = |side: usize| {
            let (input, output) = valid_sides(side, self.up.len());
            let before = (input - output) / 2 + (output - side) / 2;
            [before, input - side - before]
        };
        center_crop(self.raw(mirror_pad(x, around(height), around(width))), [height, width])
    }

    fn raw(&self, x: Tensor<4>) -> Tensor<4> {
        // All that happens to a map is in a layer.
        keep_reduced(|| self.levels(x))
    }

    fn levels(&self, x: Tensor<4>) -> Tensor<4> {
        let (mut features, mut x) = self.encoder.forward(x);
        for (up, decoder) in self.up.iter().zip(&self.decoder) {
            let below = up.forward(x);
            let [_, _, height, width] = below.dims();
            let skip = center_crop(features.pop().expect("as many levels down as up"), [height, width]);
            x = decoder.forward([skip, below]);
        }
        conv2d(&self.head, x)
    }
}

/// The smallest input side whose valid convolutions give at least `side` outputs, and how many they give.
fn valid_sides(side: usize, depth: usize) -> (usize, usize) {
    // Upwards, a side s becomes 2s − 4 at each level; the bottleneck's own output is the start.
    let output = |bottleneck: usize| (0..depth).try_fold(bottleneck, |s, _| (2 * s).checked_sub(4));
    let bottleneck = (1..).find(|&b| output(b).is_some_and(|o| o >= side)).expect("sides grow without end");
    let input = (0..depth).fold(bottleneck + 4, |s, _| 2 * s + 4);
    (input, output(bottleneck).expect("found above"))
}

impl SegmentationNetwork for UNet {
    type Config = UNetConfig;

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_full(x)
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["head."])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_s_arithmetic() {
        assert_eq!(valid_sides(388, 4), (572, 388));
        assert_eq!(valid_sides(1, 4), (188, 4));
    }

    #[test]
    fn any_size_comes_back() {
        let device = Device::default();
        let unet = UNetConfig::new(2, 3).with_base(4).with_depth(3).init(&device);
        for [height, width] in [[1, 1], [7, 16], [33, 8]] {
            assert_eq!(unet.forward(Tensor::zeros([1, 2, height, width], &device)).dims(), [1, 3, height, width]);
        }
        let paper = UNetConfig::paper().with_base(2).with_depth(2).init(&device);
        for [height, width] in [[1, 5], [30, 41]] {
            assert_eq!(paper.forward_full(Tensor::zeros([1, 1, height, width], &device)).dims(), [1, 2, height, width]);
        }
    }

    #[test]
    fn full_forward_agrees_with_the_plain_one_inside() {
        let device = Device::default();
        let paper = UNetConfig::paper().with_base(2).with_depth(1).init(&device);
        let x = Tensor::<4>::random([1, 1, 40, 40], burn::tensor::Distribution::Default, &device);
        let inner = paper.forward(x.clone());
        let [_, _, height, width] = inner.dims();
        assert_eq!([height, width], [24, 24]);
        let full = paper.forward_full(x);
        // The mirrored border adds an even number of pixels, so the pooling grid is the same.
        let cut = center_crop(full, [height, width]);
        cut.into_data().assert_approx_eq::<f32>(&inner.into_data(), burn::tensor::Tolerance::absolute(1e-5));
    }

    #[test]
    fn five_hundred_and_seventy_two_gives_three_hundred_and_eighty_eight() {
        let device = Device::default();
        let paper = UNetConfig::paper().with_base(1).init(&device);
        assert_eq!(paper.forward(Tensor::zeros([1, 1, 572, 572], &device)).dims(), [1, 2, 388, 388]);
    }
}
