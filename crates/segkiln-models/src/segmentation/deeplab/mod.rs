//! The DeepLab family (Chen et al.): dilated convolutions keep maps large and see far.
//!
//! | network | what is made of the backbone's maps |
//! |---|---|
//! | [`DeepLabV1`] | one convolution of large dilation of the last |
//! | [`DeepLabV2`] | the sum of several |
//! | [`DeepLabV3`] | atrous spatial pyramid pooling of the last |
//! | [`DeepLabV3Plus`] | the same, and the details of an early one |

mod aspp;
mod v1;
mod v2;
mod v3;
mod v3_plus;

pub use aspp::{Aspp, AsppBranch, AsppPooling};
pub use v1::{DeepLabV1, DeepLabV1Config};
pub use v2::{DeepLabV2, DeepLabV2Config};
pub use v3::{DeepLabHead, DeepLabV3, DeepLabV3Config};
pub use v3_plus::{DeepLabV3Plus, DeepLabV3PlusConfig, DeepLabV3PlusDecoder};

use burn::{
    nn::{
        PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::Device,
};

use crate::{
    ConfigError,
    layers::default_initializer,
    weights::{TorchName, TorchNames},
};

/// 3×3 with bias, dilated; height and width stay.
fn dilated(from: usize, to: usize, rate: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(rate, rate, rate, rate))
        .with_dilation([rate; 2])
        .with_initializer(default_initializer())
        .init(device)
}

/// Whether a pyramid can be built.
fn check(rates: &[usize], channels: usize) -> Result<(), ConfigError> {
    /// Sixteen times the largest of the papers.
    const MOST: usize = 576;
    if rates.is_empty() || rates.len() > 16 || rates.iter().any(|rate| !(1..=MOST).contains(rate)) {
        return Err(ConfigError::new("rates", format!("must be 1 to 16 numbers from 1 to {MOST}, are {rates:?}")));
    }
    if !(1..=8192).contains(&channels) {
        return Err(ConfigError::new("channels", format!("must be from 1 to 8192, are {channels}")));
    }
    Ok(())
}

const TORCH_NAMES: TorchNames = &[
    ("AsppPooling", "block", TorchName::From("", 1)),
    ("DeepLabV1", "backbone", TorchName::Layers("backbone")),
    ("DeepLabV2", "backbone", TorchName::Layers("backbone")),
    ("DeepLabV2", "aspp", TorchName::Lettered("aspp", "c")),
    ("DeepLabV3", "backbone", TorchName::Layers("backbone")),
    ("DeepLabHead", "aspp", TorchName::Is("0")),
    ("DeepLabHead", "block", TorchName::From("", 1)),
    ("DeepLabHead", "classifier", TorchName::Is("4")),
    ("DeepLabV3Plus", "segmentation_head", TorchName::Is("segmentation_head.0")),
    ("DeepLabV3PlusDecoder", "aspp", TorchName::Is("aspp.0")),
    ("DeepLabV3PlusDecoder", "refine", TorchName::From("aspp", 1)),
    ("DeepLabV3PlusDecoder", "details", TorchName::Is("block1")),
    ("DeepLabV3PlusDecoder", "fuse", TorchName::Is("block2")),
];
