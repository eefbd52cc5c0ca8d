use burn::{
    module::Module,
    nn::{
        Initializer, Linear, LinearConfig,
        conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig},
    },
    tensor::{
        Device, Int, Tensor,
        activation::{self, relu, sigmoid},
    },
};
use rayon::prelude::*;
use segkiln_core::{BBox, Detection};

use super::{
    super::{
        BoxCoder, Corners, DetectionError, DetectionTensors, ImageBatch, ImageDetections, ImageTargets, Match, Matcher,
        Sampling, binary_cross_entropy, clip_to_image, cross_entropy,
        host::{indices, rows, values},
        is_at_least, smooth_l1,
        tensors::restored,
    },
    BoxHeadKind, MaskConfig, RcnnConfig, RoiConfig,
    mask_target::MaskTarget,
    roi_pool::{Pooled, pool},
};
use crate::layers::{ConvBlock, ConvBlockConfig, conv_transpose2d, conv2d, linear, zero_bias};

/// Heads on the features of proposals: classes, boxes and masks.
#[derive(Module, Debug)]
pub struct RoiHeads {
    /// From features to a description.
    pub box_head: BoxHead,
    /// From a description to classes and boxes.
    pub box_predictor: BoxPredictor,
    /// From features to features of a mask.
    pub mask_head: Option<MaskHead>,
    /// From features of a mask to masks, one a class.
    pub mask_predictor: Option<MaskPredictor>,
}

/// The layers between a proposal's features and its outputs.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum BoxHead {
    /// Two fully connected layers.
    Mlp(MlpHead),
    /// Convolutions, then a fully connected layer.
    ConvFc(ConvFcHead),
}

/// Two fully connected layers.
#[derive(Module, Debug)]
pub struct MlpHead {
    /// From all features.
    pub fc6: Linear,
    /// Linear layer to the description.
    pub fc7: Linear,
}

/// Four convolutions, then a fully connected layer.
#[derive(Module, Debug)]
pub struct ConvFcHead {
    /// 3×3.
    pub convs: Vec<ConvBlock>,
    /// Linear layer to the description.
    pub fc: Linear,
}

/// The class of a proposal, and its box for each class.
#[derive(Module, Debug)]
pub struct BoxPredictor {
    /// One logit a class.
    pub cls_score: Linear,
    /// Four numbers a class.
    pub bbox_pred: Linear,
}

/// Convolutions on a box's features.
#[derive(Module, Debug)]
pub struct MaskHead {
    /// 3×3.
    pub convs: Vec<ConvBlock>,
}

/// Masks of twice the features' side, one a class.
#[derive(Module, Debug)]
pub struct MaskPredictor {
    /// Doubles the side.
    pub conv5_mask: ConvTranspose2d,
    /// 1×1 to one logit a class.
    pub mask_fcn_logits: Conv2d,
}

/// Detections of an image and their masks.
#[derive(Debug, Clone, Default)]
pub(super) struct MaskedDetections {
    pub detections: ImageDetections,
    /// Probabilities of each pixel of each detection's mask, in rows; empty if the network makes none.
    pub masks: Vec<Vec<f32>>,
}

impl RoiHeads {
    pub(super) fn new(config: &RcnnConfig, device: &Device) -> Self {
        let RoiConfig { size, representation, .. } = config.roi;
        let channels = config.channels;
        let features = channels * size * size;
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let box_head = match &config.roi.head {
            BoxHeadKind::Mlp => BoxHead::Mlp(MlpHead {
                fc6: linear(features, representation),
                fc7: linear(representation, representation),
            }),
            BoxHeadKind::ConvFc { norm } => {
                let block =
                    ConvBlockConfig::new(channels, channels).with_norm(norm.clone()).with_initializer(kaiming());
                BoxHead::ConvFc(ConvFcHead {
                    convs: (0..4).map(|_| block.init(device).with_zero_bias(device)).collect(),
                    fc: linear(features, representation),
                })
            }
        };
        let mask = config.mask.as_ref();
        Self {
            box_head,
            box_predictor: BoxPredictor {
                cls_score: linear(representation, config.classes),
                bbox_pred: linear(representation, 4 * config.classes),
            },
            mask_head: mask.map(|mask| MaskHead::new(mask, channels, device)),
            mask_predictor: mask.map(|mask| MaskPredictor::new(mask, config.classes, device)),
        }
    }

