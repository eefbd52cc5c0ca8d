//! A published 3D U-Net that [`UNet3d`](segkiln_models::volumes::UNet3d) cannot express, from the same layers and operators: the one of
//! the PyPI package platelet-unet-watershed 0.0.3, against PyTorch. It pools with padding, enlarges depthwise, crops, does not widen at
//! its bottom, and ends in convolutions in place of a head.

use std::path::PathBuf;

use burn::{
    module::Module,
    nn::{
        BatchNorm, BatchNormConfig, PaddingConfig3d,
        conv::{Conv3d, Conv3dConfig, ConvTranspose3d, ConvTranspose3dConfig},
    },
    tensor::{
        Device, Tensor, TensorData,
        activation::{relu, sigmoid},
        ops::MaxPoolOptions,
    },
};
use safetensors::SafeTensors;
use segkiln_models::{
    layers::{cat_channels3d, conv_transpose3d, conv3d},
    weights::load_torch,
};
use segkiln_ops::max_pool3d;

/// Fields are called as the tensors of the file, so that no name needs a map.
#[derive(Module, Debug)]
struct ConvModule {
    conv0: Conv3d,
    batch0: BatchNorm,
    conv1: Conv3d,
    batch1: BatchNorm,
}

impl ConvModule {
    fn new(from: usize, to: usize, device: &Device) -> Self {
        let conv = |from| {
            let padding = PaddingConfig3d::Explicit(1, 1, 1);
            Conv3dConfig::new([from, to], [3; 3]).with_padding(padding).init(device)
        };
        let norm = || BatchNormConfig::new(to).init(device);
        Self { conv0: conv(from), batch0: norm(), conv1: conv(to), batch1: norm() }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        relu(self.before_activation(x))
    }

    fn before_activation(&self, x: Tensor<5>) -> Tensor<5> {
        let x = relu(self.batch0.forward(conv3d(&self.conv0, x)));
        self.batch1.forward(conv3d(&self.conv1, x))
    }
}

#[derive(Module, Debug)]
struct PlateletUNet {
    c0: ConvModule,
    c1: ConvModule,
    c2: ConvModule,
    c3: ConvModule,
    c4: ConvModule,
    c5_0: ConvModule,
    c6_0: ConvModule,
    c7_0: ConvModule,
    c8_0: ConvModule,
    up0: ConvTranspose3d,
    up1: ConvTranspose3d,
    up2: ConvTranspose3d,
    up3: ConvTranspose3d,
}

impl PlateletUNet {
    fn new(device: &Device) -> Self {
        let module = |from, to| ConvModule::new(from, to, device);
        let up = |channels, deep: usize| {
            ConvTranspose3dConfig::new([channels; 2], [deep, 2, 2])
                .with_stride([deep, 2, 2])
                .with_groups(channels)
                .init(device)
        };
        Self {
            c0: module(1, 32),
            c1: module(32, 64),
            c2: module(64, 128),
            c3: module(128, 256),
            c4: module(256, 256),
            c5_0: module(512, 128),
            c6_0: module(256, 64),
            c7_0: module(128, 32),
            c8_0: module(64, 5),
            up0: up(256, 2),
            up1: up(128, 1),
            up2: up(64, 1),
            up3: up(32, 1),
        }
    }

    /// Affinities along depth, height and width, mask and centers of the platelets, in `[0, 1]`, of a volume of even depth.
    ///
    /// # Shapes
    /// `[batch, 1, depth, height, width]` → `[batch, 5, depth, height, width]`
    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let pool = |x, deep: usize| {
            let padding = [(0, 0), (1, 1), (1, 1)];
            let (kernel_size, stride, dilation) = ([deep, 2, 2], [deep, 2, 2], [1; 3]);
            max_pool3d(x, MaxPoolOptions { kernel_size, stride, padding, dilation, ceil_mode: false })
        };
        let join = |up: &ConvTranspose3d, x, skip: Tensor<5>, first: usize| {
            let [.., height, width] = skip.dims();
            let x = conv_transpose3d(up, x).narrow(3, first, height).narrow(4, first, width);
            cat_channels3d([x, skip])
        };
        let x0 = self.c0.forward(x);
        let x1 = self.c1.forward(pool(x0.clone(), 1));
        let x2 = self.c2.forward(pool(x1.clone(), 1));
        let x3 = self.c3.forward(pool(x2.clone(), 1));
        let x = self.c4.forward(pool(x3.clone(), 2));
        let x = self.c5_0.forward(join(&self.up0, x, x3, 0));
        let x = self.c6_0.forward(join(&self.up1, x, x2, 0));
        let x = self.c7_0.forward(join(&self.up2, x, x1, 0));
        sigmoid(self.c8_0.before_activation(join(&self.up3, x, x0, 1)))
    }
}

#[test]
#[ignore = "needs a published network's weights (40 MB), which are not in the repository; `.ci/platelets` fetches them and runs it"]
fn published_weights_give_what_pytorch_gives() {
    let folder =
        PathBuf::from(std::env::var("SEGKILN_PLATELETS").expect("the folder that tests/parity/platelets.py wrote"));
    let device = Device::default();
    let network = load_torch(PlateletUNet::new(&device), &folder.join("weights.pt")).unwrap();
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["small", "wide"] {
        let tensor = |what: &str| {
            let shape: [usize; 5] = file.tensor(&format!("{name}.{what}")).unwrap().shape().try_into().unwrap();
            (super::floats(&file, &format!("{name}.{what}")), shape)
        };
        let (volume, shape) = tensor("volume");
        let found = network.forward(Tensor::from_data(TensorData::new(volume, shape), &device));
        let (expected, shape) = tensor("maps");
        assert_eq!(found.dims(), shape);
        // Neither all platelet nor none.
        assert!(expected.iter().any(|value| *value > 0.9) && expected.iter().any(|value| *value < 0.1));
        super::assert_close(name, &found.into_data().try_to_vec::<f32>().unwrap(), &expected, 1e-4);
    }
}
