//! How sure the network is.

use segkiln::{
    Detector, Segmenter,
    core::Detection,
    data::{Image, draw, write_image},
    explain::{DetectionSubject, SegmentationSubject, Subject, picture, report::Section, uncertainty},
    models::{SegmentationModel, detection::DetectionModel},
};
use serde_json::{Value, json};

use crate::{Args, common::Failure, objects::sized, show::raw};

/// Passes with dropout.
const PASSES: usize = 20;
/// Scales of the sizes that a detector resizes images to, each also with the image mirrored.
const SCALES: [f64; 3] = [1.0, 0.8, 1.25];

/// The uncertainty that `how` measures: its part of the last line, and its section.
pub fn measured(
    how: &str,
    subject: &SegmentationSubject<SegmentationModel>,
    image: &Image,
    args: &Args,
) -> Result<(Value, Section), Failure> {
    let (found, source) = match (how, how.strip_prefix("ensemble:")) {
        ("mc", _) => (uncertainty::dropout(subject, image, PASSES, args.machine.seed)?, "passes with dropout"),
        ("tta", _) => (uncertainty::mirrored(subject, image)?, "mirror images"),
        (_, Some(folders)) => {
            let device = args.machine.device()?;
            let load = |folder: &str| -> Result<_, Failure> {
                let segmenter = Segmenter::load(folder, &device)?;
                Ok(SegmentationSubject::new(segmenter.model(), segmenter.card(), &device)?)
            };
            let mut subjects = vec![subject.clone()];
            subjects.extend(folders.split(',').map(load).collect::<Result<Vec<_>, _>>()?);
            (uncertainty::ensemble(&subjects, image)?, "networks")
        }
        _ => return Err(unknown(how)),
    };
    let shown = image.to_dynamic().to_rgb8();
    let mut section = Section::new(
        "How sure the network is",
        format!(
            "First the entropy of the mean of {} {source}: all that is unsure. Then the part by which they differ from each other \
             (mutual information): what the network does not know; the rest is in the image itself.",
            found.answers
        ),
    );
    let mut line = json!({ "answers": found.answers });
    for (name, map) in
        [("entropy", &found.entropy), ("mutual_information", &found.mutual_information), ("variance", &found.variance)]
    {
        let mean = map.mean();
        line[format!("{name}_mean")] = json!(mean);
        section = section.with_figure(format!("mean {}", name.replace('_', " ")), format!("{mean:.4}"));
        if name == "variance" {
            continue;
        }
        let colored = picture::overlay(&shown, map)?;
        let path = args.output.join(format!("{name}.png"));
        write_image(&path, &colored.clone().into())?;
        line[name] = json!(path.display().to_string());
        if args.raw {
            line[format!("{name}_raw")] = json!(raw(args, name, map)?);
        }
        section = section.with_picture(&colored)?;
    }
    Ok((line, section.with_legend(&found.entropy, "nats, of the entropy")?))
}

fn unknown(how: &str) -> Failure {
    format!("--uncertainty {how:?} is none of mc, tta and ensemble:DIR,DIR").into()
}

/// The uncertainty of a detector's objects that `how` measures: its part of the last line, and its section.
pub fn of_objects(
    how: &str,
    subject: &DetectionSubject<DetectionModel>,
    image: &Image,
    asked_for: &Detection,
    args: &Args,
) -> Result<(Value, Section), Failure> {
    let (found, source) = match (how, how.strip_prefix("ensemble:")) {
        ("mc", _) => {
            (uncertainty::dropout_of_objects(subject, image, PASSES, args.machine.seed)?, "passes with dropout")
        }
        ("tta", _) => (uncertainty::mirrored_objects(subject, image, &SCALES)?, "mirror images and scales"),
        (_, Some(folders)) => {
            let device = args.machine.device()?;
            let load = |folder: &str| -> Result<_, Failure> {
                let detector = sized(Detector::load(folder, &device)?, args)?;
                Ok(DetectionSubject::new(detector.model(), detector.card(), &device)?)
            };
            let mut subjects = vec![subject.clone()];
            subjects.extend(folders.split(',').map(load).collect::<Result<Vec<_>, _>>()?);
            (uncertainty::ensemble_of_objects(&subjects, image)?, "networks")
        }
        _ => return Err(unknown(how)),
    };
    let asked_for = found.meeting(&asked_for.bbox, asked_for.label());
    let boxes: Vec<Detection> = found.objects.iter().map(|object| object.detection.clone()).collect();
    let picture = draw::detections(&image.to_dynamic(), &boxes, subject.classes())?;
    let mut section = Section::new(
        "How sure the detector is",
        format!(
            "The objects of {} {source}: where the boxes lie in the mean. Below, how many of these answers have an object, its mean score, and how \
             far the score and the box's sides deviate among them (left, top, right, bottom).",
            found.answers
        ),
    )
    .with_picture(&picture)?;
    let mut objects = Vec::new();
    for (index, object) in found.objects.iter().enumerate() {
        let name = &subject.classes().names()[object.detection.label() as usize];
        let deviations = object.box_variance.map(f64::sqrt);
        let score_deviation = object.score_variance.sqrt();
        objects.push(json!({ "name": name, "bbox": object.detection.bbox.xywh(), "score": object.detection.score,
            "share": object.share, "score_deviation": score_deviation, "box_deviation": deviations,
            "mask_agreement": object.mask_agreement }));
        if index < 20 {
            let masks =
                object.mask_agreement.map_or(String::new(), |agreement| format!("; masks {agreement:.2} alike"));
            let sides = deviations.map(|side| format!("{side:.1}")).join(", ");
            let times = (object.share * found.answers as f64).round();
            section = section.with_figure(
                format!("object {index}: {name}"),
                format!(
                    "in {times} of {}; {:.3} ± {score_deviation:.3}; ± {sides} px{masks}",
                    found.answers, object.detection.score
                ),
            );
        }
    }
    let place = asked_for.and_then(|asked| found.objects.iter().position(|object| object == asked));
    Ok((json!({ "answers": found.answers, "object": place, "objects": objects }), section))
}
