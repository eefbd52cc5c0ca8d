//! A detector that segkiln does not know: the score of an object's center at every fourth pixel, and the size of its box there,
//! after Zhou et al., "Objects as Points", 2019, <https://arxiv.org/abs/1904.07850>.

use burn::{
    config::Config,
    module::Module,
    nn::{
        PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Tensor, TensorData,
        activation::{relu, sigmoid},
    },
};
use segkiln::{
    core::{BBox, Detection, Instances},
    models::{
        ConfigError,
        detection::{
            DetectionError, DetectionLosses, DetectionNetwork, DetectionNetworkConfig, DetectionOptions, ImageBatch,
            ImageTargets, ImageTransform, Sampling, check_images, check_targets,
        },
        weights::{TorchName, TorchNames},
    },
};

/// Pixels from one location to the next.
const STRIDE: usize = 4;

/// Config of a [`PointNet`].
#[derive(Config, Debug)]
pub struct PointNetConfig {
    /// Number of classes with the background.
    pub classes: usize,
    /// Channels of the layers.
    #[config(default = 8)]
    pub width: usize,
    /// Side that images are resized to.
    #[config(default = 32)]
    pub size: usize,
    /// Score that a detection must exceed.
    #[config(default = 0.1)]
    pub score_threshold: f32,
    /// Most detections of an image.
    #[config(default = 5)]
    pub max_detections: usize,
}

/// The network.
#[derive(Module, Debug)]
pub struct PointNet {
    first: Conv2d,
    second: Conv2d,
    /// Scores of the classes, and width and height.
    head: Conv2d,
    #[module(skip)]
    config: PointNetConfig,
}

impl DetectionNetworkConfig for PointNetConfig {
    type Network = PointNet;

    fn check(&self) -> Result<(), ConfigError> {
        let fits = self.width > 0 && self.size > 0 && self.classes > 1;
        if fits { Ok(()) } else { Err(ConfigError::new("width, size and classes", "must be above 0, 0 and 1")) }
    }

    fn init(&self, device: &Device) -> Result<PointNet, DetectionError> {
        self.check()?;
        let conv = |from, to, stride| {
            Conv2dConfig::new([from, to], [3, 3])
                .with_stride([stride, stride])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Ok(PointNet {
            first: conv(1, self.width, 2),
            second: conv(self.width, self.width, 2),
            head: conv(self.width, self.classes - 1 + 2, 1),
            config: self.clone(),
        })
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn transform(&self) -> ImageTransform {
        ImageTransform { min_size: self.size, max_size: self.size, mean: vec![0.4], std: vec![0.25] }
    }

    fn with_options(mut self, options: DetectionOptions) -> Self {
        self.size = options.min_size.unwrap_or(self.size);
        self.score_threshold = options.score_threshold.unwrap_or(self.score_threshold);
        self.max_detections = options.max_detections.unwrap_or(self.max_detections);
        self
    }
}

impl PointNet {
    fn predict(&self, images: &[Tensor<3>]) -> Result<(ImageBatch, Tensor<4>), DetectionError> {
        check_images(images, 1)?;
        let batch = self.config.transform().forward(images);
        let x = relu(self.second.forward(relu(self.first.forward(batch.tensor.clone()))));
        Ok((batch, self.head.forward(x)))
    }
}

impl DetectionNetwork for PointNet {
    type Config = PointNetConfig;

    const TORCH_NAMES: TorchNames =
        &[("PointNet", "first", TorchName::Is("stem.0")), ("PointNet", "second", TorchName::Is("stem.1"))];

    fn config(&self) -> PointNetConfig {
        self.config.clone()
    }

    fn with_config(self, config: PointNetConfig) -> Result<Self, DetectionError> {
        config.check()?;
        Ok(Self { config, ..self })
    }

    fn class_tensors(&self) -> Vec<String> {
        vec!["head.".into()]
    }

    fn detect(&self, images: &[Tensor<3>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
        let (batch, outputs) = self.predict(images)?;
        let [_, channels, height, width] = outputs.dims();
        let values: Vec<f32> = outputs.into_data().iter().collect();
        let of_image = |(image, values): (usize, &[f32])| {
            let at = |channel: usize, place: usize| values[channel * height * width + place];
            let mut found = Vec::new();
            for (class, place) in (1..channels - 1).flat_map(|class| (0..height * width).map(move |at| (class, at))) {
                let score = 1.0 / (1.0 + (-at(class - 1, place)).exp());
                let center = [place % width, place / width].map(|side| ((side * STRIDE) as f32) + 2.0);
                let half = [channels - 2, channels - 1].map(|channel| at(channel, place).clamp(-4.0, 4.0).exp() / 2.0);
                let bbox = [center[0] - half[0], center[1] - half[1], center[0] + half[0], center[1] + half[1]];
                let [x1, y1, x2, y2] = batch.restore(image, bbox).map(f64::from);
                let [height, width] = batch.original_sizes[image].map(|side| side as u32);
                if score > self.config.score_threshold
                    && let Some(bbox) = BBox::new(x1, y1, x2, y2)?.clip(width, height)
                {
                    found.push(Detection::new(bbox, class as u32, score)?);
                }
            }
            found.sort_by(|a: &Detection, b| b.score.total_cmp(&a.score));
            found.truncate(self.config.max_detections);
            Ok(found)
        };
        values.chunks_exact(channels * height * width).enumerate().map(of_image).collect()
    }

    fn losses(
        &self,
        images: &[Tensor<3>],
        targets: &[Instances],
        _sampling: Sampling,
    ) -> Result<DetectionLosses, DetectionError> {
        check_targets(images, targets, self.config.classes, false)?;
        let (batch, outputs) = self.predict(images)?;
        let [count, channels, height, width] = outputs.dims();
        let (device, classes) = (outputs.device(), channels - 2);
        let mut scores = vec![0.0f32; count * classes * height * width];
        let mut sizes = vec![0.0f32; count * 2 * height * width];
        let mut known = vec![0.0f32; count * height * width];
        for (image, targets) in ImageTargets::of_batch(&batch, targets).into_iter().enumerate() {
            for ([x1, y1, x2, y2], label) in targets.boxes.into_iter().zip(targets.labels) {
                let column = (((x1 + x2) / 2.0) as usize / STRIDE).min(width - 1);
                let row = (((y1 + y2) / 2.0) as usize / STRIDE).min(height - 1);
                let place = row * width + column;
                scores[(image * classes + label as usize - 1) * height * width + place] = 1.0;
                sizes[image * 2 * height * width + place] = (x2 - x1).max(1.0).ln();
                sizes[(image * 2 + 1) * height * width + place] = (y2 - y1).max(1.0).ln();
                known[image * height * width + place] = 1.0;
            }
        }
        let tensor = |values: Vec<f32>, channels| {
            Tensor::<4>::from_data(TensorData::new(values, [count, channels, height, width]), &device)
        };
        let objects = known.iter().sum::<f32>().max(1.0);
        let difference = outputs.clone().slice([0..count, classes..channels]) - tensor(sizes, 2);
        let size = (difference.abs() * tensor(known, 1)).sum() / objects;
        let (p, target) = (sigmoid(outputs.slice([0..count, 0..classes])), tensor(scores, classes));
        let score = (p - target).square().sum() / objects;
        Ok(DetectionLosses::new(vec![("score", score), ("size", size)]))
    }
}
