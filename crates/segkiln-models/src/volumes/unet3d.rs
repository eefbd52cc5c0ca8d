//! 3D U-Net: Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger, "3D U-Net: Learning Dense Volumetric Segmentation from Sparse
//! Annotation", MICCAI 2016, <https://arxiv.org/abs/1606.06650>.

use burn::{
    config::Config,
    module::Module,
    nn::{
        Dropout, DropoutConfig,
        conv::{Conv3d, Conv3dConfig, ConvTranspose3d},
    },
    tensor::{Device, Tensor},
};
use segkiln_ops::{slices, volumes};

use crate::{
    ConfigError,
    layers::{
        Activation, ConvBlock3d, ConvBlock3dConfig, NormConfig, cat_channels3d, conv_transpose3d, conv3d, doubling3d,
        max_pool3d, pad_to_multiple3d,
    },
};

/// Growth of the channels from level to level.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Widths {
    /// Those of a U-Net of images: both convolutions of a level have `base << level` channels, and so has what is enlarged to it.
    Even,
    /// The paper's: a level's second convolution has twice the channels of its first, so that none is narrow just before the
    /// pooling; and enlarging keeps the channels.
    Paper,
}

/// Configuration of a [`UNet3d`].
#[derive(Config, Debug)]
pub struct UNet3dConfig {
    /// Channels of the volume.
    pub in_channels: usize,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Channels of the first convolution; they double at each level.
    #[config(default = 32)]
    pub base: usize,
    /// Number of times that depth, height and width are halved.
    #[config(default = 3)]
    pub depth: usize,
    /// Growth of the channels.
    #[config(default = "Widths::Even")]
    pub widths: Widths,
    /// Normalization after each convolution of 3×3×3.
    #[config(default = "NormConfig::default()")]
    pub norm: NormConfig,
    /// Activation after each normalization.
    #[config(default = "Activation::Relu")]
    pub activation: Activation,
    /// Whether a level of the contracting path adds its input, by a convolution of 1×1×1 where channels differ, before its last
    /// activation (He et al. 2016; nnU-Net's residual encoder).
    #[config(default = false)]
    pub residual: bool,
    /// Whether every level of the expanding path has logits of its own, for a loss in training (Lee et al. 2015).
    #[config(default = false)]
    pub deep_supervision: bool,
    /// Probability with which a value after the deepest level is dropped in training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

impl UNet3dConfig {
    /// The paper's network: three channels in, three classes. The paper counts 19,069,955 parameters, without the scales of the norms
    /// and the biases of the transposed convolutions, which are 3,232 more.
    pub fn paper() -> Self {
        Self::new(3, 3).with_widths(Widths::Paper)
    }

