//! Times this crate on benchmark cases, one JSON line a case:
//!
//! ```text
//! cargo run --release --example benchmark -- unet32_infer_256 unet32_train_256 --threads 2 --runs 5
//! ```
//!
//! A case whose name ends with `_bf16` or `_int8` is computed in that precision, 8 bits calibrated on noise. Weights and inputs are random; one run warms up; results are read back before the clock stops.

use std::{fs, path::Path, process::ExitCode, time::Instant};

use burn::{
    module::Module,
    optim::{AdamConfig, GradientsParams, SgdConfig, momentum::MomentumConfig},
    tensor::{Device, Distribution, Int, Tensor, ops::ConvOptions},
};
use clap::Parser;
use segkiln::{
    coco_evaluate,
    core::{BBox, Instance, Instances, Precision, Rle},
    data::coco::{CocoFile, CocoResult, CocoResultFile, Segmentation, write_results},
    metrics::{
        losses::{CrossEntropyLossConfig, SegmentationLoss},
        metrics::coco::{CocoParams, IouType},
    },
    models::{
        Calibration, InferenceSession, ModelConfig, RangeMethod, SegmentationModel, SegmentationNetwork,
        SegmentationNetworkConfig,
        detection::{
            DetectionNetwork, Sampling,
            rcnn::{Rcnn, RcnnConfig},
        },
        unet::{UNet, UNetConfig},
    },
    ops::{RoiAlignOptions, conv2d, nms, roi_align},
};
use serde_json::json;

mod common;

use common::{Failure, Machine, say};

/// Times benchmark cases.
#[derive(Parser)]
struct Args {
    /// Names of cases
    #[arg(required = true)]
    cases: Vec<String>,
    /// Threads of the CPU backends
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Timed runs a case
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Numbers that networks multiply in inference, f32, bf16 or int8, where the case's name does not end with one
    #[arg(long, default_value_t)]
    precision: Precision,
    #[command(flatten)]
    machine: Machine,
}

/// What is timed; it is called once before.
type Case = Box<dyn FnMut()>;

fn case(name: &str, precision: Precision, device: &Device) -> Result<Case, Failure> {
    let infers = name.contains("_infer_");
    if precision != Precision::F32 && !infers {
        return Err(format!("{name} is no inference of a network, so it is f32; it has no {precision}").into());
    }
    Ok(match name {
        "unet32_infer_256" => unet_infer(32, 256, precision, device)?,
        "unet64_infer_512" => unet_infer(64, 512, precision, device)?,
        "unet32_train_256" => unet_train(32, 256, 2, device),
        "deeplabv3_resnet50_infer_520" => segmenter("deeplabv3_resnet50", 520, precision, device)?,
        "lraspp_mobilenet_v3_large_infer_520" => segmenter("lraspp_mobilenet_v3_large", 520, precision, device)?,
        "fasterrcnn_resnet50_fpn_infer_800" => detector("fasterrcnn_resnet50_fpn", [800, 1088], precision, device)?,
        "maskrcnn_resnet50_fpn_infer_800" => detector("maskrcnn_resnet50_fpn", [800, 1088], precision, device)?,
        "maskrcnn_resnet50_fpn_train_512" => detector_train("maskrcnn_resnet50_fpn", [512, 512], device)?,
        "roi_align_forward" => regions(false, device),
        "roi_align_backward" => regions(true, device),
        "nms_10000" => suppression(10_000, device),
        "coco_eval_1000" => evaluation(1000, device)?,
        _ => {
            let convolution = Convolution::parse(name);
            convolution.ok_or_else(|| format!("no case {name:?}; known are {KNOWN}"))?.case(device)
        }
    })
}

