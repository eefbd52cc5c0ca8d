//! The objects of a detector.

use burn::tensor::Device;
use segkiln::{
    Detector,
    core::Instance,
    data::{draw, write_image},
    explain::{
        DetectionSubject, ExplanationTarget, Method, Question, Select, Subject,
        report::{Report, Section},
    },
    models::detection::DetectionOptions,
};
use serde_json::json;

use crate::{Args, ask, common::Failure, create_output, finish, show, uncertain, weights};

/// Explains an object that a detector finds.
pub fn run(args: &Args, chosen: &[Box<dyn Method>], device: &Device) -> Result<(), Failure> {
    let attack = args.attack.as_deref().map(|name| ask::object_attack(name, args)).transpose()?;
    let part = ask::part(&args.part)?;
    let detector = match (&args.model, &args.arch) {
        (Some(model), _) => Detector::load(model, device)?,
        (_, Some(arch)) => {
            let classes = args.num_classes.unwrap_or(91);
            Detector::by_name(arch, weights::file(arch, &args.weights, Some(classes))?, classes, device)?
        }
        _ => return Err("either --model or --arch must be given".into()),
    };
    let detector = sized(detector, args)?;
    let image = ask::image(args, None, detector.card().color)?;
    let shown = image.to_dynamic().to_rgb8();
    let subject = DetectionSubject::new(detector.model(), detector.card(), device)?;
    let object = args.object.unwrap_or(0);
    let target = ExplanationTarget::Object { select: Select::Index(object), part };
    let mut question = Question::new(&subject, &image, &target)?.with_seed(args.machine.seed);
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
    let asked = format!("Object {object} ({name}, score {:.3}): its {}", asked_for.score, args.part);
    let mut report = Report::new(args.image.display().to_string(), &asked);
    report.push(section);
    let mut line = show::all(args, &question, chosen, &shown, &args.part, &mut report)?;
    if let Some((attack, kind)) = attack {
        let objects = subject.objects(&image)?;
        let is_same = |found: &Instance| found.bbox.iou(&asked_for.bbox) > 0.99 && found.label() == asked_for.label();
        let place = objects.as_slice().iter().position(is_same);
        let place = place.ok_or_else(|| format!("the box of object {object} has no area to attack"))?;
        let goal = kind.goal(&objects, Some(place), classes)?;
        let attacked = attack.run_on_objects(&subject, &image, &goal)?;
        let path = args.output.join("attacked.png");
        let changed = attacked.image.to_dynamic();
        write_image(&path, &changed)?;
        let score_after = subject.score(subject.input(&attacked.image)?, question.target())?.into_scalar::<f32>();
        let section = Section::new(
            format!("Attack: {}", kind.name()),
            format!(
                "The image with changes of at most {:.0} of 255 steps, and the objects that are found in it.",
                attacked.linf
            ),
        )
        .with_picture(&draw::detections(&changed, &attacked.after, classes)?)?
        .with_figure(format!("{} before", args.part), format!("{:.4}", question.score()?))
        .with_figure(format!("{} after", args.part), format!("{score_after:.4}"))
        .with_figure("objects", format!("{} before, {} after", attacked.before.len(), attacked.after.len()));
        report.push(section);
        line["attack"] = json!({ "name": kind.name(), "epsilon": attack.epsilon, "steps": attack.steps,
            "linf": attacked.linf, "l2": attacked.l2, "score_before": question.score()?, "score_after": score_after,
            "objects_before": attacked.before.len(), "objects_after": attacked.after.len(), "picture": path.display().to_string() });
    }
    if let Some(how) = &args.uncertainty {
        let (found, section) = uncertain::of_objects(how, &subject, &image, asked_for, args)?;
        line["uncertainty"] = found;
        report.push(section);
    }
    let facts = json!({ "image": args.image.display().to_string(), "object": object, "name": name, "asked": asked,
        "bbox": asked_for.bbox.xywh(), "score": question.score()? });
    finish(args, facts, line, &report)
}

/// The detector with the flags' size of images.
pub fn sized(detector: Detector, args: &Args) -> Result<Detector, Failure> {
    let min_size = args.size.map(|size| size as usize);
    Ok(detector.with_options(DetectionOptions { min_size, ..Default::default() })?)
}
