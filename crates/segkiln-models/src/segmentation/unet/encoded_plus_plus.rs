//! UNet++ on any encoder; as segmentation_models_pytorch has it.

use burn::{
    config::Config,
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};
use segkiln_ops::{ResizeMode, resize};

use super::{EncodedUNetBlock, encoded::skip_size};
use crate::{
    ConfigError,
    backbones::{Backbone, BackboneConfig},
    layers::{ConvBlock, conv2d, segmentation_head},
    segmentation::{SegmentationNetwork, on_backbone, owned, unused_stages},
    weights::{TorchName, TorchNames},
};

/// Configuration of an [`EncodedUNetPlusPlus`].
#[derive(Config, Debug)]
pub struct EncodedUNetPlusPlusConfig {
    /// Backbone.
    pub backbone: BackboneConfig,
    /// Channels of the logits: 1 for a binary task, else the number of classes.
    pub classes: usize,
    /// Channels of the decoder's first row, the smallest map's first.
    #[config(default = "[256, 128, 64, 32, 16]")]
    pub channels: [usize; 5],
}

impl EncodedUNetPlusPlusConfig {
    /// Whether the network can be built.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.backbone.check()?;
        super::check_channels(&self.channels)
    }

    /// The network with random weights.
    pub fn init(&self, device: &Device) -> EncodedUNetPlusPlus {
        let stages = super::encoded::stages(&self.backbone);
        // The smallest map's first; none where the encoder has no map.
        let of = stages.iter().rev().map(|stage| self.backbone.channels()[*stage]);
        let of: Vec<usize> = of.chain([0; 5]).take(5).collect();
        let first = |column: usize| if column == 0 { of[0] } else { self.channels[column - 1] };
        let column = |column: usize| {
            let node = |row: usize| {
                let (from, to) =
                    if row == 0 { (first(column), self.channels[column]) } else { (of[column], of[column + 1]) };
                EncodedUNetBlock::new(from + of[column + 1] * (column + 1 - row), to, device)
            };
            let rows = if of[column + 1] > 0 { column + 1 } else { 1 };
            (0..rows).map(node).collect()
        };
        let last = vec![EncodedUNetBlock::new(first(4), self.channels[4], device)];
        EncodedUNetPlusPlus {
            encoder: self.backbone.init(device),
            decoder: EncodedUNetPlusPlusDecoder {
                center: super::encoded::center(&self.backbone, of[0], device),
                columns: (0..4).map(column).chain([last]).collect(),
            },
            segmentation_head: segmentation_head(self.channels[4], self.classes, 3, device),
            stages,
        }
    }
}

/// The network; see [`EncodedUNetPlusPlusConfig`].
#[derive(Module, Debug)]
pub struct EncodedUNetPlusPlus {
    /// Backbone.
    pub encoder: Backbone,
    /// The nested grid.
    pub decoder: EncodedUNetPlusPlusDecoder,
    /// 3×3 to the classes.
    pub segmentation_head: Conv2d,
    #[module(skip)]
    pub(crate) stages: Vec<usize>,
}

impl EncodedUNetPlusPlus {
    /// # Shapes
    /// `[n, in_channels, h, w]` → `[n, classes, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let maps = self.encoder.forward(x, &self.stages);
        conv2d(&self.segmentation_head, self.decoder.forward(maps, [height, width]))
    }
}

/// The nested grid.
#[derive(Module, Debug)]
pub struct EncodedUNetPlusPlusDecoder {
    /// Not used, as in segmentation_models_pytorch, whose files have it where the encoder ends with a pooling.
    pub center: Vec<ConvBlock>,
    /// Node `[column][row]` enlarges the node of its row in the column before, or the encoder's map where the row begins,
    /// and takes the maps of its own size. Where the encoder has no map, a column has only its first node.
    pub columns: Vec<Vec<EncodedUNetBlock>>,
}

impl EncodedUNetPlusPlusDecoder {
    /// `maps`: the largest first; `size`: the image's.
    fn forward(&self, mut maps: Vec<Tensor<4>>, size: [usize; 2]) -> Tensor<4> {
        maps.reverse();
        let mut before: Vec<Tensor<4>> = Vec::new();
        for (column, nodes) in self.columns.iter().enumerate() {
            let skip = maps.get(column + 1);
            let size = skip_size(skip, size, self.columns.len() - 1 - column);
            // Of this column, the last row first: each node takes all that lie below it.
            let mut done: Vec<Tensor<4>> = skip.into_iter().cloned().collect();
            for (row, node) in nodes.iter().enumerate().rev() {
                let from = before.get(row).unwrap_or_else(|| &maps[column]).clone();
                let parts = [resize(from, size, ResizeMode::Nearest)].into_iter().chain(done.iter().cloned());
                done.insert(0, node.forward(parts.collect::<Vec<_>>()));
            }
            if skip.is_some() {
                done.pop();
            }
            before = done;
        }
        before.remove(0)
    }
}

on_backbone!(EncodedUNetPlusPlusConfig => EncodedUNetPlusPlus, "unetplusplus", |backbone, _| Ok(backbone));

impl SegmentationNetwork for EncodedUNetPlusPlus {
    type Config = EncodedUNetPlusPlusConfig;

    const TORCH_NAMES: TorchNames = &[
        ("EncodedUNetPlusPlus", "segmentation_head", TorchName::Is("segmentation_head.0")),
        ("EncodedUNetPlusPlusDecoder", "columns", TorchName::Grid("blocks")),
    ];

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.encoder)
    }

    fn backbones_mut(&mut self) -> Vec<&mut Backbone> {
        vec![&mut self.encoder]
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["segmentation_head."])
    }

    fn unused_tensors(&self) -> Vec<String> {
        unused_stages(&self.encoder, self.stages.last().copied())
    }
}
