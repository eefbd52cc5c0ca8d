//! The networks against PyTorch on the same weights; `tests/parity/unet.py` writes the fixtures.

use std::{cell::RefCell, path::Path, rc::Rc};

use burn::{
    module::Module,
    store::{ModuleSnapshot, SafetensorsStore},
    tensor::{Device, Tensor, TensorData},
};
use safetensors::SafeTensors;
use segkiln_models::{
    LayerMaps,
    layers::{Activation, NormConfig, UpsampleConfig},
    unet::*,
};

struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.safetensors"));
        Self { bytes: std::fs::read(path).unwrap() }
    }

    fn data(&self, name: &str) -> TensorData {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        TensorData::new(values, view.shape().to_vec())
    }

    fn tensor(&self, name: &str, device: &Device) -> Tensor<4> {
        Tensor::from_data(self.data(name), device)
    }

    /// Loads the tensors whose names begin with `prefix`; `whole` if they are to be all of the network's.
    fn load<M: Module>(&self, model: &mut M, prefix: &str, whole: bool) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensors = file.iter().filter_map(|(name, view)| Some((name.strip_prefix(prefix)?, view)));
        let mut store = SafetensorsStore::from_bytes(Some(safetensors::serialize(tensors, None).unwrap()))
            .skip_enum_variants(true)
            .allow_partial(!whole)
            .with_key_remapping(r"\bnorm\.weight$", "norm.gamma")
            .with_key_remapping(r"\bnorm\.bias$", "norm.beta")
            .with_key_remapping(r"\bup\.(\d+)\.conv\.", "up.$1.")
            .with_key_remapping(r"\.up\.conv\.", ".up.");
        let result = model.load_from(&mut store).unwrap();
        assert!(result.unused.is_empty() && result.skipped.is_empty() && result.errors.is_empty(), "{result}");
    }
}

/// Largest difference as a share of the expected values' range.
fn difference(actual: TensorData, expected: TensorData) -> f32 {
    assert_eq!(actual.shape(), expected.shape());
    let expected: Vec<f32> = expected.iter().collect();
    let range = expected.iter().cloned().fold(f32::MIN, f32::max) - expected.iter().cloned().fold(f32::MAX, f32::min);
    actual.iter::<f32>().zip(expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max) / range
}

/// Evaluation and training outputs, two gradients and the running statistics.
fn check<M: Module>(
    name: &str,
    init: impl Fn(&Device) -> M,
    forward: impl Fn(&M, Tensor<4>) -> Tensor<4>,
    first: impl Fn(&M) -> Tensor<4>,
    last: impl Fn(&M) -> Tensor<4>,
) {
    let fixture = Fixture::open(name);
    let assert_close = |what: &str, actual: Tensor<4>| {
        let difference = difference(actual.into_data(), fixture.data(what));
        assert!(difference < 1e-4, "{name}: {what} differs by {difference} of its range");
    };

    let plain = Device::default();
    let mut model = init(&plain);
    fixture.load(&mut model, "state.", true);
    assert_close("evaluated", forward(&model, fixture.tensor("x", &plain)));

    let device = plain.autodiff();
    let mut model = init(&device);
    fixture.load(&mut model, "state.", true);
    let output = forward(&model, fixture.tensor("x", &device));
    assert_close("trained", output.clone().inner());
    let gradients = (output * fixture.tensor("weight", &device)).sum().backward();
    assert_close("grad.first", first(&model).grad(&gradients).unwrap());
    assert_close("grad.last", last(&model).grad(&gradients).unwrap());

    // Running statistics, by loading PyTorch's into a second model and comparing what both then compute.
    let trained = model.valid();
    let mut reference = init(&Device::default());
    fixture.load(&mut reference, "state.", true);
    fixture.load(&mut reference, "after.", false);
    let x = fixture.tensor("x", &Device::default());
    let difference = difference(forward(&trained, x.clone()).into_data(), forward(&reference, x).into_data());
    assert!(difference < 1e-4, "{name}: after a training step evaluation differs by {difference} of its range");
}

