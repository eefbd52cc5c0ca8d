use burn::{
    module::Module,
    nn::{
        Initializer,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};
use segkiln_ops::batched_nms;

use super::{
    super::{
        AnchorGrid, BoxCoder, Corners, ImageBatch, ImageTargets, Match, Matcher, Sampling, binary_cross_entropy,
        clip_to_image,
        host::{indices, rows, values},
        is_at_least, sigmoid, smooth_l1,
    },
    RcnnConfig,
};
use crate::layers::{ConvBlock, ConvBlockConfig, NormConfig, conv2d, zero_bias};

const CODER: BoxCoder = BoxCoder { weights: [1.0; 4] };

/// Region proposal network: scores anchors by whether they hold an object, and moves them to its box.
#[derive(Module, Debug)]
pub struct Rpn {
    /// Layers, the same for all levels.
    pub head: RpnHead,
}

/// Layers of an [`Rpn`].
#[derive(Module, Debug)]
pub struct RpnHead {
    /// 3×3.
    pub conv: Vec<ConvBlock>,
    /// 1×1 to one logit an anchor.
    pub cls_logits: Conv2d,
    /// 1×1 to four numbers an anchor.
    pub bbox_pred: Conv2d,
}

/// Logits `[n, anchors]` and codes `[n, anchors, 4]` of each level.
struct Outputs {
    logits: Vec<Tensor<2>>,
    codes: Vec<Tensor<3>>,
}

impl RpnHead {
    pub(super) fn new(config: &RcnnConfig, device: &Device) -> Self {
        let initializer = Initializer::Normal { mean: 0.0, std: 0.01 };
        let output = |channels| {
            Conv2dConfig::new([config.channels, channels], [1, 1]).with_initializer(initializer.clone()).init(device)
        };
        let block = ConvBlockConfig::new(config.channels, config.channels)
            .with_norm(NormConfig::None)
            .with_initializer(initializer.clone());
        let anchors = config.anchors.per_location();
        Self {
            conv: (0..config.rpn.convolutions).map(|_| block.init(device).with_zero_bias(device)).collect(),
            cls_logits: zero_bias(output(anchors), device),
            bbox_pred: zero_bias(output(4 * anchors), device),
        }
    }

    fn forward(&self, maps: &[Tensor<4>], anchors: usize) -> Outputs {
        let flat = |x: Tensor<4>, values: usize| {
            let [n, _, height, width] = x.dims();
            x.permute([0, 2, 3, 1]).reshape([n, height * width * anchors, values])
        };
        let mut outputs = Outputs { logits: Vec::new(), codes: Vec::new() };
        for map in maps {
            let x = self.conv.iter().fold(map.clone(), |x, block| block.forward(x));
            outputs.logits.push(flat(conv2d(&self.cls_logits, x.clone()), 1).squeeze_dim(2));
            outputs.codes.push(flat(conv2d(&self.bbox_pred, x), 4));
        }
        outputs
    }
}

impl Rpn {
    /// Proposals of each image in pixels of `images`, best first; and what is needed for the losses.
    pub(super) fn forward(
        &self,
        images: &ImageBatch,
        maps: &[Tensor<4>],
        config: &RcnnConfig,
        train: bool,
    ) -> (Vec<Vec<Corners>>, RpnOutput) {
        let outputs = self.head.forward(maps, config.anchors.per_location());
        let grids = config.anchors.grids(maps, images.padded_size());
        let logits = outputs.logits.iter().map(|logits| values(logits.clone().detach())).collect::<Vec<_>>();
        let codes = outputs.codes.iter().map(|codes| values(codes.clone().detach())).collect::<Vec<_>>();
        let proposals = (images.sizes.iter().enumerate())
            .map(|(image, size)| {
                let levels = grids.iter().zip(&logits).zip(&codes).map(|((grid, logits), codes)| {
                    let anchors = grid.len();
                    let logits = &logits[image * anchors..][..anchors];
                    let codes = &codes[image * anchors * 4..][..anchors * 4];
                    (grid, logits, codes.as_chunks::<4>().0)
                });
                propose(levels, *size, config, train)
            })
            .collect();
        (proposals, RpnOutput { outputs, grids })
    }

    /// The losses of anchors and of boxes for the objects of each image, in pixels of the network's input.
    pub(super) fn losses(
        &self,
        output: RpnOutput,
        targets: &[ImageTargets<'_>],
        config: &RcnnConfig,
        sampling: Sampling,
    ) -> [Tensor<1>; 2] {
        let RpnOutput { outputs, grids } = output;
        let device = outputs.logits[0].device();
        let anchors: Vec<Corners> = grids.iter().flat_map(AnchorGrid::iter).collect();
        let rpn = &config.rpn;
        let matcher =
            Matcher { foreground_iou: rpn.foreground, background_iou: rpn.background, allow_low_quality: true };
        let (mut positive, mut negative, mut codes) = (Vec::new(), Vec::new(), Vec::new());
        for (image, ImageTargets { boxes: objects, .. }) in targets.iter().enumerate() {
            let matches = matcher.matches(objects, &anchors);
            let with = |wanted: fn(&Match) -> bool| {
                matches.iter().enumerate().filter(|(_, found)| wanted(found)).map(|(index, _)| index).collect()
            };
            let candidates =
                [with(|found| matches!(found, Match::Object(_))), with(|found| *found == Match::Background)];
            let [own, other] = candidates;
            let [own, other] = sampling.sampler(0, image).balanced(own, other, rpn.samples, rpn.positive);
            for index in &own {
                if let Match::Object(object) = matches[*index] {
                    codes.push(CODER.encode(objects[object], anchors[*index]));
                }
            }
            let of_all = |index: &usize| image * anchors.len() + index;
            positive.extend(own.iter().map(of_all));
            negative.extend(other.iter().map(of_all));
        }
        let logits = Tensor::cat(outputs.logits, 1).reshape([-1]);
        let shifts = Tensor::cat(outputs.codes, 1).reshape([-1, 4]);
        let zero = || Tensor::<1>::zeros([1], &device);
        let samples = positive.len() + negative.len();
        if samples == 0 {
            return [zero(), zero()];
        }
        let labels: Vec<f32> = (0..samples).map(|index| if index < positive.len() { 1.0 } else { 0.0 }).collect();
        let all: Vec<usize> = positive.iter().chain(&negative).copied().collect();
        let chosen = logits.select(0, indices(&all, &device));
        let objectness = binary_cross_entropy(chosen, Tensor::<1>::from_floats(labels.as_slice(), &device));
        let boxes = if positive.is_empty() {
            zero()
        } else {
            let targets = rows(&codes, &device);
            let chosen: Tensor<2> = shifts.select(0, indices(&positive, &device));
            smooth_l1(chosen, targets).div_scalar(samples as f64)
        };
        [objectness, boxes]
    }
}

/// Outputs and anchors that the losses need.
pub(super) struct RpnOutput {
    outputs: Outputs,
    grids: Vec<AnchorGrid>,
}

/// The proposals of one image, from the logits and codes of each map's anchors.
fn propose<'a>(
    levels: impl Iterator<Item = (&'a AnchorGrid, &'a [f32], &'a [[f32; 4]])>,
    size: [usize; 2],
    config: &RcnnConfig,
    train: bool,
) -> Vec<Corners> {
    let rpn = &config.rpn;
    let (before, after) = match train {
        true => (rpn.before_nms_train, rpn.after_nms_train),
        false => (rpn.before_nms, rpn.after_nms),
    };
    let (mut boxes, mut scores, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    for (map, (grid, logits, codes)) in levels.enumerate() {
        for index in largest(logits, before) {
            let proposal = clip_to_image(CODER.decode(codes[index], grid.get(index)), size);
            let score = sigmoid(logits[index]);
            if is_at_least(proposal, rpn.min_size) && score >= rpn.score {
                boxes.push(proposal);
                scores.push(score);
                maps.push(map as u32);
            }
        }
    }
    let mut kept = batched_nms(&boxes, &scores, &maps, rpn.nms);
    kept.truncate(after);
    kept.into_iter().map(|index| boxes[index]).collect()
}

/// Indices of the largest values, falling; of equal ones the first comes first.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let falling = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, falling);
        order.truncate(count);
    }
    order.sort_unstable_by(falling);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first() {
        assert_eq!(largest(&[1.0, 3.0, 2.0, 3.0, -1.0], 3), [1, 3, 2]);
        assert_eq!(largest(&[1.0, 2.0], 5), [1, 0]);
        assert!(largest(&[], 5).is_empty());
    }
}