const KNOWN: &str = "unet32_infer_256, unet64_infer_512, deeplabv3_resnet50_infer_520 (each also with _bf16 and _int8), unet32_train_256, \
                     lraspp_mobilenet_v3_large_infer_520, fasterrcnn_resnet50_fpn_infer_800, maskrcnn_resnet50_fpn_infer_800, maskrcnn_resnet50_fpn_train_512, roi_align_forward, \
                     roi_align_backward, nms_10000, coco_eval_1000, conv_iCI_oCO_kK_sS_dD_gG_nN and the same with \
                     _backward";

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    if args.runs == 0 {
        return Err("--runs must be at least 1".into());
    }
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let device = args.machine.device()?;
    for name in &args.cases {
        device.seed(args.machine.seed);
        let suffix = Precision::ALL
            .into_iter()
            .find_map(|precision| Some((name.strip_suffix(&format!("_{precision}"))?, precision)));
        let (base, precision) = suffix.unwrap_or((name, args.precision));
        let mut case = case(base, precision, &device)?;
        case();
        let mut times: Vec<f64> = (0..args.runs)
            .map(|_| {
                let start = Instant::now();
                case();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let middle = times.len() / 2;
        let median = if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2.0 };
        say(json!({ "case": name, "peer": "segkiln", "median_ms": median, "min_ms": times[0], "runs": args.runs }))?;
    }
    Ok(())
}

/// A network that computes what `input` makes, in a precision.
fn inference<M: Module + 'static, I: 'static>(
    model: M,
    input: impl Fn() -> I,
    forward: impl Fn(&M, &I) + 'static,
    precision: Precision,
    device: &Device,
) -> Result<Case, Failure> {
    let session = match precision {
        Precision::Int8 => {
            let calibration = Calibration::new(device)?;
            for _ in 0..4 {
                let x = input();
                calibration.run(|| forward(&model, &x));
            }
            InferenceSession::quantized(&model, &calibration.finish(&model, RangeMethod::default())?, device)?
        }
        precision => InferenceSession::new(precision, device)?,
    };
    let x = input();
    Ok(Box::new(move || session.run(|| forward(&model, &x))))
}

fn unet_infer(base: usize, side: usize, precision: Precision, device: &Device) -> Result<Case, Failure> {
    let unet = UNetConfig::new(3, 2).with_base(base).init(device).materialize();
    let forward = |unet: &UNet, x: &Tensor<4>| drop(unet.forward(x.clone()).into_data());
    inference(unet, || noise(side, device), forward, precision, device)
}

/// An image of noise, as a network sees it.
fn noise(side: usize, device: &Device) -> Tensor<4> {
    Tensor::random([1, 3, side, side], Distribution::Normal(0.0, 1.0), device)
}

fn unet_train(base: usize, side: usize, batch: usize, device: &Device) -> Case {
    let device = device.clone().autodiff();
    let mut unet = Some(UNetConfig::new(3, 2).with_base(base).init(&device).materialize());
    let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
    let loss = CrossEntropyLossConfig::new().init();
    let x = Tensor::<4>::random([batch, 3, side, side], Distribution::Normal(0.0, 1.0), &device);
    let y = Tensor::<3>::random([batch, side, side], Distribution::Uniform(0.0, 2.0), &device);
    let y: Tensor<3, Int> = y.int();
    Box::new(move || {
        let model: UNet = unet.take().expect("put back below");
        let value = loss.forward(model.forward(x.clone()), y.clone());
        let gradients = GradientsParams::from_grads(value.backward(), &model);
        unet = Some(optimizer.step(1e-3, model, gradients));
        value.into_scalar::<f32>();
        device.sync().expect("the device finishes its work");
    })
}

fn segmenter(name: &str, side: usize, precision: Precision, device: &Device) -> Result<Case, Failure> {
    let model = ModelConfig::by_name(name, 21)?.init(device).materialize();
    let forward = |model: &SegmentationModel, x: &Tensor<4>| drop(model.forward(x.clone()).into_data());
    inference(model, || noise(side, device), forward, precision, device)
}

