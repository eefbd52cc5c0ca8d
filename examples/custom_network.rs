//! A network, a loss and a metric of your own, trained on the sample, resumed, and used for prediction:
//! `cargo run --example custom_network`

use std::{error::Error, path::Path, sync::Arc};

use burn::{
    config::Config,
    module::Module,
    nn::conv::{Conv2d, Conv2dConfig},
    tensor::{Device, Int, Tensor, activation::sigmoid},
};
use segkiln::{
    data::{
        ColorMode, Loader, MaskFormat, Normalize,
        datasets::{FolderDataset, FolderOptions},
        transforms::{Compose, RandomCrop},
    },
    losses::SegmentationLoss,
    models::layers::{ConvBlock, ConvBlockConfig, conv2d},
    models::weights::{TorchName, TorchNames},
    models::{ConfigError, ModelCard, segmentation::HeadLogits},
    prelude::*,
    train::{Loss, Run, SegmentationTask, TrainingOptions, history::Monitor, schedule::ScheduleConfig, train},
};

/// Convolutions of rising dilation at the image's own size.
#[derive(Module, Debug)]
struct DilatedNet {
    layers: Vec<ConvBlock>,
    head: Conv2d,
    /// A second head halfway, for training.
    aux: Conv2d,
}

#[derive(Config, Debug)]
struct DilatedNetConfig {
    in_channels: usize,
    classes: usize,
    #[config(default = 12)]
    channels: usize,
}

impl SegmentationNetwork for DilatedNet {
    type Config = DilatedNetConfig;

    // In PyTorch's files the layers are called `features.0.0.weight`, and so on.
    const TORCH_NAMES: TorchNames = &[("DilatedNet", "layers", TorchName::Is("features"))];

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(&self.head, self.layers.iter().fold(x, |x, layer| layer.forward(x)))
    }

    fn forward_heads(&self, x: Tensor<4>) -> Vec<HeadLogits> {
        let (first, second) = self.layers.split_at(2);
        let halfway = first.iter().fold(x, |x, layer| layer.forward(x));
        let aux = HeadLogits { weight: 0.3, logits: conv2d(&self.aux, halfway.clone()) };
        let last = second.iter().fold(halfway, |x, layer| layer.forward(x));
        vec![aux, HeadLogits { weight: 1.0, logits: conv2d(&self.head, last) }]
    }
}

impl SegmentationNetworkConfig for DilatedNetConfig {
    type Network = DilatedNet;

    fn check(&self) -> Result<(), ConfigError> {
        if self.channels > 0 { Ok(()) } else { Err(ConfigError::new("channels", "must be at least 1")) }
    }

    fn init(&self, device: &Device) -> DilatedNet {
        let mut from = self.in_channels;
        let layers = [1, 2, 4, 8, 1].map(|dilation| {
            let from = std::mem::replace(&mut from, self.channels);
            ConvBlockConfig::new(from, self.channels).with_dilation(dilation).with_padding(dilation).init(device)
        });
        let head = || Conv2dConfig::new([self.channels, self.classes], [1, 1]).init(device);
        DilatedNet { layers: layers.into(), head: head(), aux: head() }
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        Self { in_channels, ..self }
    }

    fn classes(&self) -> usize {
        self.classes
    }
}

/// Mean squared error of the probabilities of the foreground.
#[derive(Debug)]
struct BrierLoss;

impl SegmentationLoss for BrierLoss {
    fn forward(&self, logits: Tensor<4>, targets: Tensor<3, Int>) -> Tensor<1> {
        (sigmoid(logits) - targets.float().unsqueeze_dim(1)).square().mean()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::default();
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/nuclei_sample"));
    let open = |split: &str| -> Result<Arc<FolderDataset>, Box<dyn Error>> {
        let options = FolderOptions { color: ColorMode::Gray, mask: MaskFormat::Binary, ..Default::default() };
        Ok(Arc::new(FolderDataset::open_split(folder, split, &Classes::binary(), options)?))
    };
    let training = open("train")?;
    let normalize = Normalize::of_dataset(&*training)?;
    let config = DilatedNetConfig::new(1, 1);
    let (classes, color) = (Classes::binary(), Some(ColorMode::Gray));
    let card = ModelCard { model: config.clone(), classes, color, normalize: normalize.clone() };
    // The second run goes on where the first ended; an earlier run in the folder is moved aside.
    for (epochs, resume) in [(4, false), (8, true)] {
        let task = SegmentationTask::new(card.clone()).with_loss(Loss::custom(BrierLoss));
        let task =
            task.with_score("balanced_accuracy", |matrix| Some((matrix.recall(0)? + matrix.recall(1)?) / 2.0))?;
        let augment = Compose::new().then(RandomCrop::new(64, 64)?).then(normalize.clone());
        train(Run {
            folder: "runs/custom".into(),
            task,
            options: TrainingOptions {
                epochs,
                schedule: ScheduleConfig::Constant,
                monitor: Monitor { metric: "balanced_accuracy".into(), higher_is_better: true },
                ..TrainingOptions::default()
            },
            data: Default::default(),
            weights: None,
            train: Loader::builder(training.clone()).transform(augment).epoch_length(Some(32)),
            valid: Loader::builder(open("val")?).transform(normalize.clone()),
            device: device.clone(),
            resume,
        })?;
    }

    let segmenter = Segmenter::<DilatedNet>::load_network("runs/custom", &device)?;
    let image = image::open(folder.join("images/bottom_right.png"))?;
    let result = segmenter.segment(&image)?;
    // The same weights as PyTorch would load them, and back.
    let file = Path::new("runs/custom/pytorch.safetensors");
    segmenter.model().save_torch(file)?;
    config.init(&device).load_pretrained(file)?;
    println!("{}", config.summary([64, 64], &device));
    result.overlay(&image, 0.4)?.save("runs/custom/overlay.png")?;
    Ok(())
}
