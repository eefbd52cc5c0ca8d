//! The blocks that networks are built from. Every convolution, normalisation, pooling and up-sampling of every network is
//! called here and nowhere else, so that a faster one is put under all of them at once.

mod activation;
mod conv;
mod double_conv;
mod fpn;
mod norm;
mod pad;
mod squeeze;
mod upsample;

pub use activation::Activation;
pub(crate) use conv::default_initializer;
pub use conv::{ConvBlock, ConvBlockConfig, conv_norm, conv2d, max_pool2d, max_pool2d_overlapping, zero_bias};
pub use double_conv::{DoubleConv, DoubleConvConfig};
pub use fpn::FeaturePyramid;
pub use norm::{FrozenBatchNorm, Norm, NormConfig};
pub use pad::{center_crop, mirror_pad, pad_to_multiple};
pub use squeeze::SqueezeExcitation;
pub use upsample::{Upsample, UpsampleConfig, conv_transpose2d};