    /// Detections of each image.
    pub(super) fn detect(
        &self,
        images: &ImageBatch,
        maps: &[Tensor<4>],
        proposals: Vec<Vec<Corners>>,
        config: &RcnnConfig,
    ) -> Vec<MaskedDetections> {
        let mut found = vec![MaskedDetections::default(); proposals.len()];
        let height = tallest(images);
        let roi = &config.roi;
        let Some(pooled) = pool(maps, &proposals, height, roi.size, roi.sampling) else { return found };
        let (logits, codes) = self.box_predictor.forward(self.box_head.forward(pooled.features));
        let [logits, codes] = [logits, codes].map(values);
        // Where the values of each proposal are.
        let mut row = vec![0; pooled.order.len()];
        pooled.order.iter().enumerate().for_each(|(at, index)| row[*index] = at);
        let mut first = 0;
        for ((found, proposals), size) in found.iter_mut().zip(&proposals).zip(&images.sizes) {
            let rows = &row[first..first + proposals.len()];
            first += proposals.len();
            found.detections = detections(proposals, rows, &logits, &codes, *size, config);
        }
        if let (Some(mask), Some(head), Some(predictor)) = (&config.mask, &self.mask_head, &self.mask_predictor) {
            let boxes: Vec<Vec<Corners>> = found.iter().map(|found| found.detections.boxes.clone()).collect();
            if let Some(pooled) = pool(maps, &boxes, height, mask.size, roi.sampling) {
                let labels: Vec<u32> = found.iter().flat_map(|found| &found.detections.labels).copied().collect();
                let order = pooled.order.clone();
                let masks = predictor.of_classes(head.forward(pooled.features), &order, &labels);
                let masks = values(sigmoid(masks));
                let pixels = masks.len() / order.len();
                let mut by_index = vec![Vec::new(); order.len()];
                for (index, mask) in order.into_iter().zip(masks.chunks_exact(pixels)) {
                    by_index[index] = mask.to_vec();
                }
                let mut masks = by_index.into_iter();
                for found in &mut found {
                    found.masks = masks.by_ref().take(found.detections.boxes.len()).collect();
                }
            }
        }
        found
    }

    /// Detections of one image, whose scores and boxes have gradients. Proposals are constants, as in training.
    pub(super) fn detect_tensors(
        &self,
        images: &ImageBatch,
        maps: &[Tensor<4>],
        proposals: Vec<Vec<Corners>>,
        config: &RcnnConfig,
    ) -> Result<Vec<DetectionTensors>, DetectionError> {
        let RoiConfig { size, sampling, weights, nms, detections: most, .. } = config.roi;
        let Some(pooled) = pool(maps, &proposals, tallest(images), size, sampling) else { return Ok(Vec::new()) };
        let (logits, codes) = self.box_predictor.forward(self.box_head.forward(pooled.features));
        let mut row = vec![0; pooled.order.len()];
        pooled.order.iter().enumerate().for_each(|(at, index)| row[*index] = at);
        let [logit_values, code_values] = [&logits, &codes].map(|tensor| values(tensor.clone()));
        let candidates = candidates(&proposals[0], &row, &logit_values, &code_values, images.sizes[0], config);
        let found = together(&candidates).suppressed(nms, most);
        let device = codes.device();
        let mut tensors = Vec::with_capacity(found.boxes.len());
        for ((bbox, label), score) in found.boxes.into_iter().zip(found.labels).zip(found.scores) {
            let same =
                |candidate: &&Candidate| (candidate.bbox, candidate.class, candidate.score) == (bbox, label, score);
            let Candidate { proposal, .. } =
                *candidates.iter().find(same).expect("a detection is one of the candidates");
            let class = label as usize;
            let own = logits.clone().narrow(0, row[proposal], 1);
            let codes = codes.clone().narrow(0, row[proposal], 1).narrow(1, 4 * class, 4);
            let from = rows(&proposals[0][proposal..=proposal], &device);
            let [x1, y1, x2, y2] = images.restore(0, bbox).map(f64::from);
            tensors.push(DetectionTensors {
                detection: Detection::new(BBox::new(x1, y1, x2, y2)?, label, score)?,
                score: activation::softmax(own, 1).narrow(1, class, 1).reshape([1]),
                bbox: restored(images, BoxCoder { weights }.decode_tensor(codes, from)),
            });
        }
        Ok(tensors)
    }