/// An image of the size that the network sees, all detections kept.
fn detector(name: &str, [height, width]: [usize; 2], precision: Precision, device: &Device) -> Result<Case, Failure> {
    let config = RcnnConfig::by_name(name, 91).ok_or("no such network")?.with_min_size(height).with_max_size(width);
    let roi = config.roi.clone().with_score(0.0);
    let model = config.with_roi(roi).init(device)?.materialize();
    let input = || [Tensor::<3>::random([3, height, width], Distribution::Default, device)];
    let forward = |model: &Rcnn, x: &[Tensor<3>; 1]| {
        std::hint::black_box(model.detect(x).expect("the image fits"));
    };
    inference(model, input, forward, precision, device)
}

/// Eight objects of noise on one image.
fn detector_train(name: &str, [height, width]: [usize; 2], device: &Device) -> Result<Case, Failure> {
    let device = device.clone().autodiff();
    let config = RcnnConfig::by_name(name, 91).ok_or("no such network")?.with_min_size(height).with_max_size(width);
    let mut model = Some(config.init(&device)?.materialize());
    let mut optimizer = SgdConfig::new().with_momentum(Some(MomentumConfig::new().with_dampening(0.0))).init();
    let x = [Tensor::<3>::random([3, height, width], Distribution::Default, &device)];
    let numbers = uniform(8 * 5, 1.0, &device);
    let noise = uniform(8 * height * width, 1.0, &device);
    let (width, height) = (width as u32, height as u32);
    let mut objects = Vec::new();
    for (numbers, noise) in numbers.chunks_exact(5).zip(noise.chunks_exact((width * height) as usize)) {
        let [x, y, w, h, label] = [0, 1, 2, 3, 4].map(|index| f64::from(numbers[index]));
        let (w, h) = (16.0 + 0.2 * w * f64::from(width), 16.0 + 0.2 * h * f64::from(height));
        let bbox = BBox::from_xywh([0.7 * x * f64::from(width), 0.7 * y * f64::from(height), w, h])?;
        let mask = Rle::from_fn(width, height, |x, y| noise[(y * width + x) as usize] > 0.5)?;
        objects.push(Instance::new(bbox, 1 + (label * 89.0) as u32)?.with_mask(mask));
    }
    let targets = [Instances::new(width, height, objects)?];
    let mut seed = 0;
    Ok(Box::new(move || {
        let current: Rcnn = model.take().expect("put back below");
        let losses = current.losses(&x, &targets, Sampling::Random { seed }).expect("the targets fit");
        seed += 1;
        let total = losses.total();
        let gradients = GradientsParams::from_grads(total.backward(), &current);
        model = Some(optimizer.step(1e-3, current, gradients));
        total.into_scalar::<f32>();
        device.sync().expect("the device finishes its work");
    }))
}

/// Boxes of 1 to 101 pixels a side on 1000×1000, at an overlap of a half.
fn suppression(count: usize, device: &Device) -> Case {
    let (corners, sizes) = (uniform(2 * count, 1000.0, device), uniform(2 * count, 100.0, device));
    let boxes: Vec<[f32; 4]> = (0..2 * count)
        .step_by(2)
        .map(|i| [corners[i], corners[i + 1], corners[i] + sizes[i] + 1.0, corners[i + 1] + sizes[i + 1] + 1.0])
        .collect();
    let scores = uniform(count, 1.0, device);
    Box::new(move || {
        std::hint::black_box(nms(&boxes, &scores, 0.5));
    })
}

/// Values from 0 to `most`.
fn uniform(count: usize, most: f64, device: &Device) -> Vec<f32> {
    let values = Tensor::<1>::random([count], Distribution::Uniform(0.0, most), device);
    values.into_data().try_into_vec().expect("f32 values")
}

