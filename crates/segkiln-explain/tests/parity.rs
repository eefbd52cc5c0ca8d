//! Explanations and attacks against pytorch-grad-cam, captum and torchattacks; `tests/parity/explain.py` writes the fixture and says which
//! formulas weights and images have.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use safetensors::{SafeTensors, tensor::TensorView};
use segkiln_core::{Classes, LabelMap};
use segkiln_data::{ColorMode, Image, Normalize};
use segkiln_explain::{
    Attack, AttackKind, Goal, Method, Norm, Occlusion, IntegratedGradients, Question, Region, SegmentationSubject, Target, method,
};
use segkiln_models::{
    ModelCard, ModelConfig, SegmentationModel, SegmentationNetwork, SegmentationNetworkConfig,
    unet::UNetConfig,
    weights::{load_torch, torch_shapes},
};

const STEP: usize = 5;
const CLASSES: usize = 4;

struct Case {
    name: &'static str,
    model: SegmentationModel,
    card: ModelCard,
    size: [usize; 2],
    fixture: Vec<u8>,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let (config, size, salt) = match name {
            "unet" => (ModelConfig::UNet(UNetConfig::new(3, CLASSES).with_base(8).with_depth(3)), [48, 40], "x"),
            _ => (ModelConfig::by_name(name, CLASSES).unwrap().with_aux(true), [65, 49], ""),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let model = config.init(&Device::default());
        write_formula(&torch_shapes(&model), &path, salt);
        let model = load_torch(model, &path).unwrap();
        let classes = Classes::new((0..CLASSES).map(|class| format!("class {class}"))).unwrap();
        let card = ModelCard { model: config, classes, color: Some(ColorMode::Rgb), normalize: Normalize::identity(3) };
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/explain.safetensors");
        Self { name, model, card, size, fixture: std::fs::read(fixture).unwrap() }
    }

    fn subject(&self, normalize: Normalize) -> SegmentationSubject<SegmentationModel> {
        let card = ModelCard { normalize, ..self.card.clone() };
        SegmentationSubject::new(&self.model, &card, &Device::default()).unwrap()
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.fixture).unwrap();
        let view = file.tensor(&format!("{}.{name}", self.name)).unwrap();
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.fixture).unwrap();
        let prefix = format!("{}.{prefix}.", self.name);
        file.names().into_iter().filter_map(|name| name.strip_prefix(&prefix).map(Into::into)).collect()
    }

    fn labels(&self, name: &str) -> LabelMap {
        let labels = self.expected(name).iter().map(|label| *label as u32).collect();
        LabelMap::new(self.size[1] as u32, self.size[0] as u32, labels).unwrap()
    }

    /// `tests/parity/rcnn.py`'s image.
    fn image(&self) -> Image {
        let [height, width] = self.size;
        let value = |x: usize, y: usize, c: usize| {
            let block = (x / 24 + 2 * (y / 20) + c) % 3 * 60;
            ((x * 7 + y * 13 + c * 31 + (x * y) % 17 * 5) % 256 / 2 + block) as f32 / 255.0
        };
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| value(x, y, c))));
        Image::new(width as u32, height as u32, 3, pixels.collect()).unwrap()
    }

    #[track_caller]
    fn assert_map(&self, question: &Question<'_>, method: &dyn Method, name: &str) {
        let found = question.explain(method).unwrap().map;
        let expected = self.expected(name);
        let found: Vec<f32> = found.as_slice().iter().copied().step_by(STEP).collect();
        assert_eq!(found.len(), expected.len(), "{name}");
        let range = expected.iter().copied().fold(f32::MIN, f32::max) - expected.iter().copied().fold(f32::MAX, f32::min);
        let most = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most <= 1e-4 * range, "{} {name}: {} of the range {range}", self.name, most / range);
    }

    fn explanations(&self) {
        let subject = self.subject(Normalize::identity(3));
        let image = self.image();
        let class = self.expected("class")[0] as usize;
        let question = |region: Region| Question::new(&subject, &image, &Target::class(class, region)).unwrap().with_batch(4);
        let masked = || question(Region::Mask(self.labels("mask")));
        let score = self.expected("score")[0];
        for region in [Region::Predicted, Region::Mask(self.labels("mask"))] {
            let found = question(region).score().unwrap();
            assert!((found - score).abs() <= 1e-4 * score.abs(), "{found}, not {score}");
        }
        let mut maps = 0;
        for name in ["gradcam", "gradcam_plus_plus", "hirescam", "xgradcam", "layercam", "eigencam", "scorecam", "ablationcam"] {
            for layers in self.names(name) {
                let chosen: Vec<&str> = layers.split('+').collect();
                let question = masked().with_layers(&chosen).unwrap();
                self.assert_map(&question, &*method(name).unwrap(), &format!("{name}.{layers}"));
                maps += 1;
            }
        }
        assert!(maps > 24, "{maps}");
        for name in ["saliency", "input_x_gradient"] {
            self.assert_map(&masked(), &*method(name).unwrap(), name);
        }
        self.assert_map(&masked(), &IntegratedGradients { steps: 12 }, "integrated_gradients");
        self.assert_map(&masked(), &Occlusion { window: Some(9), stride: Some(4) }, "occlusion");
    }

    fn attacks(&self) {
        let subject = self.subject(Normalize::imagenet());
        let (image, labels) = (self.image(), self.labels("labels"));
        let pgd = Attack { rounded: false, ..Attack::new(AttackKind::Pgd, 8.0) }.with_steps(5);
        let kind = |kind| Attack { kind, ..pgd };
        for (name, attack) in [
            ("fgsm", Attack { rounded: false, ..Attack::new(AttackKind::Fgsm, 8.0) }),
            ("pgd", pgd),
            ("momentum", Attack { momentum: 1.0, ..pgd }),
            ("l2", Attack { norm: Norm::L2, ..pgd.with_epsilon(800.0) }),
            ("segpgd", kind(AttackKind::SegPgd)),
            ("cospgd", kind(AttackKind::CosPgd)),
        ] {
            let attacked = attack.run(&subject, &image, &Goal::Away(labels.clone())).unwrap();
            let expected = self.expected(name);
            let [height, width] = self.size;
            let planes = (0..3).flat_map(|channel| attacked.image.as_slice().iter().skip(channel).step_by(3));
            let found: Vec<f32> = planes.copied().step_by(STEP).collect();
            assert_eq!((found.len(), attacked.image.as_slice().len()), (expected.len(), 3 * height * width));
            let far = found.iter().zip(&expected).filter(|(a, b)| (**a - **b).abs() > 1.0 / 255.0).count();
            let share = far as f64 / found.len() as f64;
            // Where a gradient is nearly 0, its sign is what rounding makes it, and later steps follow.
            assert!(share <= 0.001, "{} {name}: {share} of the values are farther than 1/255", self.name);
            assert!(attacked.score_after < attacked.score_before, "{name}");

            let logits = subject.logits(subject.input(&attacked.image).unwrap());
            let loss = cross_entropy(logits, &labels);
            let (clean, expected) = (self.expected("clean.loss")[0], self.expected(&format!("{name}.loss"))[0]);
            assert!(loss - clean >= 0.99 * (expected - clean), "{} {name}: a loss of {loss}, not {expected}", self.name);
        }
    }
}