    /// The logits of a class's mask in a box of the network's input; none if the network makes no masks of the class.
    ///
    /// # Shapes
    /// `[2 · size, 2 · size]`
    pub(super) fn mask_logits(
        &self,
        images: &ImageBatch,
        maps: &[Tensor<4>],
        bbox: Corners,
        class: u32,
        config: &RcnnConfig,
    ) -> Option<Tensor<2>> {
        let (mask, head, predictor) = (config.mask.as_ref()?, self.mask_head.as_ref()?, self.mask_predictor.as_ref()?);
        if !(1..config.classes).contains(&(class as usize)) {
            return None;
        }
        let Pooled { features, order } = pool(maps, &[vec![bbox]], tallest(images), mask.size, config.roi.sampling)?;
        let logits = predictor.of_classes(head.forward(features), &order, &[class]);
        Some(logits.reshape([2 * mask.size, 2 * mask.size]))
    }

    /// The losses of classes, of boxes, and of masks if the network makes them.
    pub(super) fn losses(
        &self,
        images: &ImageBatch,
        maps: &[Tensor<4>],
        proposals: Vec<Vec<Corners>>,
        targets: &[ImageTargets<'_>],
        config: &RcnnConfig,
        sampling: Sampling,
    ) -> ([Tensor<1>; 2], Option<Tensor<1>>) {
        let device = maps[0].device();
        let roi = &config.roi;
        let chosen: Vec<SampledProposals> = (proposals.into_iter().zip(targets).enumerate())
            .map(|(image, (proposals, targets))| SampledProposals::new(proposals, targets, roi, sampling, image))
            .collect();
        let boxes: Vec<Vec<Corners>> = chosen.iter().map(|chosen| chosen.boxes.clone()).collect();
        let height = tallest(images);
        let zero = || Tensor::<1>::zeros([1], &device);
        let mask_zero = || config.mask.as_ref().map(|_| zero());
        let Some(Pooled { features, order }) = pool(maps, &boxes, height, roi.size, roi.sampling) else {
            return ([zero(), zero()], mask_zero());
        };
        let (logits, codes) = self.box_predictor.forward(self.box_head.forward(features));
        let all: Vec<(u32, Option<[f32; 4]>)> =
            chosen.iter().flat_map(|chosen| chosen.labels.iter().copied().zip(chosen.codes.iter().copied())).collect();
        let labels: Vec<i32> = order.iter().map(|index| all[*index].0 as i32).collect();
        let classifier = cross_entropy(logits, Tensor::<1, Int>::from_ints(labels.as_slice(), &device));
        // The rows of objects' codes, where each class has one.
        let (mut positives, mut code_targets) = (Vec::new(), Vec::new());
        for (row, index) in order.iter().enumerate() {
            if let (label, Some(code)) = all[*index] {
                positives.push(row * config.classes + label as usize);
                code_targets.push(code);
            }
        }
        let shifts = if positives.is_empty() {
            zero()
        } else {
            let codes: Tensor<2> = codes.reshape([-1, 4]);
            let codes = codes.select(0, indices(&positives, &device));
            smooth_l1(codes, rows(&code_targets, &device)).div_scalar(order.len() as f64)
        };
        let mask = self.mask_loss(images, maps, &chosen, targets, config).or_else(mask_zero);
        ([classifier, shifts], mask)
    }

    /// None without masks, or without objects.
    fn mask_loss(
        &self,
        images: &ImageBatch,
        maps: &[Tensor<4>],
        chosen: &[SampledProposals],
        targets: &[ImageTargets<'_>],
        config: &RcnnConfig,
    ) -> Option<Tensor<1>> {
        let (mask, head, predictor) = (config.mask.as_ref()?, self.mask_head.as_ref()?, self.mask_predictor.as_ref()?);
        let objects: Vec<Vec<(Corners, u32, usize)>> = chosen.iter().map(SampledProposals::objects).collect();
        let boxes: Vec<Vec<Corners>> =
            objects.iter().map(|objects| objects.iter().map(|(bbox, _, _)| *bbox).collect()).collect();
        let height = tallest(images);
        let Pooled { features, order } = pool(maps, &boxes, height, mask.size, config.roi.sampling)?;
        let masks: Vec<Vec<MaskTarget<'_>>> = (targets.iter().zip(&images.sizes))
            .map(|(targets, size)| {
                targets.instances.iter().filter_map(|object| MaskTarget::new(object, *size)).collect()
            })
            .collect();
        let all: Vec<(usize, &(Corners, u32, usize))> =
            objects.iter().enumerate().flat_map(|(image, objects)| objects.iter().map(move |o| (image, o))).collect();
        let labels: Vec<u32> = all.iter().map(|(_, (_, label, _))| *label).collect();
        let logits = predictor.of_classes(head.forward(features), &order, &labels);
        let [count, pixels] = logits.dims();
        let side = 2 * mask.size;
        let targets: Vec<f32> = order
            .par_iter()
            .flat_map_iter(|index| {
                let (image, (bbox, _, object)) = all[*index];
                masks[image][*object].project(*bbox, side)
            })
            .collect();
        let targets = Tensor::<1>::from_floats(targets.as_slice(), &logits.device()).reshape([count, pixels]);
        Some(binary_cross_entropy(logits, targets))
    }
}

/// Largest height of an image in the batch.
fn tallest(images: &ImageBatch) -> usize {
    images.sizes.iter().map(|size| size[0]).max().unwrap_or(1)
}

fn kaiming() -> Initializer {
    Initializer::KaimingNormal { gain: 2f64.sqrt(), fan_out_only: true }
}

/// Proposals of an image that a training step looks at.
struct SampledProposals {
    boxes: Vec<Corners>,
    /// 0 for background.
    labels: Vec<u32>,
    /// Code of the object's box, where there is an object.
    codes: Vec<Option<[f32; 4]>>,
    objects: Vec<usize>,
}

impl SampledProposals {
    fn new(
        mut proposals: Vec<Corners>,
        targets: &ImageTargets<'_>,
        config: &RoiConfig,
        sampling: Sampling,
        image: usize,
    ) -> Self {
        proposals.extend(&targets.boxes);
        let matcher =
            Matcher { foreground_iou: config.foreground, background_iou: config.background, allow_low_quality: false };
        let matches = matcher.matches(&targets.boxes, &proposals);
        let (mut own, mut other) = (Vec::new(), Vec::new());
        for (index, found) in matches.iter().enumerate() {
            match found {
                Match::Object(_) => own.push(index),
                Match::Background => other.push(index),
                Match::Ignored => {}
            }
        }
        let [own, other] = sampling.sampler(1, image).balanced(own, other, config.samples, config.positive);
        let mut all: Vec<usize> = own.into_iter().chain(other).collect();
        all.sort_unstable();
        let coder = BoxCoder { weights: config.weights };
        let mut chosen = Self { boxes: vec![], labels: vec![], codes: vec![], objects: vec![] };
        for index in all {
            let (label, code, object) = match matches[index] {
                Match::Object(object) => {
                    let code = coder.encode(targets.boxes[object], proposals[index]);
                    (targets.labels[object], Some(code), object)
                }
                _ => (0, None, 0),
            };
            chosen.boxes.push(proposals[index]);
            chosen.labels.push(label);
            chosen.codes.push(code);
            chosen.objects.push(object);
        }
        chosen
    }

    /// Box, label and index of the object, where there is one.
    fn objects(&self) -> Vec<(Corners, u32, usize)> {
        let all = self.boxes.iter().zip(&self.labels).zip(&self.objects);
        all.filter(|((_, label), _)| **label > 0).map(|((bbox, label), object)| (*bbox, *label, *object)).collect()
    }
}

/// Best detections of an image after class-wise non-maximum suppression.
fn detections(
    proposals: &[Corners],
    rows: &[usize],
    logits: &[f32],
    codes: &[f32],
    size: [usize; 2],
    config: &RcnnConfig,
) -> ImageDetections {
    let candidates = candidates(proposals, rows, logits, codes, size, config);
    together(&candidates).suppressed(config.roi.nms, config.roi.detections)
}

/// A proposal with a class.
#[derive(Clone, Copy)]
struct Candidate {
    bbox: Corners,
    score: f32,
    class: u32,
    /// Index of the proposal.
    proposal: usize,
}

fn together(candidates: &[Candidate]) -> ImageDetections {
    ImageDetections {
        boxes: candidates.iter().map(|candidate| candidate.bbox).collect(),
        labels: candidates.iter().map(|candidate| candidate.class).collect(),
        scores: candidates.iter().map(|candidate| candidate.score).collect(),
    }
}

/// Detections whose score exceeds the threshold, in the order of the proposals and classes.
fn candidates(
    proposals: &[Corners],
    rows: &[usize],
    logits: &[f32],
    codes: &[f32],
    size: [usize; 2],
    config: &RcnnConfig,
) -> Vec<Candidate> {
    /// Shorter boxes are dropped; in pixels of the network's input.
    const MIN_SIDE: f32 = 1e-2;
    let (classes, roi) = (config.classes, &config.roi);
    let coder = BoxCoder { weights: roi.weights };
    proposals
        .par_iter()
        .zip(rows)
        .enumerate()
        .flat_map_iter(|(index, (proposal, row))| {
            let codes = codes[row * classes * 4..][..classes * 4].as_chunks::<4>().0;
            let scores = softmax(&logits[row * classes..][..classes]);
            let with_class = scores.into_iter().zip(codes).zip(0..).skip(1);
            with_class.filter(|((score, _), _)| *score > roi.score).map(move |((score, code), class)| {
                let bbox = clip_to_image(coder.decode(*code, *proposal), size);
                Candidate { bbox, score, class, proposal: index }
            })
        })
        .filter(|candidate| is_at_least(candidate.bbox, MIN_SIDE))
        .collect()
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

impl BoxHead {
    /// # Shapes
    /// `[boxes, channels, size, size]` → `[boxes, representation]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Mlp(head) => relu(linear(&head.fc7, relu(linear(&head.fc6, x.flatten(1, 3))))),
            Self::ConvFc(head) => {
                let x = head.convs.iter().fold(x, |x, block| block.forward(x));
                relu(linear(&head.fc, x.flatten(1, 3)))
            }
        }
    }
}

impl BoxPredictor {
    /// # Shapes
    /// `[boxes, representation]` → logits `[boxes, classes]` and codes `[boxes, 4 · classes]`
    pub fn forward(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        (linear(&self.cls_score, x.clone()), linear(&self.bbox_pred, x))
    }
}

impl MaskHead {
    fn new(config: &MaskConfig, channels: usize, device: &Device) -> Self {
        let block = |index| {
            let from = if index == 0 { channels } else { config.channels };
            let block =
                ConvBlockConfig::new(from, config.channels).with_norm(config.norm.clone()).with_initializer(kaiming());
            block.init(device).with_zero_bias(device)
        };
        Self { convs: (0..config.convolutions).map(block).collect() }
    }

