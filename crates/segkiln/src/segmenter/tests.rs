use burn::module::{Module, ModuleMapper, Param};
use segkiln_core::Classes;
use segkiln_models::unet::UNetConfig;

use super::*;

fn segmenter(classes: usize) -> Segmenter {
    let device = Device::default();
    let logits = if classes == 2 { 1 } else { classes };
    let model = ModelConfig::UNet(UNetConfig::new(1, logits).with_base(2).with_depth(1));
    let names = (0..classes).map(|class| format!("class {class}"));
    let card = ModelCard {
        classes: Classes::new(names).unwrap(),
        color: Some(ColorMode::Gray),
        normalize: Normalize::identity(1),
        model: model.clone(),
    };
    Segmenter::new(model.init(&device), card, &device).unwrap()
}

/// A picture with something in it.
fn picture(width: u32, height: u32) -> DynamicImage {
    let value = |x: u32, y: u32| ((x * 7 + y * 13) % 251) as u8;
    DynamicImage::from(image::GrayImage::from_fn(width, height, |x, y| image::Luma([value(x, y)])))
}

#[test]
fn one_segmenter_serves_many_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let segmenter = segmenter(2);
    shared(&segmenter);
    let image = picture(20, 17);
    let alone = segmenter.segment(&image).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| segmenter.segment(&image).unwrap())).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), alone);
        }
    });
}

#[test]
fn any_size_and_class_count_comes_back() {
    for (classes, width, height) in [(2, 1, 1), (3, 5, 40), (4, 33, 2)] {
        let result = segmenter(classes).segment(&picture(width, height)).unwrap();
        assert_eq!((result.map().width(), result.map().height()), (width, height));
        let planes: Vec<&[f32]> = (0..classes).map(|class| result.probabilities(class).unwrap()).collect();
        assert!(result.probabilities(classes).is_none());
        for (pixel, label) in result.map().as_slice().iter().enumerate() {
            let sum: f32 = planes.iter().map(|plane| plane[pixel]).sum();
            assert!((sum - 1.0).abs() < 1e-5);
            assert!(planes.iter().all(|plane| plane[pixel] <= planes[*label as usize][pixel]));
        }
    }
}

/// A network whose output at a pixel depends on that pixel alone gives the same in tiles as whole.
#[test]
fn tiles_blend_to_the_whole() {
    struct CenterOnly;

    impl ModuleMapper for CenterOnly {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if D != 4 || param.val().shape()[2] != 3 {
                return param;
            }
            param.map(|weight| {
                let mut mask = vec![0.0f32; weight.shape().num_elements()];
                mask.iter_mut().skip(4).step_by(9).for_each(|value| *value = 1.0);
                let mask = Tensor::<D>::from_data(TensorData::new(mask, weight.shape()), &weight.device());
                weight * mask
            })
        }
    }

    let mut segmenter = segmenter(3);
    segmenter.model = segmenter.model.map(&mut CenterOnly);
    // Constant in 2x2 blocks, so that pooling is harmless and tiles at even starts see the same blocks.
    let image = picture(45, 30).resize_exact(90, 60, image::imageops::FilterType::Nearest);
    let whole = segmenter.segment(&image).unwrap();
    let options = SegmentOptions { tile: Some(30), overlap: 0.0, ..Default::default() };
    let tiled = segmenter.segment_with(&image, &options).unwrap();
    for class in 0..3 {
        let pairs = whole.probabilities(class).unwrap().iter().zip(tiled.probabilities(class).unwrap());
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5));
    }
    assert_eq!(whole.map(), tiled.map());
}

