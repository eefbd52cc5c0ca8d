//! Taps, methods and errors, on networks of this crate and on one of its own.

use std::{cell::RefCell, rc::Rc};

use burn::{
    config::Config,
    module::Module,
    nn::{
        Dropout, DropoutConfig,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, activation::relu},
};
use segkiln_core::{Classes, LabelMap};
use segkiln_data::{ColorMode, Image, Normalize};
use segkiln_explain::{
    ActivationMaximization, Attack, AttackKind, ExplainError, ExplanationTarget, Goal, Map, Patch, PerturbationNorm,
    PixelReduction, Pixels, Question, SegmentationSubject, SmallestChange, SmoothGrad, faithfulness, feature_maps,
    method, methods, points_at, randomized_weights, uncertainty, with_patch, wrong_regions,
};
use segkiln_models::{ConfigError, LayerMaps, ModelCard, SegmentationNetwork, SegmentationNetworkConfig, tap};

/// Plain layers of Burn: two 1×1 convolutions with a ReLU and dropout between them.
#[derive(Module, Debug)]
struct Own {
    first: Conv2d,
    dropout: Dropout,
    second: Conv2d,
}

#[derive(Config, Debug)]
struct OwnConfig {
    #[config(default = 0.5)]
    dropout: f64,
}

impl SegmentationNetwork for Own {
    type Config = OwnConfig;

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = tap(&self.first.weight, self.first.forward(x));
        self.second.forward(self.dropout.forward(tap("middle", relu(x))))
    }
}

impl SegmentationNetworkConfig for OwnConfig {
    type Network = Own;

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn init(&self, device: &Device) -> Own {
        device.seed(4);
        let conv = |from, to| Conv2dConfig::new([from, to], [1, 1]).init(device);
        Own { first: conv(3, 6), dropout: DropoutConfig::new(self.dropout).init(), second: conv(6, 3) }
    }

    fn in_channels(&self) -> usize {
        3
    }

    fn with_in_channels(self, _in_channels: usize) -> Self {
        self
    }

    fn classes(&self) -> usize {
        3
    }
}

fn card(dropout: f64) -> ModelCard<OwnConfig> {
    let classes = Classes::new(["ground", "tree", "house"]).unwrap();
    let normalize = Normalize::new(vec![0.4, 0.5, 0.6], vec![0.2, 0.25, 0.3]).unwrap();
    ModelCard { model: OwnConfig { dropout }, classes, color: Some(ColorMode::Rgb), normalize }
}

fn own(dropout: f64) -> (Own, SegmentationSubject<Own>) {
    let device = Device::default();
    let card = card(dropout);
    let network = card.model.init(&device);
    let subject = SegmentationSubject::new(&network, &card, &device).unwrap();
    (network, subject)
}

fn picture() -> Image {
    let values = (0..12 * 9 * 3).map(|index| ((index * 37 + index / 7 * 11) % 256) as f32 / 255.0);
    Image::new(12, 9, 3, values.collect()).unwrap()
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().unwrap()
}

#[test]
fn every_method_explains_a_network_of_ones_own() {
    let (_, subject) = own(0.5);
    let image = picture();
    for region in [Pixels::Image, Pixels::Pixel { x: 3, y: 2 }] {
        let question = Question::new(&subject, &image, &ExplanationTarget::class(1, region))
            .unwrap()
            .with_layers(&["middle"])
            .unwrap();
        for method in methods() {
            let found = question.explain(&*method).unwrap();
            let [low, high] = found.map.range();
            assert_eq!((found.map.width(), found.map.height()), (12, 9), "{}", method.name());
            assert!(low.is_finite() && low <= high && !method.meaning().is_empty(), "{}", method.name());
            // The same again.
            assert_eq!(question.explain(&*method).unwrap(), found, "{}", method.name());
        }
    }
}