fn cross_entropy(logits: Tensor<4>, labels: &LabelMap) -> f32 {
    let values: Vec<f32> = logits.into_data().try_to_vec().unwrap();
    let pixels = labels.as_slice().len();
    let loss = |(pixel, label): (usize, &u32)| {
        let logit = |class: usize| f64::from(values[class * pixels + pixel]);
        (0..CLASSES).map(|class| logit(class).exp()).sum::<f64>().ln() - logit(*label as usize)
    };
    (labels.as_slice().iter().enumerate().map(loss).sum::<f64>() / pixels as f64) as f32
}

/// Numbers in [-1, 1): splitmix64 from FNV-1a of the text.
fn noise(text: &str) -> impl Iterator<Item = f64> {
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (0u64..).map(move |index| {
        let z = hash.wrapping_add(index).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 40) as f64 / 8_388_608.0 - 1.0
    })
}

/// Writes a file as torchvision would, with the formula's weights.
fn write_formula(shapes: &[(String, Vec<usize>)], path: &Path, salt: &str) {
    let values = |name: &str, shape: &[usize]| -> Vec<u8> {
        let factor = if name.contains(".conv3.") { 0.4 } else if name.contains(".downsample.") { 0.7 } else { 1.0 };
        let (offset, scale) = match shape.len() {
            2.. => (0.0, factor * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt()),
            _ if name.ends_with("running_var") => (1.0, 0.2),
            _ if name.ends_with("weight") => (1.0, 0.1),
            _ => (0.0, 0.1),
        };
        let numbers = noise(&format!("{salt}{name}")).take(shape.iter().product());
        numbers.flat_map(|noise| ((offset + scale * noise) as f32).to_le_bytes()).collect()
    };
    let tensors: Vec<_> = shapes.iter().map(|(name, shape)| (name, shape, values(name, shape))).collect();
    let view = |shape: &Vec<usize>, bytes| TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
    let views = tensors.iter().map(|(name, shape, bytes)| (*name, view(shape, bytes)));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[test]
fn unet_is_explained_as_by_the_references() {
    Case::new("unet").explanations();
}

#[test]
fn deeplab_is_explained_as_by_the_references() {
    Case::new("deeplabv3_resnet50").explanations();
}

#[test]
fn unet_is_attacked_as_by_the_references() {
    Case::new("unet").attacks();
}

#[test]
fn deeplab_is_attacked_as_by_the_references() {
    Case::new("deeplabv3_resnet50").attacks();
}

/// The trait is what finds the layers; the inherent function of the network may be another one.
#[test]
fn the_forward_pass_is_the_networks_own() {
    let case = Case::new("unet");
    let subject = case.subject(Normalize::identity(3));
    let x = subject.input(&case.image()).unwrap();
    let found = subject.logits(x.clone()).into_data();
    found.assert_eq(&SegmentationNetwork::forward(&case.model, x).into_data(), true);
}