/// Reads annotations and results from `$COCO_CASE_DIR`, where they are drawn if they are missing, and evaluates boxes
/// and masks.
fn evaluation(images: usize, device: &Device) -> Result<Case, Failure> {
    let kept = std::env::var_os("COCO_CASE_DIR");
    let passing = tempfile::tempdir()?;
    let folder = kept.as_ref().map_or(passing.path(), Path::new);
    let (gt, dt) = (folder.join("gt.json"), folder.join("dt.json"));
    if !gt.exists() {
        draw_problem(images, &gt, &dt, device)?;
    }
    let job = move || -> Result<(), Failure> {
        // Deleted with the case.
        let _ = &passing;
        let (truth, found) = (CocoFile::read(&gt)?, CocoResultFile::read(&dt)?);
        for iou in [IouType::Bbox, IouType::Segm] {
            std::hint::black_box(coco_evaluate(&truth, &found, iou, CocoParams::default())?.evaluate().figures());
        }
        Ok(())
    };
    job()?;
    Ok(Box::new(move || job().expect("it went well before")))
}

/// Images of 256×256 with 20 ellipses of 10 classes each, and 50 detections: these ellipses moved and resized, a fifth
/// of them with any class.
fn draw_problem(images: usize, gt: &Path, dt: &Path, device: &Device) -> Result<(), Failure> {
    const SIDE: u32 = 256;
    let mut values = uniform(images * (20 * 6 + 50 * 8), 1.0, device).into_iter().map(f64::from);
    let mut random = |from: f64, to: f64| from + (to - from) * values.next().expect("as many are drawn");
    let (mut annotations, mut results) = (Vec::new(), Vec::new());
    for image in 1..=images as i64 {
        let mut shapes = Vec::new();
        for _ in 0..20 {
            let shape = [random(10.0, 246.0), random(10.0, 246.0), random(3.0, 40.0), random(3.0, 40.0)];
            let (class, crowd) = (random(1.0, 11.0) as i64, random(0.0, 1.0) < 0.03);
            let mask = ellipse(SIDE, shape)?;
            annotations.push(json!({
                "id": annotations.len() + 1, "image_id": image, "category_id": class, "iscrowd": u8::from(crowd),
                "bbox": mask.bbox().map_or([0.0; 4], |bbox| bbox.xywh()), "area": mask.area(),
                "segmentation": Segmentation::from(&mask),
            }));
            shapes.push((shape, class));
        }
        for index in 0..50 {
            let ([x, y, rx, ry], class) = shapes[index % shapes.len()];
            let shape = [
                x + random(-5.0, 5.0),
                y + random(-5.0, 5.0),
                (rx * random(0.7, 1.4)).max(2.0),
                (ry * random(0.7, 1.4)).max(2.0),
            ];
            let (other, changed) = (random(1.0, 11.0) as i64, random(0.0, 1.0) > 0.8);
            let mask = ellipse(SIDE, shape)?;
            results.push(CocoResult {
                image_id: image.into(),
                category_id: if changed { other } else { class },
                bbox: Some(mask.bbox().map_or([0.0; 4], |bbox| bbox.xywh())),
                score: (random(0.0, 1.0) * 1e3).round() / 1e3,
                segmentation: Some(Segmentation::from(&mask)),
            });
        }
    }
    let images: Vec<_> = (1..=images).map(|id| json!({ "id": id, "width": SIDE, "height": SIDE })).collect();
    let categories: Vec<_> = (1..=10).map(|id| json!({ "id": id, "name": id.to_string() })).collect();
    let whole = json!({ "images": images, "categories": categories, "annotations": annotations });
    fs::write(gt, whole.to_string())?;
    write_results(dt, &results)?;
    Ok(())
}

