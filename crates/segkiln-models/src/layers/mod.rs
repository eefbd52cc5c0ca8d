//! The blocks that networks are built from. Every convolution, normalisation, pooling and up-sampling of every network is
//! called here and nowhere else, so that a faster one is put under all of them at once.

mod conv;
mod double_conv;
mod norm;
mod pad;
mod upsample;

pub use conv::{ConvBlock, ConvBlockConfig, conv2d, max_pool2d};
pub use double_conv::{DoubleConv, DoubleConvConfig};
pub use norm::{Norm, NormConfig};
pub use pad::{center_crop, mirror_pad, pad_to_multiple};
pub use upsample::{Upsample, UpsampleConfig};