/// The logit of a pixel is a function of that pixel alone: nothing else may count.
#[test]
fn gradients_stay_where_they_belong() {
    let (_, subject) = own(0.5);
    let target = ExplanationTarget::class(2, Pixels::Pixel { x: 5, y: 7 });
    let image = picture();
    let question = Question::new(&subject, &image, &target).unwrap().with_layers(&["middle"]).unwrap();
    for name in ["saliency", "input_x_gradient", "integrated_gradients", "smoothgrad", "hirescam"] {
        let map = question.explain(&*method(name).unwrap()).unwrap().map;
        for (index, value) in map.as_slice().iter().enumerate() {
            assert!(index == 7 * 12 + 5 || value.abs() < 1e-6, "{name}: {value} at {index}");
        }
    }
    let exact = question.explain(&SmoothGrad { noise: 0.0, samples: 3, ..Default::default() }).unwrap().map;
    let saliency = question.explain(&*method("saliency").unwrap()).unwrap().map;
    assert!(exact.as_slice().iter().zip(saliency.as_slice()).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0)));
}

#[test]
fn integrated_gradients_are_complete() {
    let (_, subject) = own(0.5);
    let image = picture();
    let target = ExplanationTarget::Class { class: 1, pixels: Pixels::Image, reduction: PixelReduction::Mean };
    let found =
        Question::new(&subject, &image, &target).unwrap().explain(&*method("integrated_gradients").unwrap()).unwrap();
    let figure = |name: &str| found.figures.iter().find(|(known, _)| *known == name).unwrap().1;
    assert!(figure("score_difference").abs() > 1e-3);
    assert!(figure("completeness_gap").abs() < 0.02 * figure("score_difference").abs(), "{:?}", found.figures);
}

/// A network that looks at each pixel alone: the pixels' own attributions are the best order there is.
#[test]
fn curves_tell_a_good_map_from_a_bad_one() {
    let (_, subject) = own(0.5);
    let image = picture();
    let target = ExplanationTarget::Class { class: 1, pixels: Pixels::Image, reduction: PixelReduction::Mean };
    let question = Question::new(&subject, &image, &target).unwrap();
    let good = question.explain(&*method("integrated_gradients").unwrap()).unwrap().map;
    let upside_down: Vec<f32> = good.as_slice().iter().map(|value| -value).collect();
    let bad = Map::new([9, 12], upside_down, true).unwrap();
    let [good_curves, bad_curves] = [&good, &bad].map(|map| faithfulness(&question, map, 12).unwrap());
    assert!(
        good_curves.deletion_area < bad_curves.deletion_area && good_curves.insertion_area > bad_curves.insertion_area
    );
    let (deletion, insertion) = (&good_curves.deletion, &good_curves.insertion);
    assert!(
        deletion.len() == 13
            && (deletion[0] - insertion[12]).abs() < 1e-5
            && (deletion[12] - insertion[0]).abs() < 1e-5
    );
    assert!((deletion[0] - question.score().unwrap()).abs() < 1e-5);
    let most = good.as_slice().iter().copied().fold(f32::MIN, f32::max);
    let strongest =
        LabelMap::new(12, 9, good.as_slice().iter().map(|value| u32::from(*value == most)).collect()).unwrap();
    assert!(points_at(&good, &strongest).unwrap());
    assert!(!points_at(&good, &strongest.map(|label| 1 - label)).unwrap());
    assert!(
        points_at(&good, &LabelMap::filled(12, 9, 0)).is_err()
            && points_at(&good, &LabelMap::filled(9, 12, 1)).is_err()
    );
}

#[test]
fn gradients_equal_finite_differences() {
    let (_, subject) = own(0.5);
    let image = picture();
    let target = ExplanationTarget::class(0, Pixels::Image);
    let question = Question::new(&subject, &image, &target).unwrap();
    let map = question.explain(&*method("input_x_gradient").unwrap()).unwrap().map;
    // Toward the mean color by a thousandth, pixel by pixel.
    let score = |image: &Image| f64::from(Question::new(&subject, image, &target).unwrap().score().unwrap());
    let whole = score(&image);
    for pixel in [0, 17, 50, 107] {
        let mut changed = image.clone();
        for (value, mean) in changed.as_mut_slice()[3 * pixel..][..3].iter_mut().zip([0.4, 0.5, 0.6]) {
            *value -= 0.02 * (*value - mean);
        }
        let slope = (whole - score(&changed)) / 0.02;
        let found = f64::from(map.as_slice()[pixel]);
        assert!((found - slope).abs() < 0.02 * slope.abs().max(0.1), "{found}, not {slope}");
    }
}

