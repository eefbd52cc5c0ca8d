//! Costs against those that torchvision states of its networks (`_ops` of its weights, thousand millions of multiply-adds).

use burn::tensor::{Device, Tensor};
use segkiln_models::{
    ModelConfig, SegmentationNetworkConfig, Summary, backbones::ClassifierConfig, weights::parameters,
};

#[track_caller]
fn assert_cost(name: &str, summary: &Summary, [parameters, millions]: [usize; 2]) {
    let total = summary.total();
    assert_eq!(total.parameters, parameters, "{name}");
    let found = total.multiply_adds as f64 / 1e6;
    assert!((found - millions as f64).abs() <= 0.6, "{name}: {found} millions of multiply-adds, not {millions}");
}

#[test]
fn classifiers_cost_what_torchvision_says() {
    let device = Device::default();
    for (name, cost) in [
        ("resnet18", [11_689_512, 1814]),
        ("mobilenet_v2", [3_504_872, 301]),
        ("mobilenet_v3_large", [5_483_032, 217]),
        ("efficientnet_b0", [5_288_548, 386]),
    ] {
        let network = ClassifierConfig::by_name(name).unwrap().init(&device);
        let image = Tensor::zeros([1, 3, 224, 224], &device);
        let summary = Summary::of(&network, |network| drop(network.forward(image)));
        assert_cost(name, &summary, cost);
        assert_eq!(parameters(&network), cost[0], "{name}");
    }
}

/// Differences from torchvision's figures: it states 2,086 for LR-ASPP, whose last 1×1 convolution is of the enlarged map and
/// here comes before it is enlarged; and 10,452 for DeepLabV3, with the auxiliary head's 16, which does not compute here.
#[test]
fn segmentation_networks_cost_what_torchvision_says() {
    let device = Device::default();
    for (name, cost) in
        [("lraspp_mobilenet_v3_large", [3_221_538, 2078]), ("deeplabv3_mobilenet_v3_large", [11_025_477, 10_436])]
    {
        let summary = ModelConfig::by_name(name, 21).unwrap().summary([520, 520], &device);
        assert_cost(name, &summary, cost);
    }
}

#[test]
fn blocks_add_up() {
    let device = Device::default();
    let summary = ModelConfig::by_name("unet_resnet18", 2).unwrap().summary([64, 96], &device);
    for depth in 0..4 {
        assert_eq!(summary.blocks(depth).total(), summary.total());
    }
    let blocks = summary.blocks(1);
    let names: Vec<&str> = blocks.layers.iter().map(|block| block.name.as_str()).collect();
    assert_eq!(names, ["encoder", "decoder", "segmentation_head"]);
    let head = &blocks.layers[2];
    assert_eq!((head.parameters, &head.output[..]), (290, &[1, 2, 64, 96][..]));
    assert_eq!((head.multiply_adds, head.activations), (64 * 96 * 288, 64 * 96 * 2));
    // A ResNet's last norm puts nothing out, its last convolution does.
    assert_eq!(blocks.layers[0].output, [1, 512, 2, 3]);

    let text = blocks.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[1].starts_with("encoder            1×512×2×3"), "{text}");
    assert!(lines[4].starts_with("total") && lines[4].contains("14,328,354"), "{text}");
}

/// A network that counts within one that counts.
#[test]
fn counts_do_not_mix() {
    let device = Device::default();
    let network = ClassifierConfig::by_name("resnet18").unwrap().init(&device);
    let image = || Tensor::zeros([1, 3, 32, 32], &device);
    let once = Summary::of(&network, |network| drop(network.forward(image())));
    let outer = Summary::of(&network, |network| {
        assert_eq!(Summary::of(network, |network| drop(network.forward(image()))), once);
        network.forward(image());
    });
    assert_eq!(outer, once);
    // A layer that is used twice costs twice.
    let twice = Summary::of(&network, |network| drop((network.forward(image()), network.forward(image()))));
    assert_eq!(twice.total().multiply_adds, 2 * once.total().multiply_adds);
    assert_eq!(twice.total().parameters, once.total().parameters);
}