    /// Checks whether the network can be built.
    ///
    /// # Errors
    /// [`ConfigError`] that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        /// A convolution of so many channels has 450 million weights.
        const MOST_CHANNELS: usize = 4096;
        /// Sides are padded to a multiple of two to the power of this.
        const DEEPEST: usize = 8;
        let in_range = |name: &'static str, value: usize, most: usize| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(ConfigError::new(name, format!("must be from 1 to {most}, is {value}"))),
        };
        in_range("in_channels", self.in_channels, MOST_CHANNELS)?;
        in_range("classes", self.classes, MOST_CHANNELS)?;
        in_range("base", self.base, MOST_CHANNELS)?;
        in_range("depth", self.depth, DEEPEST)?;
        let [_, most] = self.channels(self.depth);
        if most > MOST_CHANNELS {
            let reason = format!("{} doubled {} times is over {MOST_CHANNELS} channels", self.base, self.depth);
            return Err(ConfigError::new("base", reason));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigError::new("dropout", format!("must be at least 0 and below 1, is {}", self.dropout)));
        }
        self.norm.check(self.base)
    }

    /// Returns the channels of the two convolutions of a level of the contracting path.
    fn channels(&self, level: usize) -> [usize; 2] {
        let even = self.base << level;
        match self.widths {
            Widths::Even => [even; 2],
            Widths::Paper => [even, 2 * even],
        }
    }

    fn double_conv(&self, channels: [usize; 3], residual: bool, device: &Device) -> DoubleConv3d {
        let block = |from: usize, to: usize, kernel: usize, activation: Activation| {
            ConvBlock3dConfig::new(from, to)
                .with_kernel(kernel)
                .with_norm(self.norm.clone())
                .with_activation(activation)
                .init(device)
        };
        let [input, inner, output] = channels;
        let last = if residual { Activation::Identity } else { self.activation };
        let shortcut = (residual && input != output).then(|| block(input, output, 1, Activation::Identity));
        DoubleConv3d {
            first: block(input, inner, 3, self.activation),
            second: block(inner, output, 3, last),
            shortcut,
            residual: residual.then_some(self.activation),
        }
    }

    fn head(&self, channels: usize, device: &Device) -> Conv3d {
        Conv3dConfig::new([channels, self.classes], [1; 3]).init(device)
    }

    /// Creates the network with random weights.
    ///
    /// # Panics
    /// If [`check`](Self::check) fails.
    pub fn init(&self, device: &Device) -> UNet3d {
        self.check().expect("a config that was checked");
        let level = |level: usize| {
            let input = if level == 0 { self.in_channels } else { self.channels(level - 1)[1] };
            let [inner, output] = self.channels(level);
            self.double_conv([input, inner, output], self.residual, device)
        };
        let (mut up, mut decoder, mut heads) = (Vec::new(), Vec::new(), Vec::new());
        let mut below = self.channels(self.depth)[1];
        for level in (0..self.depth).rev() {
            let [_, skip] = self.channels(level);
            let enlarged = if self.widths == Widths::Paper { below } else { skip };
            up.push(doubling3d(below, enlarged, device));
            decoder.push(self.double_conv([skip + enlarged, skip, skip], false, device));
            below = skip;
            if self.deep_supervision && level > 0 {
                heads.push(self.head(skip, device));
            }
        }
        UNet3d {
            encoder: (0..self.depth).map(level).collect(),
            bottleneck: level(self.depth),
            dropout: DropoutConfig::new(self.dropout).init(),
            up,
            decoder,
            heads,
            head: self.head(below, device),
        }
    }
}

/// Two convolutions of 3×3×3 with norms and activations.
#[derive(Module, Debug)]
pub struct DoubleConv3d {
    /// Block from the input channels.
    pub first: ConvBlock3d,
    /// Block to the output channels.
    pub second: ConvBlock3d,
    /// Convolution of the input before it is added to the output, where a residual block's channels differ.
    pub shortcut: Option<ConvBlock3d>,
    /// Last activation of a residual block.
    #[module(skip)]
    residual: Option<Activation>,
}

impl DoubleConv3d {
    /// # Shapes
    /// `[batch, in_channels, depth, height, width]` → `[batch, out_channels, depth, height, width]`
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let Some(activation) = self.residual else {
            return self.second.forward(self.first.forward(x));
        };
        let batch = x.dims()[0];
        let shortcut = self.shortcut.as_ref().map_or_else(|| x.clone(), |shortcut| shortcut.forward(x.clone()));
        let y = self.second.forward(self.first.forward(x));
        volumes(activation.forward(slices(y) + slices(shortcut)), batch)
    }
}

/// The network; see [`UNet3dConfig`].
#[derive(Module, Debug)]
pub struct UNet3d {
    /// Levels of the contracting path, the largest first.
    pub encoder: Vec<DoubleConv3d>,
    /// The deepest level.
    pub bottleneck: DoubleConv3d,
    /// After the deepest level.
    pub dropout: Dropout,
    /// Enlarging layers of the expanding path, the deepest first.
    pub up: Vec<ConvTranspose3d>,
    /// Convolutions of the expanding path, the deepest first.
    pub decoder: Vec<DoubleConv3d>,
    /// 1×1×1 convolutions to the logits of all levels but the last, the deepest first; none without deep supervision.
    pub heads: Vec<Conv3d>,
    /// 1×1×1 convolution to the logits.
    pub head: Conv3d,
}