#[test]
fn mirror_images_make_the_result_symmetric() {
    let segmenter = segmenter(2);
    let image = picture(24, 16);
    let options = SegmentOptions { flips: true, ..Default::default() };
    let straight = segmenter.segment_with(&image, &options).unwrap();
    let mirrored = segmenter.segment_with(&image.fliph(), &options).unwrap();
    let (a, b) = (straight.probabilities(1).unwrap(), mirrored.probabilities(1).unwrap());
    for (row_a, row_b) in a.chunks(24).zip(b.chunks(24)) {
        assert!(row_a.iter().zip(row_b.iter().rev()).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let segmenter = segmenter(2);
    for options in [
        SegmentOptions { tile: Some(3), ..Default::default() },
        SegmentOptions { overlap: 1.0, ..Default::default() },
        SegmentOptions { overlap: f32::NAN, ..Default::default() },
    ] {
        assert!(segmenter.segment_with(&picture(4, 4), &options).is_err());
    }
    assert!(segmenter.segment(&DynamicImage::new_luma8(0, 5)).is_err());
}

/// A preset that leaves the size as it is changes nothing but the rounding; another one gives logits of its size and a map
/// of the image's.
#[test]
fn a_preset_is_the_size_that_the_network_sees() {
    let plain = segmenter(3);
    let image = picture(40, 30);
    let preset = |resize| Preset { resize, crop: None, filter: segkiln_data::Filter::Bilinear };
    let seen = |resize| plain.clone().with_preset(Some(preset(resize))).unwrap();
    let options = SegmentOptions { logits: true, ..Default::default() };
    let [whole, same] = [&plain, &seen(None)].map(|segmenter| segmenter.segment_with(&image, &options).unwrap());
    assert_eq!(whole.map(), same.map());
    assert_eq!(whole.logits(), same.logits());
    for class in 0..3 {
        let pairs = whole.probabilities(class).unwrap().iter().zip(same.probabilities(class).unwrap());
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5));
    }
    let small = seen(Some(15));
    let result = small.segment_with(&image, &options).unwrap();
    assert_eq!((result.map().width(), result.map().height()), (40, 30));
    assert_eq!(result.logits().unwrap().shape()[..], [1, 3, 15, 20]);
    assert_eq!(result.logits().unwrap(), &small.logits(&image).unwrap().into_data());
    assert!(small.segment(&image).unwrap().logits().is_none());
    let lean = SegmentOptions { probabilities: false, ..Default::default() };
    let lean = small.segment_with(&image, &lean).unwrap();
    assert!(lean.map() == result.map() && lean.probabilities(0).is_none());
    let crf = SegmentOptions { crf: Some(DenseCrf::default()), flips: true, ..Default::default() };
    assert_eq!(small.segment_with(&image, &crf).unwrap().map().as_slice().len(), 40 * 30);

    for (segmenter, options, words) in [
        (&small, SegmentOptions { tile: Some(20), ..Default::default() }, "tile: "),
        (&plain, SegmentOptions { tile: Some(20), logits: true, ..Default::default() }, "logits: "),
    ] {
        let error = segmenter.segment_with(&image, &options).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }
    assert!(plain.clone().with_preset(Some(Preset { crop: Some(8), ..preset(None) })).is_err());
    let empty = DynamicImage::new_luma8(0, 5);
    assert!(small.segment(&empty).is_err() && small.logits(&empty).is_err());
}

#[test]
fn names_are_given() {
    let names = Classes::new(["ground", "tree", "road"]).unwrap();
    assert_eq!(segmenter(3).with_classes(names.clone()).unwrap().classes(), &names);
    let error = segmenter(4).with_classes(names).unwrap_err().to_string();
    assert!(error.contains("4 output channels for 3 classes"), "{error}");
}

#[test]
fn refinement_is_of_what_was_segmented() {
    let segmenter = segmenter(2);
    let crf = DenseCrf { color_sigma: 20.0, ..Default::default() };
    let image = picture(40, 33);
    let plain = segmenter.segment(&image).unwrap();
    let options = SegmentOptions { crf: Some(crf), ..Default::default() };
    let refined = segmenter.segment_with(&image, &options).unwrap();
    let given = [0, 1].map(|class| plain.probabilities(class).unwrap()).concat();
    let expected = crf.refine(&given, &Image::from_dynamic(&image, ColorMode::Gray)).unwrap();
    assert_eq!(refined.probabilities(1).unwrap(), &expected[40 * 33..]);
    assert_ne!(refined.probabilities(1), plain.probabilities(1));
    let lean = SegmentOptions { probabilities: false, ..options };
    let lean = segmenter.segment_with(&image, &lean).unwrap();
    assert!(lean.map() == refined.map() && lean.probabilities(0).is_none());
    let none = SegmentOptions { crf: Some(DenseCrf { color_sigma: 0.0, ..crf }), ..Default::default() };
    assert!(segmenter.segment_with(&image, &none).unwrap_err().to_string().contains("color_sigma"));
}

#[test]
fn without_probabilities_the_map_is_the_same() {
    let segmenter = segmenter(3);
    let image = picture(40, 33);
    let lean = SegmentOptions { probabilities: false, ..Default::default() };
    let lean = segmenter.segment_with(&image, &lean).unwrap();
    assert_eq!(lean.map(), segmenter.segment(&image).unwrap().map());
    assert!(lean.probabilities(0).is_none());
}