#[test]
fn layers_are_found_and_changed() {
    let (network, subject) = own(0.5);
    let x = subject.input(&picture()).unwrap();
    let (maps, logits) = LayerMaps::of(&network, || network.forward(x.clone()));
    let names: Vec<String> = maps.names().iter().map(|map| map.name().to_owned()).collect();
    assert_eq!(names, ["first", "middle"]);
    let error = maps.find("firts").unwrap_err().to_string();
    assert_eq!(error, "the network has no layer \"firts\"; it has first, middle");

    // The map that an edit sees is the layer's, and what it gives is what comes after.
    let seen = Rc::new(RefCell::new(None));
    let copy = seen.clone();
    let edit = Box::new(move |map: Tensor<4>| {
        *copy.borrow_mut() = Some(map.clone());
        map.mul_scalar(2.0)
    });
    let doubled = maps.edit(vec![(maps.find("middle").unwrap(), edit)], || network.forward(x.clone()));
    let middle: Tensor<4> = seen.take().unwrap();
    let expected = network.second.forward(middle.mul_scalar(2.0));
    assert_eq!(values(doubled.clone()), values(expected));
    assert_ne!(values(doubled), values(logits.clone()));
    // Nothing is left behind.
    assert_eq!(values(network.forward(x)), values(logits));
}

#[test]
fn errors_say_what_to_do() {
    let (_, subject) = own(0.0);
    let image = picture();
    let ask = |class, region| Question::new(&subject, &image, &ExplanationTarget::class(class, region)).map(|_| ());
    let error = |result: Result<(), ExplainError>| result.unwrap_err().to_string();
    assert!(error(ask(3, Pixels::Image)).contains("0 (ground), 1 (tree), 2 (house)"));
    assert!(error(ask(1, Pixels::Mask(LabelMap::filled(12, 9, 0)))).contains("mask has no pixel"));
    assert!(error(ask(1, Pixels::Mask(LabelMap::filled(9, 12, 1)))).contains("9x12"));
    assert!(error(ask(1, Pixels::Pixel { x: 12, y: 0 })).contains("12x9"));
    let predicted = subject.predict(&subject.input(&image).unwrap()).unwrap();
    for class in 0..3 {
        let result = ask(class, Pixels::Predicted);
        assert_eq!(result.is_ok(), predicted.labels().contains(&(class as u32)), "{result:?}");
    }
    let gray = Image::new(2, 2, 1, vec![0.0; 4]).unwrap();
    assert!(Question::new(&subject, &gray, &ExplanationTarget::class(0, Pixels::Image)).is_err());
    let nan = Image::new(1, 1, 3, vec![f32::NAN; 3]).unwrap();
    assert!(matches!(
        Question::new(&subject, &nan, &ExplanationTarget::class(0, Pixels::Image)).unwrap().score(),
        Err(ExplainError::Undefined(_))
    ));

    let goal = Goal::Away(predicted.clone());
    let attack = |epsilon| Attack::new(AttackKind::Pgd, epsilon).run(&subject, &image, &goal).map(|_| ());
    for epsilon in [0.0, -1.0, 256.0, f64::NAN] {
        assert!(error(attack(epsilon)).contains("budget"), "{epsilon}");
    }
    let attack = Attack { steps: 0, ..Attack::new(AttackKind::Pgd, 4.0) };
    assert!(attack.run(&subject, &image, &goal).unwrap_err().to_string().contains("steps"));
    let ignored = Goal::Away(LabelMap::filled(12, 9, Goal::IGNORED));
    assert!(matches!(Attack::new(AttackKind::Fgsm, 4.0).run(&subject, &image, &ignored), Err(ExplainError::EmptyMask)));
    // A dropout of 0 drops nothing.
    let error = uncertainty::dropout(&subject, &image, 3, 0).unwrap_err().to_string();
    assert!(error.contains("train it with dropout"), "{error}");
}