#[test]
fn unet() {
    let check = |name, config: UNetConfig| {
        check(
            name,
            |device| config.init(device),
            UNet::forward,
            |m| m.encoder.levels[0].first.conv.weight.val(),
            |m| m.head.weight.val(),
        );
    };
    check("unet_batch", UNetConfig::new(3, 2).with_base(4).with_depth(2));
    check(
        "unet_bilinear_group",
        UNetConfig::new(1, 3)
            .with_base(4)
            .with_depth(2)
            .with_upsample(UpsampleConfig::Bilinear)
            .with_norm(NormConfig::Group { groups: 2 }),
    );
    check(
        "unet_instance_gelu",
        UNetConfig::new(2, 1)
            .with_base(4)
            .with_depth(2)
            .with_norm(NormConfig::Instance)
            .with_activation(Activation::Gelu),
    );
    check("unet_paper", UNetConfig::paper().with_base(4).with_depth(2).with_dropout(0.0));
}

/// The weights of the gates, which are seen as the maps of `psi`, and the gates' own outputs.
#[test]
fn gates_of_attention_unet() {
    let (fixture, device) = (Fixture::open("attention"), Device::default());
    let mut model = AttentionUNetConfig::new(1, 2).with_base(4).with_depth(2).init(&device);
    fixture.load(&mut model, "state.", true);
    let x = fixture.tensor("x", &device);
    let (maps, logits) = LayerMaps::of(&model, || model.forward(x.clone()));
    for name in ["gates.0.psi", "gates.1.psi"] {
        let found: Rc<RefCell<Option<Tensor<4>>>> = Rc::default();
        let seen = found.clone();
        let look = Box::new(move |map: Tensor<4>| {
            *seen.borrow_mut() = Some(map.clone());
            map
        });
        let looked = maps.edit(vec![(maps.find(name).unwrap(), look)], || model.forward(x.clone()));
        assert_eq!(looked.into_data(), logits.clone().into_data(), "{name}");
        let weights = found.take().unwrap().into_data();
        assert!(weights.iter::<f32>().all(|weight| (0.0..=1.0).contains(&weight)), "{name}");
        let difference = difference(weights, fixture.data(name));
        assert!(difference < 1e-4, "{name} differs by {difference} of its range");
    }
    // A gate as a whole puts out the weighed skip.
    assert_eq!(maps.find("gates.0").unwrap().shape(), [2, 8, 8, 8]);
    assert_eq!(maps.find("gates.0.psi").unwrap().shape(), [2, 1, 8, 8]);
    // Closed gates let nothing of the skips through.
    let closed = |name: &str| (maps.find(name).unwrap(), Box::new(|map: Tensor<4>| map.zeros_like()) as _);
    let [by_weights, by_skips] = [["gates.0.psi", "gates.1.psi"], ["gates.0", "gates.1"]]
        .map(|names| maps.edit(names.map(closed).into(), || model.forward(x.clone())).into_data());
    assert_eq!(by_weights, by_skips);
    assert_ne!(by_weights, logits.into_data());
}

#[test]
fn attention_unet() {
    check(
        "attention",
        |device| AttentionUNetConfig::new(1, 2).with_base(4).with_depth(2).init(device),
        AttentionUNet::forward,
        |m| m.encoder.levels[0].first.conv.weight.val(),
        |m| m.head.weight.val(),
    );
}

#[test]
fn unet_plus_plus() {
    for (name, deep) in [("plus_plus", false), ("plus_plus_deep", true)] {
        check(
            name,
            |device| UNetPlusPlusConfig::new(1, 2).with_base(4).with_depth(2).with_deep_supervision(deep).init(device),
            UNetPlusPlus::forward,
            |m| m.encoder.levels[0].first.conv.weight.val(),
            |m| m.heads.last().unwrap().weight.val(),
        );
    }
}