/// The pixels of an ellipse around `(x, y)`, which may be partly outside.
fn ellipse(side: u32, [x, y, rx, ry]: [f64; 4]) -> Result<Rle, Failure> {
    let (mut counts, mut done) = (Vec::new(), 0);
    for column in 0..side {
        let half = ry * (1.0 - ((f64::from(column) - x) / rx).powi(2)).max(0.0).sqrt();
        let [first, end] = [(y - half).ceil(), (y + half).floor() + 1.0].map(|row| row.clamp(0.0, side.into()) as u32);
        if half > 0.0 && first < end {
            counts.extend([column * side + first - done, end - first]);
            done = column * side + end;
        }
    }
    counts.push(side * side - done);
    Ok(Rle::new(side, side, &counts)?)
}

/// 1000 boxes of 4 to 184 pixels a side, as 7×7 bins of 2×2 points, of 256 channels at a quarter of an image of 800×1088.
fn regions(backward: bool, device: &Device) -> Case {
    let count = 1000;
    let x = Tensor::<4>::random([1, 256, 200, 272], Distribution::Normal(0.0, 1.0), device);
    let uniform = |most: f64| Tensor::<2>::random([count, 1], Distribution::Uniform(0.0, most), device);
    let corner = Tensor::cat(vec![uniform(900.0), uniform(600.0)], 1);
    let size = Tensor::cat(vec![uniform(180.0), uniform(180.0)], 1) + 4.0;
    let rois = Tensor::cat(vec![Tensor::zeros([count, 1], device), corner.clone(), corner + size], 1);
    let options = RoiAlignOptions { size: [7, 7], scale: 0.25, sampling_ratio: Some(2), aligned: false };
    if !backward {
        return Box::new(move || {
            roi_align(x.clone(), rois.clone(), options).into_data();
        });
    }
    let (x, rois) = (x.autodiff(), rois.autodiff());
    Box::new(move || {
        let x = x.clone().require_grad();
        let mut gradients = roi_align(x.clone(), rois.clone(), options).sum().backward();
        x.grad_remove(&mut gradients).expect("it was required").into_data();
    })
}

/// One layer on one square image: channels in and out, kernel, stride, dilation, groups, side; padding is
/// `dilation · (kernel / 2)`.
struct Convolution {
    sizes: [usize; 7],
    backward: bool,
}

impl Convolution {
    /// None if the name has another form or its numbers do not fit.
    fn parse(name: &str) -> Option<Self> {
        let (name, backward) = match name.strip_suffix("_backward") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let mut fields = name.strip_prefix("conv_")?.split('_');
        let mut sizes = [0usize; 7];
        for (size, letter) in sizes.iter_mut().zip(["i", "o", "k", "s", "d", "g", "n"]) {
            *size = fields.next()?.strip_prefix(letter)?.parse().ok().filter(|size| (1..=1 << 14).contains(size))?;
        }
        let [channels_in, channels_out, kernel, _, dilation, groups, side] = sizes;
        let fits = channels_in.is_multiple_of(groups)
            && channels_out.is_multiple_of(groups)
            && dilation * (kernel - 1) < side + 2 * dilation * (kernel / 2);
        (fields.next().is_none() && fits).then_some(Self { sizes, backward })
    }

    fn case(&self, device: &Device) -> Case {
        let [channels_in, channels_out, kernel, stride, dilation, groups, side] = self.sizes;
        let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device);
        let x = random([1, channels_in, side, side]);
        let weight = random([channels_out, channels_in / groups, kernel, kernel]);
        let padding = dilation * (kernel / 2);
        let options = ConvOptions::new([stride; 2], [padding; 2], [dilation; 2], groups);
        if !self.backward {
            return Box::new(move || {
                conv2d(x.clone(), weight.clone(), None, options.clone()).into_data();
            });
        }
        let (x, weight) = (x.autodiff(), weight.autodiff());
        Box::new(move || {
            let (x, weight) = (x.clone().require_grad(), weight.clone().require_grad());
            let mut gradients = conv2d(x.clone(), weight.clone(), None, options.clone()).sum().backward();
            for gradient in [x.grad_remove(&mut gradients), weight.grad_remove(&mut gradients)] {
                gradient.expect("it was required").into_data();
            }
        })
    }
}
