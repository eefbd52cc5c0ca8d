//! A backbone that segkiln does not know: five convolutions, each of which halves the map.

use burn::{
    config::Config,
    module::Module,
    nn::{
        PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, activation::relu},
};
use segkiln::models::{
    ConfigError,
    backbones::{BackboneFamily, BackboneNetwork, Stage, Stages, Variants},
    weights::{TorchName, TorchNames},
};

/// The strides of the stages.
const STRIDES: [usize; 5] = [2, 4, 8, 16, 32];

/// Config of a [`PatchNet`].
#[derive(Config, Debug)]
pub struct PatchNetConfig {
    /// Channels of the image.
    #[config(default = 3)]
    pub in_channels: usize,
    /// Channels of each map.
    #[config(default = 8)]
    pub width: usize,
}

/// The network.
#[derive(Module, Debug)]
pub struct PatchNet {
    convs: Vec<Conv2d>,
}

impl BackboneFamily for PatchNetConfig {
    type Network = PatchNet;

    const VARIANTS: Variants<Self> =
        &[("patchnet", PatchNetConfig::new), ("patchnet_wide", || PatchNetConfig::new().with_width(16))];

    fn stages(&self) -> Stages {
        Stages::new(STRIDES.map(|stride| Stage::new(self.width, stride, 32)))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn with_in_channels(self, in_channels: usize) -> Self {
        Self { in_channels, ..self }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fits = (1..=512).contains(&self.width);
        if fits { Ok(()) } else { Err(ConfigError::new("width", "must be from 1 to 512")) }
    }

    fn init(&self, device: &Device) -> PatchNet {
        let conv = |stage| {
            let from = if stage == 0 { self.in_channels } else { self.width };
            Conv2dConfig::new([from, self.width], [3, 3])
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        PatchNet { convs: (0..STRIDES.len()).map(conv).collect() }
    }
}

impl BackboneNetwork for PatchNet {
    const TORCH_NAMES: TorchNames = &[("PatchNet", "convs", TorchName::Is("blocks"))];

    fn forward(&self, mut x: Tensor<4>, stages: &[usize]) -> Vec<Tensor<4>> {
        let mut maps = Vec::new();
        for (stage, conv) in self.convs.iter().enumerate() {
            x = relu(conv.forward(x));
            if stages.contains(&stage) {
                maps.push(x.clone());
            }
        }
        maps
    }

    fn freeze_stages(self, trainable: usize) -> Self {
        let frozen = self.convs.len().saturating_sub(trainable);
        let freeze = |(stage, conv): (usize, Conv2d)| if stage < frozen { conv.freeze() } else { conv };
        Self { convs: self.convs.into_iter().enumerate().map(freeze).collect() }
    }
}
