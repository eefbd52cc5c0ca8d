//! The objects of a detector.

use burn::tensor::Device;
use segkiln::{
    Detector,
    data::draw,
    explain::{
        DetectionSubject, Method, Question, Subject, Target,
        report::{Report, Section},
    },
    models::detection::DetectionOptions,
};
use serde_json::json;

use crate::{Args, ask, common::Failure, create_output, finish, show, weights};

/// Explains an object that a detector finds.
pub fn run(args: &Args, chosen: &[Box<dyn Method>], device: &Device) -> Result<(), Failure> {
    if args.attack.is_some() || args.uncertainty.is_some() {
        return Err("--attack and --uncertainty are for segmentation networks; ask about an object by --method".into());
    }
    let detector = match (&args.model, &args.arch) {
        (Some(model), _) => Detector::load(model, device)?,
        (_, Some(arch)) => {
            let classes = args.num_classes.unwrap_or(91);
            Detector::by_name(arch, weights::file(arch, &args.weights, Some(classes))?, classes, device)?
        }
        _ => return Err("either --model or --arch must be given".into()),
    };
    let size = args.size.map(|size| size as usize);
    let detector = detector.with_options(DetectionOptions { min_size: size, ..Default::default() })?;
    let image = ask::image(args, None, detector.card().color)?;
    let shown = image.to_dynamic().to_rgb8();
    let subject = DetectionSubject::new(detector.model(), detector.card(), device)?;
    let object = args.object.unwrap_or(0);
    let mut question = Question::new(&subject, &image, &Target::object(object))?.with_seed(args.machine.seed);
    if !args.layer.is_empty() {
        question = question.with_layers(&args.layer)?;
    }
    create_output(args)?;

    let found = detector.detect(&image.to_dynamic())?;
    let classes = subject.classes();
    let mut section = Section::new("The image", "As the network was given it, and the objects that it finds.")
        .with_picture(&shown)?
        .with_picture(&draw::detections(&shown.clone().into(), &found, classes)?)?;
    for (index, detection) in found.iter().enumerate().take(20) {
        let name = &classes.names()[detection.label() as usize];
        section = section.with_figure(format!("object {index}: {name}"), format!("{:.3}", detection.score));
    }
    let asked_for = found.get(object).ok_or_else(|| format!("there is no object {object}"))?;
    let name = &classes.names()[asked_for.label() as usize];
    let asked = format!("Object {object} ({name}, score {:.3}): its score", asked_for.score);
    let mut report = Report::new(args.image.display().to_string(), &asked);
    report.push(section);
    let line = show::all(args, &question, chosen, &shown, "score", &mut report)?;
    let facts = json!({ "image": args.image.display().to_string(), "object": object, "name": name, "asked": asked,
        "bbox": asked_for.bbox.xywh(), "score": question.score()? });
    finish(args, facts, line, &report)
}