#[test]
fn attacks_fool_and_keep_their_budget() {
    let (_, subject) = own(0.5);
    let image = picture();
    let labels = subject.predict(&subject.input(&image).unwrap()).unwrap();
    let other = labels.clone().map(|label| (label + 1) % 3);
    for kind in [AttackKind::Fgsm, AttackKind::Pgd, AttackKind::SegPgd, AttackKind::CosPgd] {
        let attack = Attack { restarts: 2, random_start: true, seed: 3, ..Attack::new(kind, 6.0) };
        let away = attack.run(&subject, &image, &Goal::Away(labels.clone())).unwrap();
        assert!(away.score_after < away.score_before, "{kind:?}: {} from {}", away.score_after, away.score_before);
        let toward = attack.run(&subject, &image, &Goal::Toward(other.clone())).unwrap();
        assert!(toward.score_after > toward.score_before, "{kind:?}");
        for attacked in [&away, &toward] {
            assert!(attacked.linf <= 6.0 + 1e-3, "{}", attacked.linf);
            for value in attacked.image.as_slice() {
                let byte = value * 255.0;
                assert!((0.0..=255.0).contains(&byte) && (byte - byte.round()).abs() < 1e-3, "{byte}");
            }
        }
        assert_eq!(attack.run(&subject, &image, &Goal::Away(labels.clone())).unwrap(), away, "the same seed");
    }
}

#[test]
fn dropout_makes_answers_differ() {
    let (_, subject) = own(0.5);
    let image = picture();
    let found = uncertainty::dropout(&subject, &image, 8, 1).unwrap();
    assert_eq!(found.answers, 8);
    assert!(found.mutual_information.mean() > 1e-4);
    let below = found.mutual_information.as_slice().iter().zip(found.entropy.as_slice());
    assert!(below.clone().all(|(mutual, entropy)| *mutual <= *entropy + 1e-6));
    // Of a network that looks at each pixel alone, mirror images give the same.
    let mirrored = uncertainty::mirrored(&subject, &image).unwrap();
    assert!(mirrored.mutual_information.range()[1] < 1e-5 && mirrored.entropy.mean() > 0.1);
    let (_, second) = own(0.0);
    let ensemble = uncertainty::ensemble(&[subject, second], &image).unwrap();
    assert_eq!(ensemble.answers, 2);
}

#[test]
fn small_changes_are_found_and_are_enough() {
    let (_, subject) = own(0.5);
    let image = picture();
    let predict = |image: &Image| subject.predict(&subject.input(image).unwrap()).unwrap();
    let labels = predict(&image);
    for norm in [PerturbationNorm::Linf, PerturbationNorm::L2] {
        let search = SmallestChange { norm, share: 0.5, ..Default::default() };
        let found = search.find(&subject, &image, &Goal::Away(labels.clone())).unwrap().unwrap();
        assert!(found.changed >= 0.5 && found.linf > 0.0, "{}", found.changed);
        let changed = predict(&found.image);
        let others = changed.as_slice().iter().zip(labels.as_slice()).filter(|(a, b)| a != b).count();
        assert!(others >= 54, "{others}");
        // With less of the budget an attack does less.
        if norm == PerturbationNorm::Linf {
            let half = Attack { rounded: false, ..Attack::new(AttackKind::Pgd, found.linf / 2.0) };
            let half = half.run(&subject, &image, &Goal::Away(labels.clone())).unwrap();
            assert!(half.changed < found.changed, "{} of {}", half.changed, found.changed);
        }
    }
    // An image of other channels is an error, and no panic.
    let four = Image::new(12, 9, 4, vec![0.5; 12 * 9 * 4]).unwrap();
    let goal = Goal::Away(labels.clone());
    assert!(Attack::new(AttackKind::Pgd, 8.0).run(&subject, &four, &goal).is_err());
    assert!(SmallestChange::default().find(&subject, &four, &goal).is_err());
    // Nothing is to be done where the goal is reached.
    let found = SmallestChange::default().find(&subject, &image, &Goal::Toward(labels)).unwrap().unwrap();
    assert_eq!(found.linf, 0.0);
}

