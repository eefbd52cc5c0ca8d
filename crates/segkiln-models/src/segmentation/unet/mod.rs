//! U-Net and its best known relatives. One file a network; they differ in how the decoder uses the encoder's features:
//!
//! | network | a decoder level concatenates |
//! |---|---|
//! | [`UNet`] | the up-sampled level below and the encoder's features |
//! | [`AttentionUNet`] | the same, the encoder's features weighed by a gate |
//! | [`UNetPlusPlus`] | the up-sampled level below and all earlier nodes of a nested grid |
//! | [`EncodedUNet`] | as [`UNet`], on any [backbone](crate::backbones) |
//! | [`FusionUNet`] | as [`EncodedUNet`], the features of two encoders fused |
//! | [`EncodedUNetPlusPlus`] | as [`UNetPlusPlus`], on any backbone |
//!
//! Without a backbone channels double at each level, `base << level`, and with same padding, inputs of any height and width
//! are mirrored up to a multiple of `2^depth` and the logits cropped back. With one, maps are resized to those that they
//! meet.

mod attention;
mod encoded;
mod encoded_plus_plus;
mod fusion;
mod plain;
mod plus_plus;

pub use attention::{AttentionGate, AttentionUNet, AttentionUNetConfig};
pub use encoded::{EncodedUNet, EncodedUNetBlock, EncodedUNetConfig, EncodedUNetDecoder};
pub use encoded_plus_plus::{EncodedUNetPlusPlus, EncodedUNetPlusPlusConfig, EncodedUNetPlusPlusDecoder};
pub use fusion::{FusionUNet, FusionUNetConfig};
pub use plain::{ConvPadding, UNet, UNetConfig};
pub use plus_plus::{UNetPlusPlus, UNetPlusPlusConfig};

