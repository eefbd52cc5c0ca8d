//! Mix Transformer: overlapping patches instead of positional embeddings, self-attention with reduced keys and values,
//! feed-forward layers with a 3×3 convolution.

use burn::{
    module::Module,
    nn::{
        Dropout, DropoutConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Tensor,
        activation::{gelu, softmax},
    },
};

use super::SegFormerConfig;
use crate::{
    layers::{self, conv2d, image_dropout, pad_to_least, zero_bias},
    trace,
};

pub(super) fn initializer() -> Initializer {
    Initializer::Normal { mean: 0.0, std: 0.02 }
}

pub(super) fn zero_bias_linear(from: usize, to: usize, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(from, to).with_initializer(initializer()).init(device);
    linear.bias = linear.bias.map(|bias| Initializer::Zeros.init(bias.lazy_shape(), device));
    linear
}

fn conv(channels: [usize; 2], kernel: usize, stride: usize, padding: usize, groups: usize, device: &Device) -> Conv2d {
    let conv = Conv2dConfig::new(channels, [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .with_groups(groups)
        .with_initializer(initializer());
    zero_bias(conv.init(device), device)
}

fn norm(channels: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(channels).init(device)
}

/// `[n, c, h, w]` → `[n, h · w, c]`
pub(super) fn map_to_tokens(map: Tensor<4>) -> Tensor<3> {
    let [n, channels, height, width] = map.dims();
    map.reshape([n, channels, height * width]).swap_dims(1, 2)
}

/// `[n, h · w, c]` → `[n, c, h, w]`
pub(super) fn tokens_to_map(tokens: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [n, _, channels] = tokens.dims();
    tokens.swap_dims(1, 2).reshape([n, channels, height, width])
}

/// Fully connected layer of each token.
pub(super) fn linear(layer: &Linear, tokens: Tensor<3>) -> Tensor<3> {
    let [n, length, channels] = tokens.dims();
    let y = layers::linear(layer, tokens.reshape([n * length, channels]));
    let channels = y.dims()[1];
    y.reshape([n, length, channels])
}

/// The encoder.
#[derive(Module, Debug)]
pub struct MixTransformer {
    /// Layers of the four stages.
    pub stages: SegFormerStages,
}

/// Layers of the stages, each list with one element a stage.
#[derive(Module, Debug)]
pub struct SegFormerStages {
    /// Convolutions that make maps of strides 4, 8, 16 and 32.
    pub patch_embeddings: Vec<PatchEmbedding>,
    /// Transformer blocks.
    pub block: Vec<Vec<SegFormerBlock>>,
    /// Norms at the ends of the stages.
    pub layer_norm: Vec<LayerNorm>,
}

impl MixTransformer {
    pub(super) fn new(config: &SegFormerConfig, device: &Device) -> Self {
        let blocks: usize = config.depths.iter().sum();
        let mut done = 0;
        let mut stages = SegFormerStages { patch_embeddings: Vec::new(), block: Vec::new(), layer_norm: Vec::new() };
        let mut from = config.in_channels;
        for (stage, channels) in config.channels.into_iter().enumerate() {
            let (kernel, stride) = if stage == 0 { (7, 4) } else { (3, 2) };
            stages.patch_embeddings.push(PatchEmbedding {
                proj: conv([from, channels], kernel, stride, kernel / 2, 1, device),
                layer_norm: norm(channels, device),
            });
            from = channels;
            let block = |_| {
                let drop_path = config.drop_path * done as f64 / (blocks - 1).max(1) as f64;
                done += 1;
                SegFormerBlock::new(config, stage, drop_path, device)
            };
            stages.block.push((0..config.depths[stage]).map(block).collect());
            stages.layer_norm.push(norm(channels, device));
        }
        Self { stages }
    }

    /// Computes the maps of strides 4, 8, 16 and 32, and pushes each block's attention where it is asked for.
    pub(super) fn forward(&self, x: Tensor<4>, mut attention: Option<&mut Vec<Tensor<4>>>) -> Vec<Tensor<4>> {
        let SegFormerStages { patch_embeddings, block, layer_norm } = &self.stages;
        let mut map = x;
        let mut maps = Vec::with_capacity(4);
        for ((embedding, blocks), norm) in patch_embeddings.iter().zip(block).zip(layer_norm) {
            map = conv2d(&embedding.proj, map);
            let [_, _, height, width] = map.dims();
            let mut tokens = embedding.layer_norm.forward(map_to_tokens(map));
            for block in blocks {
                let (next, weights) = block.forward(tokens, [height, width]);
                tokens = next;
                if let Some(attention) = &mut attention {
                    attention.push(weights);
                }
            }
            map = tokens_to_map(norm.forward(tokens), [height, width]);
            maps.push(map.clone());
        }
        maps
    }

    /// Keeps all but the last `trainable` stages from learning.
    pub(super) fn freeze_stages(self, trainable: usize) -> Self {
        fn freeze<M: Module>(layers: Vec<M>, learning: usize) -> Vec<M> {
            let freeze = |(stage, layer): (usize, M)| if stage < learning { layer.freeze() } else { layer };
            layers.into_iter().enumerate().map(freeze).collect()
        }
        let learning = self.stages.layer_norm.len().saturating_sub(trainable);
        let SegFormerStages { patch_embeddings, block, layer_norm } = self.stages;
        let stages = SegFormerStages {
            patch_embeddings: freeze(patch_embeddings, learning),
            block: freeze(block, learning),
            layer_norm: freeze(layer_norm, learning),
        };
        Self { stages }
    }
}

/// Convolution of overlapping patches.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// 7×7 of stride 4, or 3×3 of stride 2.
    pub proj: Conv2d,
    /// Norm of each position's channels.
    pub layer_norm: LayerNorm,
}

/// Transformer block.
#[derive(Module, Debug)]
pub struct SegFormerBlock {
    /// Norm before the attention.
    pub layer_norm_1: LayerNorm,
    /// Self-attention.
    pub attention: SegFormerAttention,
    /// Norm before the feed-forward layer.
    pub layer_norm_2: LayerNorm,
    /// Feed-forward layer.
    pub mlp: MixFfn,
    /// Leaves a branch out for an image, in training.
    pub drop_path: Dropout,
}

impl SegFormerBlock {
    fn new(config: &SegFormerConfig, stage: usize, drop_path: f64, device: &Device) -> Self {
        let channels = config.channels[stage];
        let hidden = channels * config.expansion;
        let linear = |from, to| zero_bias_linear(from, to, device);
        let side = config.reductions[stage];
        Self {
            layer_norm_1: norm(channels, device),
            attention: SegFormerAttention {
                query: linear(channels, channels),
                key: linear(channels, channels),
                value: linear(channels, channels),
                reduction: (side > 1).then(|| SequenceReduction {
                    conv: conv([channels; 2], side, side, 0, 1, device),
                    layer_norm: norm(channels, device),
                }),
                output: linear(channels, channels),
                heads: config.heads[stage],
            },
            layer_norm_2: norm(channels, device),
            mlp: MixFfn {
                dense1: linear(channels, hidden),
                depthwise: conv([hidden; 2], 3, 1, 1, hidden, device),
                dense2: linear(hidden, channels),
            },
            drop_path: DropoutConfig::new(drop_path).init(),
        }
    }

    fn forward(&self, tokens: Tensor<3>, size: [usize; 2]) -> (Tensor<3>, Tensor<4>) {
        let drop = |branch: Tensor<3>| image_dropout(&self.drop_path, branch.unsqueeze_dim(1)).squeeze_dim(1);
        let (branch, weights) = self.attention.forward(self.layer_norm_1.forward(tokens.clone()), size);
        let tokens = drop(branch) + tokens;
        let branch = self.mlp.forward(self.layer_norm_2.forward(tokens.clone()), size);
        let tokens = drop(branch) + tokens;
        if !trace::is_active() {
            return (tokens, weights);
        }
        (map_to_tokens(trace::module(self, tokens_to_map(tokens, size))), weights)
    }
}

/// Self-attention of all positions to the positions of a reduced map.
#[derive(Module, Debug)]
pub struct SegFormerAttention {
    /// Queries.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// Reduction of the map that keys and values are made of.
    pub reduction: Option<SequenceReduction>,
    /// Layer after the heads.
    pub output: Linear,
    #[module(skip)]
    heads: usize,
}

/// Convolution whose stride is its kernel's side.
#[derive(Module, Debug)]
pub struct SequenceReduction {
    /// The convolution.
    pub conv: Conv2d,
    /// Norm of each position's channels.
    pub layer_norm: LayerNorm,
}

impl SegFormerAttention {
    fn forward(&self, tokens: Tensor<3>, size: [usize; 2]) -> (Tensor<3>, Tensor<4>) {
        let [n, length, channels] = tokens.dims();
        let reduced = match &self.reduction {
            Some(SequenceReduction { conv, layer_norm }) => {
                // Maps smaller than the kernel have one position too.
                let map = pad_to_least(tokens_to_map(tokens.clone(), size), conv.kernel_size[0]);
                layer_norm.forward(map_to_tokens(conv2d(conv, map)))
            }
            None => tokens.clone(),
        };
        let width = channels / self.heads;
        let split = |tokens: Tensor<3>| {
            let length = tokens.dims()[1];
            tokens.reshape([n, length, self.heads, width]).swap_dims(1, 2)
        };
        let query = split(linear(&self.query, tokens)).mul_scalar((width as f64).powf(-0.5));
        let key = split(linear(&self.key, reduced.clone()));
        let value = split(linear(&self.value, reduced));
        let weights = softmax(query.matmul(key.swap_dims(2, 3)), 3);
        let seen = weights.clone().matmul(value).swap_dims(1, 2).reshape([n, length, channels]);
        (linear(&self.output, seen), weights)
    }
}

/// Feed-forward layer whose 3×3 convolution tells positions apart.
#[derive(Module, Debug)]
pub struct MixFfn {
    /// Layer to more channels.
    pub dense1: Linear,
    /// 3×3, each channel by itself.
    pub depthwise: Conv2d,
    /// Layer back.
    pub dense2: Linear,
}

impl MixFfn {
    fn forward(&self, tokens: Tensor<3>, size: [usize; 2]) -> Tensor<3> {
        let map = conv2d(&self.depthwise, tokens_to_map(linear(&self.dense1, tokens), size));
        linear(&self.dense2, gelu(map_to_tokens(map)))
    }
}