#[test]
fn errors_are_analyzed() {
    let (_, subject) = own(0.5);
    let image = picture();
    let mut labels = subject.predict(&subject.input(&image).unwrap()).unwrap();
    // Two pixels side by side and one apart, with classes that other colors have.
    let is_pair = |pixel: &usize| labels.as_slice()[*pixel] == labels.as_slice()[pixel + 1] && pixel % 12 < 11;
    let same = (40..107).find(is_pair).unwrap();
    let other = |label: u32| labels.labels().into_iter().find(|other| *other != label).unwrap();
    let (taken_for, first) = (labels.as_slice()[same], labels.as_slice()[0]);
    let (truth, first) = (other(taken_for), other(first));
    for (pixel, label) in [(same, truth), (same + 1, truth), (0, first)] {
        labels.as_mut_slice()[pixel] = label;
    }
    let search = SmallestChange { share: 1.0, ..Default::default() };
    let found = wrong_regions(&subject, &image, &labels, 5, &search).unwrap();
    assert_eq!(found.iter().map(|region| region.pixels).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((found[0].truth, found[0].taken_for), (truth, taken_for));
    assert!(found[0].mask.as_slice()[same] == 1 && found[0].mask.as_slice().iter().sum::<u32>() == 2);
    let mended = found.iter().find_map(|region| Some((region, region.mended.as_ref()?)));
    let (region, mended) = mended.expect("one of the two can be mended");
    let after = subject.predict(&subject.input(&mended.attacked.image).unwrap()).unwrap();
    for (pixel, _) in region.mask.as_slice().iter().enumerate().filter(|(_, inside)| **inside == 1) {
        assert_eq!(after.as_slice()[pixel], region.truth);
    }
    // Of a network that looks at each pixel alone, only the region changes.
    for (change, inside) in mended.change.as_slice().iter().zip(region.mask.as_slice()) {
        assert!(*inside == 1 || *change == 0.0, "{change}");
    }
    assert!((f64::from(mended.change.range()[1]) - mended.attacked.linf).abs() < 1e-3);
}

#[test]
fn patches_fool_where_they_are_put() {
    // What a patch does to the pixels around it needs a network that sees more than a pixel.
    let device = Device::default();
    device.seed(3);
    let config = segkiln_models::unet::UNetConfig::new(3, 3).with_base(4).with_depth(2);
    let card = ModelCard {
        model: segkiln_models::ModelConfig::UNet(config),
        classes: card(0.0).classes,
        color: Some(ColorMode::Rgb),
        normalize: Normalize::imagenet(),
    };
    let network = card.model.init(&device);
    let subject = SegmentationSubject::new(&network, &card, &device).unwrap();
    let image = picture();
    let labels = subject.predict(&subject.input(&image).unwrap()).unwrap();
    let search = Patch { step_size: 16.0, ..Patch::new(4, 24) };
    let patch = search.find(&subject, &[(image.clone(), Goal::Away(labels.clone()))]).unwrap();
    assert_eq!((patch.width(), patch.height(), patch.channels()), (4, 4, 3));
    assert!(patch.as_slice().iter().all(|value| (0.0..=1.0).contains(value)));
    assert_eq!(search.find(&subject, &[(image.clone(), Goal::Away(labels.clone()))]).unwrap(), patch, "the same seed");
    let gray = Image::new(4, 4, 3, vec![0.5; 48]).unwrap();
    // Mean probability of the labels outside of the patch, over all places.
    let score = |patch: &Image| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (left, top) in (0..=8).flat_map(|left| (0..=5).map(move |top| (left, top))) {
            let shown = with_patch(&image, patch, left, top).unwrap();
            let found = values(subject.probabilities(subject.input(&shown).unwrap()));
            for (pixel, label) in labels.as_slice().iter().enumerate() {
                let (x, y) = (pixel as u32 % 12, pixel as u32 / 12);
                if !((left..left + 4).contains(&x) && (top..top + 4).contains(&y)) {
                    sum += f64::from(found[*label as usize * 108 + pixel]);
                    count += 1.0;
                }
            }
        }
        sum / count
    };
    assert!(score(&patch) < score(&gray), "{} of {}", score(&patch), score(&gray));
    // Where the patch covers all pixels that count, the place is passed over.
    let mut few = LabelMap::filled(12, 9, Goal::IGNORED);
    few.as_mut_slice()[4 * 12 + 5] = labels.as_slice()[4 * 12 + 5];
    search.find(&subject, &[(image.clone(), Goal::Away(few))]).unwrap();
    assert!(
        with_patch(&image, &patch, 9, 0).is_err()
            && Patch::new(9, 1).find(&subject, &[(image, Goal::Away(labels))]).is_err()
    );
}

