//! The blocks that networks are built from. Every convolution, normalization, pooling and up-sampling of every network is
//! called here and nowhere else, so that a faster one is put under all of them at once.

mod activation;
mod conv;
mod conv3d;
mod double_conv;
mod dropout;
mod fpn;
mod head;
mod linear;
mod norm;
mod pad;
mod pool;
mod separable;
mod squeeze;
mod upsample;

pub use activation::Activation;
pub(crate) use conv::default_initializer;
pub use conv::{
    ConvBlock, ConvBlockConfig, add_relu, conv_norm, conv2d, max_pool2d, max_pool2d_overlapping, max_pool2d_same,
    zero_bias,
};
pub use conv3d::{
    ConvBlock3d, ConvBlock3dConfig, cat_channels3d, conv_transpose3d, conv3d, doubling3d, max_pool3d, pad_to_multiple3d,
};
pub use double_conv::{DoubleConv, DoubleConvConfig};
pub use dropout::{channel_dropout, image_dropout};
pub use fpn::{FeaturePyramid, LastLevel, LastLevelP6P7};
pub(crate) use head::{decoder_initializer, segmentation_head};
pub use linear::{linear, linear2d, scaled_linear2d};
pub use norm::{FrozenBatchNorm, LayerNorm2d, Norm, NormConfig};
pub use pad::{center_crop, mirror_pad, pad_to_least, pad_to_multiple};
pub use pool::{adaptive_avg_pool2d, global_avg_pool2d};
pub use separable::SeparableConv;
pub use squeeze::SqueezeExcitation;
pub use upsample::{Upsample, UpsampleConfig, conv_transpose2d, resize_to, upsample_nearest};

use crate::weights::{TorchName, TorchNames};

/// PyTorch's libraries write convolution, norm and activation one after the other into a `Sequential`.
pub(crate) const TORCH_NAMES: TorchNames = &[
    ("ConvBlock", "conv", TorchName::Is("0")),
    ("ConvBlock", "norm", TorchName::Is("1")),
    ("ConvBlock3d", "conv", TorchName::Is("0")),
    ("ConvBlock3d", "norm", TorchName::Is("1")),
    ("SeparableConv", "depthwise", TorchName::Is("0.0")),
    ("SeparableConv", "pointwise", TorchName::Is("0.1")),
    ("SeparableConv", "norm", TorchName::Is("1")),
];