    /// # Shapes
    /// `[boxes, channels, size, size]` → the same with the head's channels
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.convs.iter().fold(x, |x, block| block.forward(x))
    }
}

impl MaskPredictor {
    fn new(config: &MaskConfig, classes: usize, device: &Device) -> Self {
        let channels = config.channels;
        // Kaiming's, of the values that an input leads to; Burn does not count them for this layer.
        let std = (2.0 / (4 * channels) as f64).sqrt();
        let mut up = ConvTranspose2dConfig::new([channels, channels], [2, 2])
            .with_stride([2, 2])
            .with_initializer(Initializer::Normal { mean: 0.0, std })
            .init(device);
        let logits = Conv2dConfig::new([channels, classes], [1, 1]).with_initializer(kaiming()).init(device);
        up.bias = up.bias.map(|bias| Initializer::Zeros.init(bias.lazy_shape(), device));
        Self { conv5_mask: up, mask_fcn_logits: zero_bias(logits, device) }
    }

    /// # Shapes
    /// `[boxes, channels, size, size]` → logits `[boxes, classes, 2 · size, 2 · size]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(&self.mask_fcn_logits, relu(conv_transpose2d(&self.conv5_mask, x)))
    }

    /// The logits of each box's own class, `[boxes, pixels]`; `order` has each row's box, `labels` each box's class.
    fn of_classes(&self, x: Tensor<4>, order: &[usize], labels: &[u32]) -> Tensor<2> {
        let logits = self.forward(x);
        let [count, classes, height, width] = logits.dims();
        let rows: Vec<usize> =
            order.iter().enumerate().map(|(row, index)| row * classes + labels[*index] as usize).collect();
        let device = logits.device();
        logits.reshape([count * classes, height * width]).select(0, indices(&rows, &device))
    }
}
