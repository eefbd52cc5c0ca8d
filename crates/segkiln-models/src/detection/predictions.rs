//! Outputs of a one-stage detector's heads for a batch, and the detections made of them.

use burn::tensor::{Tensor, activation};
use segkiln_core::Detection;

use super::{
    AnchorConfig, AnchorGrid, BoxCoder, BoxLinearCoder, Corners, DensePostprocess, DetectionError, DetectionTensors,
    ImageBatch, ImageTransform, check_images,
    dense::anchors_of,
    host::{rows, values},
    sigmoid,
    tensors::restored,
};

/// Outputs of the heads for each level, in the order of the anchors.
pub(super) struct HeadOutputs {
    /// `[n, anchors, classes]`
    pub logits: Vec<Tensor<3>>,
    /// Codes of the anchors' boxes, `[n, anchors, 4]`
    pub codes: Vec<Tensor<3>>,
    /// Logits of the anchors' centerness, `[n, anchors, 1]`; no level where the heads have none.
    pub centerness: Vec<Tensor<3>>,
}

/// Decoder of boxes, on the host and as tensors.
pub(super) trait DecodeBox {
    fn decode(&self, code: [f32; 4], anchor: Corners) -> Corners;

    /// # Shapes
    /// `[n, 4]`, `[n, 4]` → `[n, 4]`
    fn decode_tensor(&self, codes: Tensor<2>, anchors: Tensor<2>) -> Tensor<2>;
}

impl DecodeBox for BoxCoder {
    fn decode(&self, code: [f32; 4], anchor: Corners) -> Corners {
        self.decode(code, anchor)
    }

    fn decode_tensor(&self, codes: Tensor<2>, anchors: Tensor<2>) -> Tensor<2> {
        self.decode_tensor(codes, anchors)
    }
}

impl DecodeBox for BoxLinearCoder {
    fn decode(&self, code: [f32; 4], anchor: Corners) -> Corners {
        self.decode(code, anchor)
    }

    fn decode_tensor(&self, codes: Tensor<2>, anchors: Tensor<2>) -> Tensor<2> {
        self.decode_tensor(codes, anchors)
    }
}

/// Images, their anchors, and the outputs of the heads.
pub(super) struct Predictions {
    pub images: ImageBatch,
    pub grids: Vec<AnchorGrid>,
    pub outputs: HeadOutputs,
}

/// [`HeadOutputs`] on the host.
struct HostOutputs {
    logits: Vec<Vec<f32>>,
    codes: Vec<Vec<f32>>,
    centerness: Vec<Vec<f32>>,
}

impl HostOutputs {
    /// Score of an anchor's logit: its probability, or the geometric mean of that and the centerness.
    fn score(&self, level: usize, anchor: usize, logit: f32) -> f32 {
        match self.centerness.get(level) {
            Some(centerness) => (sigmoid(logit) * sigmoid(centerness[anchor])).sqrt(),
            None => sigmoid(logit),
        }
    }
}

impl Predictions {
    /// Brings images of `transform`'s channels to a batch and computes the outputs of its maps.
    ///
    /// # Errors
    /// As [`check_images`].
    pub fn new(
        images: &[Tensor<3>],
        transform: &ImageTransform,
        anchors: &AnchorConfig,
        maps: impl FnOnce(Tensor<4>) -> Vec<Tensor<4>>,
        head: impl FnOnce(&[Tensor<4>]) -> HeadOutputs,
    ) -> Result<Self, DetectionError> {
        check_images(images, transform.mean.len())?;
        let images = transform.forward(images);
        let maps = maps(images.tensor.clone());
        let grids = anchors.grids(&maps, images.padded_size());
        Ok(Self { images, grids, outputs: head(&maps) })
    }

    /// Makes the detections of each image, best first, in the image's own pixels.
    ///
    /// # Errors
    /// As [`DensePostprocess::forward`].
    pub fn detections(
        &self,
        postprocess: &DensePostprocess,
        coder: &impl DecodeBox,
    ) -> Result<Vec<Vec<Detection>>, DetectionError> {
        self.decoded(&self.to_host(), postprocess, coder)
    }

    /// Makes the detections of the first image, with scores and boxes as tensors.
    ///
    /// # Errors
    /// As [`detections`](Self::detections).
    pub fn detection_tensors(
        &self,
        postprocess: &DensePostprocess,
        coder: &impl DecodeBox,
    ) -> Result<Vec<DetectionTensors>, DetectionError> {
        let Self { images, grids, outputs } = self;
        let host = self.to_host();
        let found = self.decoded(&host, postprocess, coder)?.remove(0);
        let anchors = anchors_of(
            &found,
            images,
            grids,
            [&host.logits, &host.codes],
            postprocess.classes,
            |level, anchor, logit| host.score(level, anchor, logit),
            |code, anchor| coder.decode(code, anchor),
        );
        let device = images.tensor.device();
        let pairs = found.into_iter().zip(anchors).filter_map(|(detection, anchor)| Some((detection, anchor?)));
        let tensors = pairs.map(|(detection, (level, anchor))| {
            let row = |map: &Tensor<3>| map.clone().narrow(1, anchor, 1);
            let probability = |map: &Tensor<3>, index| activation::sigmoid(row(map).narrow(2, index, 1).reshape([1]));
            let codes = row(&outputs.codes[level]).reshape([1, 4]);
            let bbox = coder.decode_tensor(codes, rows(&[grids[level].get(anchor)], &device));
            let class = probability(&outputs.logits[level], detection.label() as usize);
            let score = match outputs.centerness.get(level) {
                Some(centerness) => (class * probability(centerness, 0)).sqrt(),
                None => class,
            };
            DetectionTensors { detection, score, bbox: restored(images, bbox) }
        });
        Ok(tensors.collect())
    }

    fn decoded(
        &self,
        host: &HostOutputs,
        postprocess: &DensePostprocess,
        coder: &impl DecodeBox,
    ) -> Result<Vec<Vec<Detection>>, DetectionError> {
        postprocess.forward(
            &self.images,
            &self.grids,
            [&host.logits, &host.codes],
            |level, anchor, logit| host.score(level, anchor, logit),
            |code, anchor| coder.decode(code, anchor),
        )
    }

    fn to_host(&self) -> HostOutputs {
        let HeadOutputs { logits, codes, centerness } = &self.outputs;
        let [logits, codes, centerness] =
            [logits, codes, centerness].map(|levels| levels.iter().map(|level| values(level.clone())).collect());
        HostOutputs { logits, codes, centerness }
    }
}