use burn::{
    module::Module,
    nn::{
        Dropout, DropoutConfig,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use crate::{
    ConfigError,
    layers::{Activation, DoubleConv, DoubleConvConfig, NormConfig, max_pool2d},
};

/// Whether a decoder's levels can be built.
fn check_channels(channels: &[usize]) -> Result<(), ConfigError> {
    if channels.iter().any(|channels| !(1..=8192).contains(channels)) {
        return Err(ConfigError::new("channels", format!("must be from 1 to 8192 each, are {channels:?}")));
    }
    Ok(())
}

/// The contracting path that the networks of this module share.
#[derive(Module, Debug)]
pub struct Encoder {
    /// Level 0 at the input's size first; each level halves height and width.
    pub levels: Vec<DoubleConv>,
    /// The deepest level.
    pub bottleneck: DoubleConv,
    /// After the bottleneck, as in the paper.
    pub dropout: Dropout,
}

impl Encoder {
    /// # Shapes
    /// - `x`: `[n, in_channels, h, w]`
    /// - output: features of the levels, `[n, base << level, h >> level, w >> level]`, and of the bottleneck
    pub fn forward(&self, mut x: Tensor<4>) -> (Vec<Tensor<4>>, Tensor<4>) {
        let mut features = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            x = level.forward(x);
            features.push(x.clone());
            x = max_pool2d(x);
        }
        (features, self.dropout.forward(self.bottleneck.forward(x)))
    }
}

/// Defines the config of a network of [`Blocks`]: the fields that these networks have in common, with the channels of the first
/// level, and then its own.
macro_rules! plain_config {
    (
        $(#[$doc:meta])*
        $config:ident of $network:ident, base $base:tt, padding |$this:ident| $padding:expr;
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    ) => {
        $(#[$doc])*
        #[derive(burn::config::Config, Debug)]
        pub struct $config {
            /// Channels of the image.
            pub in_channels: usize,
            /// Channels of the logits: 1 for a binary task, else the number of classes.
            pub classes: usize,
            /// Channels at the input's size; they double at each level.
            #[config(default = $base)]
            pub base: usize,
            /// Number of times that height and width are halved.
            #[config(default = 4)]
            pub depth: usize,
            /// Normalization after each convolution but the head's.
            #[config(default = "crate::layers::NormConfig::default()")]
            pub norm: crate::layers::NormConfig,
            /// Activation after each normalization.
            #[config(default = "crate::layers::Activation::Relu")]
            pub activation: crate::layers::Activation,
            /// Layer with which the decoder doubles height and width.
            #[config(default = "crate::layers::UpsampleConfig::Transposed")]
            pub upsample: crate::layers::UpsampleConfig,
            $($(#[$field_doc])* pub $field: $type,)*
            /// Probability with which a value after the deepest level is dropped in training.
            #[config(default = 0.0)]
            pub dropout: f64,
        }

        impl $config {
            fn blocks(&self) -> super::Blocks {
                let $this = self;
                super::Blocks {
                    in_channels: self.in_channels,
                    base: self.base,
                    depth: self.depth,
                    padding: $padding,
                    norm: self.norm.clone(),
                    activation: self.activation,
                    dropout: self.dropout,
                }
            }
        }

        impl crate::SegmentationNetworkConfig for $config {
            type Network = $network;

            fn check(&self) -> Result<(), crate::ConfigError> {
                self.blocks().check()
            }

            fn init(&self, device: &Device) -> $network {
                self.init(device)
            }

            fn in_channels(&self) -> usize {
                self.in_channels
            }

            fn with_in_channels(self, in_channels: usize) -> Self {
                Self { in_channels, ..self }
            }

            fn classes(&self) -> usize {
                self.classes
            }
        }
    };
}

use plain_config;

/// Fields that the configs of this module's plain networks have in common.
struct Blocks {
    in_channels: usize,
    base: usize,
    depth: usize,
    padding: usize,
    norm: NormConfig,
    activation: Activation,
    dropout: f64,
}

impl Blocks {
    /// Whether networks of these blocks can be built: configs from files are checked before anything is allocated.
    fn check(&self) -> Result<(), ConfigError> {
        /// Several times what published U-Nets have; a convolution of so many channels takes 2.4 GB.
        const MOST_CHANNELS: usize = 8192;
        /// Images are padded to a multiple of two to the power of this.
        const DEEPEST: usize = 12;
        let in_range = |name: &'static str, value: usize, most: usize| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(ConfigError::new(name, format!("must be from 1 to {most}, is {value}"))),
        };
        in_range("in_channels", self.in_channels, MOST_CHANNELS)?;
        in_range("base", self.base, MOST_CHANNELS)?;
        in_range("depth", self.depth, DEEPEST)?;
        if self.channels(self.depth) > MOST_CHANNELS {
            return Err(ConfigError::new(
                "base",
                format!("{} doubled {} times is over {MOST_CHANNELS} channels", self.base, self.depth),
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigError::new("dropout", format!("must be at least 0 and below 1, is {}", self.dropout)));
        }
        self.norm.check(self.base)
    }

    fn channels(&self, level: usize) -> usize {
        self.base << level
    }

    fn double_conv(&self, in_channels: usize, level: usize, device: &Device) -> DoubleConv {
        DoubleConvConfig::new(in_channels, self.channels(level))
            .with_padding(self.padding)
            .with_norm(self.norm.clone())
            .with_activation(self.activation)
            .init(device)
    }

    fn encoder(&self, device: &Device) -> Encoder {
        let input = |level: usize| if level == 0 { self.in_channels } else { self.channels(level - 1) };
        Encoder {
            levels: (0..self.depth).map(|level| self.double_conv(input(level), level, device)).collect(),
            bottleneck: self.double_conv(input(self.depth), self.depth, device),
            dropout: DropoutConfig::new(self.dropout).init(),
        }
    }

    fn head(&self, classes: usize, device: &Device) -> Conv2d {
        Conv2dConfig::new([self.base, classes], [1, 1]).init(device)
    }
}