impl UNet3d {
    /// Computes the logits of volumes of any size; sides that are no multiple of `2^depth` are mirrored up to one.
    ///
    /// # Shapes
    /// `[batch, in_channels, depth, height, width]` → `[batch, classes, depth, height, width]`
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [batch, _, depth, height, width] = x.dims();
        let logits = conv3d(&self.head, self.maps(x).pop().expect("there is a level"));
        if logits.dims()[2..] == [depth, height, width] {
            return logits;
        }
        let classes = logits.dims()[1];
        logits.slice([0..batch, 0..classes, 0..depth, 0..height, 0..width])
    }

    /// Computes the logits of every head, for a loss with deep supervision: those of the volume last, and before them those of
    /// half the size, a quarter and so on; of the mirrored volume where one was mirrored.
    ///
    /// # Shapes
    /// `[batch, in_channels, depth, height, width]` → `[batch, classes, depth >> level, height >> level, width >> level]`
    pub fn forward_heads(&self, x: Tensor<5>) -> Vec<Tensor<5>> {
        let mut maps = self.maps(x);
        let last = conv3d(&self.head, maps.pop().expect("there is a level"));
        self.heads.iter().zip(maps).map(|(head, map)| conv3d(head, map)).chain([last]).collect()
    }

    /// Returns the maps of the expanding path, the deepest first.
    fn maps(&self, x: Tensor<5>) -> Vec<Tensor<5>> {
        let mut x = pad_to_multiple3d(x, 1 << self.up.len());
        let mut skips = Vec::with_capacity(self.encoder.len());
        for level in &self.encoder {
            x = level.forward(x);
            skips.push(x.clone());
            x = max_pool3d(x);
        }
        x = self.dropout.forward(self.bottleneck.forward(x));
        let mut maps = Vec::new();
        for (level, (up, decoder)) in self.up.iter().zip(&self.decoder).enumerate() {
            let skip = skips.pop().expect("as many levels down as up");
            x = decoder.forward(cat_channels3d([skip, conv_transpose3d(up, x)]));
            if !self.heads.is_empty() || level + 1 == self.up.len() {
                maps.push(x.clone());
            }
        }
        maps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::parameters;

    #[test]
    fn the_paper_s_network_has_its_parameters() {
        let (scales, biases) = (2336, 896);
        assert_eq!(parameters(&UNet3dConfig::paper().init(&Device::default())), 19_069_955 + scales + biases);
    }

    #[test]
    fn keeps_any_size() {
        let device = Device::default();
        let config = UNet3dConfig::new(2, 3).with_base(4).with_depth(2);
        for config in [config.clone(), config.clone().with_residual(true), config.with_norm(NormConfig::Instance)] {
            let network = config.init(&device);
            assert_eq!(network.forward(Tensor::ones([2, 2, 5, 9, 7], &device)).dims(), [2, 3, 5, 9, 7]);
        }
    }

    #[test]
    fn every_level_has_logits_where_asked() {
        let device = Device::default();
        let network = UNet3dConfig::new(1, 2).with_base(4).with_deep_supervision(true).init(&device);
        let sizes: Vec<[usize; 5]> =
            network.forward_heads(Tensor::ones([1, 1, 8, 16, 8], &device)).iter().map(Tensor::dims).collect();
        assert_eq!(sizes, [[1, 2, 2, 4, 2], [1, 2, 4, 8, 4], [1, 2, 8, 16, 8]]);
    }

    #[test]
    fn names_the_field_out_of_range() {
        for (config, field) in [
            (UNet3dConfig::new(1, 2).with_base(0), "base"),
            (UNet3dConfig::new(1, 2).with_depth(9), "depth"),
            (UNet3dConfig::new(1, 2).with_depth(8), "base"),
            (UNet3dConfig::new(1, 2).with_dropout(1.0), "dropout"),
        ] {
            assert!(config.check().unwrap_err().to_string().contains(field));
        }
    }
}
