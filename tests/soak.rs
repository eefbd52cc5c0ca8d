//! A `Segmenter` and a `Detector` on four threads with images of random sizes, for a long time: memory stays flat.
//! `.ci/soak` runs it.

mod common;

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use burn::tensor::Device;
use common::Random;
use image::{DynamicImage, RgbImage};
use segkiln::{
    Detector, SegmentOptions, Segmenter,
    core::Classes,
    data::{ColorMode, Normalize},
    models::{
        DetectorCard, ModelCard, ModelConfig, SegmentationNetworkConfig,
        backbones::BackboneConfig,
        detection::{DetectionNetworkConfig, DetectionOptions, DetectorConfig, DetectorKind, unnamed_classes},
    },
};

/// Resident memory of this process in MB, where the system tells.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? / 1024)
}

fn picture(random: &mut Random) -> DynamicImage {
    let (width, height) = (random.range(1, 400), random.range(1, 400));
    let mut value = random.next();
    RgbImage::from_fn(width, height, |x, y| {
        value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(x ^ y));
        image::Rgb([(value >> 56) as u8, (x * 3) as u8, (y * 5) as u8])
    })
    .into()
}

#[test]
#[ignore = "runs for an hour; `.ci/soak SECONDS` runs it, for as long as is given"]
fn memory_stays_flat() {
    let seconds = std::env::var("SEGKILN_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(3600);
    let device = Device::default();
    device.seed(1);
    let classes = Classes::voc();
    let config = ModelConfig::by_name("deeplabv3plus_resnet18", classes.count()).unwrap();
    let card =
        ModelCard { model: config.clone(), classes, color: Some(ColorMode::Rgb), normalize: Normalize::imagenet() };
    let segmenter = Segmenter::new(config.init(&device), card, &device).unwrap();
    let backbone = BackboneConfig::by_name("resnet18").unwrap();
    let config = DetectorConfig::on_backbone(DetectorKind::MaskRcnn, backbone, 5).reduced();
    let options = DetectionOptions {
        min_size: Some(160),
        max_size: Some(256),
        score_threshold: Some(0.1),
        max_detections: Some(20),
    };
    let config = config.with_options(options);
    let card = DetectorCard::new(config.clone(), unnamed_classes(5));
    let detector = Detector::new(config.init(&device).unwrap(), card, &device).unwrap();

    let (done, images) = (AtomicBool::new(false), AtomicUsize::new(0));
    let start = Instant::now();
    let mut seen: Vec<(f64, usize)> = Vec::new();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (segmenter, detector, done, images) = (&segmenter, &detector, &done, &images);
            scope.spawn(move || {
                let mut random = Random(thread);
                while !done.load(Relaxed) {
                    let picture = picture(&mut random);
                    if thread % 2 == 0 {
                        let options = SegmentOptions { tile: Some(128), ..SegmentOptions::default() };
                        let options = if random.next().is_multiple_of(4) { options } else { SegmentOptions::default() };
                        let map = segmenter.segment_with(&picture, &options).unwrap();
                        assert_eq!(map.map().as_slice().len(), picture.width() as usize * picture.height() as usize);
                    } else {
                        let found = detector.detect(&picture).unwrap();
                        assert!(found.len() <= 20);
                    }
                    images.fetch_add(1, Relaxed);
                }
            });
        }
        while start.elapsed() < Duration::from_secs(seconds) {
            thread::sleep(Duration::from_secs((seconds / 60).clamp(1, 60)));
            let at = start.elapsed().as_secs_f64();
            if let Some(resident) = resident() {
                println!("{at:.0} s: {} images, {resident} MB", images.load(Relaxed));
                seen.push((at, resident));
            }
        }
        done.store(true, Relaxed);
    });
    // The first quarter fills pools and caches.
    let most = |from: f64, to: f64| {
        let range = from * seconds as f64..to * seconds as f64;
        seen.iter().filter(|(at, _)| range.contains(at)).map(|(_, resident)| *resident).max()
    };
    if let (Some(early), Some(late)) = (most(0.25, 0.5), most(0.75, 2.0)) {
        println!("{early} MB in the second quarter, {late} MB in the last, {} images", images.load(Relaxed));
        assert!(late <= early + early / 10 + 16, "memory grows from {early} to {late} MB");
    }
}