#[test]
fn explanations_depend_on_the_weights() {
    let (_, subject) = own(0.5);
    let image = picture();
    let target = ExplanationTarget::class(1, Pixels::Image);
    let check = |name: &str| {
        let method = method(name).unwrap();
        randomized_weights(&subject, &card(0.5), &image, &target, &["middle".into()], &*method, 4, 1).unwrap()
    };
    let found = check("input_x_gradient");
    assert_eq!(found.iter().map(|found| found.tensors).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(found[3].correlation.abs() < 0.9, "{found:?}");
    // EigenCAM does not look at what comes after the layer: the first two tensors are the second convolution's.
    let found = check("eigencam");
    assert!(found[1].correlation > 0.999 && found[3].correlation < found[1].correlation, "{found:?}");
}

#[test]
fn layers_and_classes_are_looked_at() {
    let (_, subject) = own(0.5);
    let image = picture();
    let question = Question::new(&subject, &image, &ExplanationTarget::class(1, Pixels::Image)).unwrap();
    let maps = feature_maps(&question, "middle", 4).unwrap();
    assert_eq!(maps.len(), 4);
    let variance = |map: &Map| {
        let found: Vec<f64> = map.as_slice().iter().map(|value| f64::from(*value)).collect();
        let mean = found.iter().sum::<f64>() / found.len() as f64;
        found.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / found.len() as f64
    };
    let variances: Vec<f64> = maps.iter().map(|map| variance(&map.map)).collect();
    assert!(variances[0] > 0.0 && variances.is_sorted_by(|a, b| a >= b), "{variances:?}");
    assert!(maps[0].channel < 6 && maps[0].map.width() == 12);
    assert!(feature_maps(&question, "midle", 4).is_err());

    let search = ActivationMaximization { steps: 20, step_size: 8.0, ..Default::default() };
    let score = |image: &Image| {
        Question::new(&subject, image, &ExplanationTarget::class(1, Pixels::Image)).unwrap().score().unwrap()
    };
    let gray = Image::new(12, 9, 3, vec![0.5; 12 * 9 * 3]).unwrap();
    let liked = search.of_class(&subject, 1, [9, 12]).unwrap();
    assert!(score(&liked) > score(&gray), "{} of {}", score(&liked), score(&gray));
    assert_eq!(search.of_class(&subject, 1, [9, 12]).unwrap(), liked, "the same seed");
    let channel = maps[0].channel;
    let mean = |image: &Image| {
        let question = Question::new(&subject, image, &ExplanationTarget::class(0, Pixels::Image)).unwrap();
        let maps = feature_maps(&question, "middle", 6).unwrap();
        maps.into_iter().find(|map| map.channel == channel).unwrap().map.mean()
    };
    let liked = search.of_channel(&subject, "middle", channel, [9, 12]).unwrap();
    assert!(mean(&liked) > mean(&gray), "{} of {}", mean(&liked), mean(&gray));
    assert!(search.of_channel(&subject, "middle", 6, [9, 12]).unwrap_err().to_string().contains("below 6"));
    assert!(search.of_class(&subject, 3, [9, 12]).is_err());
    let features = uncertainty::features(&question.with_layers(&["middle"]).unwrap()).unwrap();
    assert_eq!(features.len(), 6);
}
