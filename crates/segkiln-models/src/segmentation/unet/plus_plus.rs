//! UNet++: Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018,
//! <https://arxiv.org/abs/1807.10165>.

use burn::{
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};

use super::Encoder;
use crate::layers::{DoubleConv, Upsample, conv2d, pad_to_multiple};
use crate::segmentation::{HeadLogits, SegmentationNetwork, owned};

super::plain_config! {
    /// Configuration of a [`UNetPlusPlus`].
    UNetPlusPlusConfig of UNetPlusPlus, base 32, padding |_config| 1;
    /// One head for each node of the top row, trained together, averaged in prediction (the paper's accurate mode);
    /// false: a head on the last node alone.
    #[config(default = false)]
    deep_supervision: bool,
}

impl UNetPlusPlusConfig {
    /// The network with random weights.
    pub fn init(&self, device: &Device) -> UNetPlusPlus {
        let blocks = self.blocks();
        let columns = 1..=self.depth;
        UNetPlusPlus {
            encoder: blocks.encoder(device),
            columns: columns
                .map(|column| {
                    (0..=self.depth - column)
                        .map(|level| Node {
                            up: self.upsample.init(blocks.channels(level + 1), blocks.channels(level), device),
                            conv: blocks.double_conv((column + 1) * blocks.channels(level), level, device),
                        })
                        .collect()
                })
                .collect(),
            heads: (0..if self.deep_supervision { self.depth } else { 1 })
                .map(|_| blocks.head(self.classes, device))
                .collect(),
        }
    }
}

/// A node `X^{level, column}` of the grid.
#[derive(Module, Debug)]
pub struct Node {
    /// Brings `X^{level + 1, column − 1}` to this level.
    pub up: Upsample,
    /// Over all earlier nodes of the level and the up-sampled one.
    pub conv: DoubleConv,
}

/// The network; see [`UNetPlusPlusConfig`].
#[derive(Module, Debug)]
pub struct UNetPlusPlus {
    /// Contracting path: the grid's column 0.
    pub encoder: Encoder,
    /// The grid's columns 1 to `depth`, each from level 0 down.
    pub columns: Vec<Vec<Node>>,
    /// 1×1 convolutions to the logits: one on the last node of level 0, or one on each of its nodes in column order.
    pub heads: Vec<Conv2d>,
}

impl UNetPlusPlus {
    /// # Shapes
    /// `[batch, in_channels, height, width]` → logits `[batch, classes, height, width]`, any height and width; with deep
    /// supervision the mean of the heads
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let logits = self.forward_all(x);
        let count = logits.len();
        let sum = logits.into_iter().reduce(|a, b| a + b).expect("at least one head");
        if count > 1 { sum.div_scalar(count as f64) } else { sum }
    }

    /// The logits of each head, the shallowest node's first.
    ///
    /// # Shapes
    /// `[batch, in_channels, height, width]` → as many `[batch, classes, height, width]` as there are heads
    pub fn forward_all(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let [n, _, height, width] = x.dims();
        let (features, bottleneck) = self.encoder.forward(pad_to_multiple(x, 1 << self.columns.len()));
        // rows[level] holds the nodes of that level so far, column 0 first.
        let mut rows: Vec<Vec<Tensor<4>>> = features.into_iter().chain([bottleneck]).map(|x| vec![x]).collect();
        for (column, nodes) in self.columns.iter().enumerate() {
            for (level, node) in nodes.iter().enumerate() {
                let below = node.up.forward(rows[level + 1][column].clone());
                let inputs: Vec<_> = rows[level].iter().cloned().chain([below]).collect();
                rows[level].push(node.conv.forward(inputs));
            }
        }
        let top = rows.swap_remove(0);
        let skipped = top.len() - self.heads.len();
        top.into_iter()
            .skip(skipped)
            .zip(&self.heads)
            .map(|(node, head)| {
                let logits = conv2d(head, node);
                let [_, classes, _, _] = logits.dims();
                logits.slice([0..n, 0..classes, 0..height, 0..width])
            })
            .collect()
    }
}

impl SegmentationNetwork for UNetPlusPlus {
    type Config = UNetPlusPlusConfig;

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x)
    }

    fn forward_heads(&self, x: Tensor<4>) -> Vec<HeadLogits> {
        let weight = 1.0 / self.heads.len() as f64;
        self.forward_all(x).into_iter().map(|logits| HeadLogits { weight, logits }).collect()
    }

    fn class_tensors(&self) -> Vec<String> {
        owned(&["heads."])
    }
}
