//! Results as pictures, sections of the page and parts of the last line.

use std::path::Path;

use burn::tensor::TensorData;
use image::RgbImage;
use segkiln::{
    core::LabelMap,
    data::{Image, draw, write_image},
    explain::{
        Attack, Goal, Map, Method, Question, SegmentationSubject, Subject, picture,
        report::{Report, Section},
    },
    models::{SegmentationModel, weights::save_safetensors},
};
use serde_json::{Value, json};

use crate::{
    Args,
    common::{Failure, say},
};

/// The image and the classes that the network gives it.
pub fn prediction(
    subject: &SegmentationSubject<SegmentationModel>,
    shown: &RgbImage,
    predicted: &LabelMap,
) -> Result<Section, Failure> {
    let classes = subject.classes();
    let colored = draw::overlay(&shown.clone().into(), predicted, classes, 0.5)?;
    let mut section =
        Section::new("The image", "As the network was given it, and the classes that it gives the pixels.")
            .with_picture(shown)?
            .with_picture(&colored)?;
    for label in predicted.labels() {
        let count = predicted.as_slice().iter().filter(|found| **found == label).count();
        let share = 100.0 * count as f64 / predicted.as_slice().len() as f64;
        let name = &classes.names()[label as usize];
        section = section.with_color(classes.palette().color(label as usize), format!("{name}, {share:.1} %"));
    }
    Ok(section)
}

/// The answers of all methods: the beginning of the last line, and their sections.
pub fn all(
    args: &Args,
    question: &Question<'_>,
    chosen: &[Box<dyn Method>],
    shown: &RgbImage,
    unit: &str,
    report: &mut Report,
) -> Result<Value, Failure> {
    let mut answers = serde_json::Map::new();
    for method in chosen {
        let (answer, section) = explained(args, question, method.as_ref(), shown, unit)?;
        say(format_args!("{}: {answer}", method.name()))?;
        answers.insert(method.name().into(), answer);
        report.push(section);
    }
    Ok(json!({ "methods": answers }))
}

/// A method's answer: its part of the last line, and its section.
fn explained(
    args: &Args,
    question: &Question<'_>,
    method: &dyn Method,
    shown: &RgbImage,
    unit: &str,
) -> Result<(Value, Section), Failure> {
    let explanation = question.explain(method)?;
    let colored = picture::overlay(shown, &explanation.map)?;
    let path = args.output.join(format!("{}.png", method.name()));
    write_image(&path, &colored.clone().into())?;
    let unit = match method.name() {
        name if name.ends_with("cam") || name.starts_with("gradcam") => "share of this map's own maximum".into(),
        "saliency" | "smoothgrad" => format!("{unit} for a change of one standard deviation of the data set's colors"),
        _ => unit.to_owned(),
    };
    let mut section =
        Section::new(method.name(), method.meaning()).with_picture(&colored)?.with_legend(&explanation.map, unit)?;
    let [min, max] = explanation.map.range();
    let mut answer = json!({ "map": path.display().to_string(), "min": min, "max": max });
    for (name, figure) in &explanation.figures {
        answer[name] = json!(figure);
        section = section.with_figure(name.replace('_', " "), format!("{figure:.4}"));
    }
    if args.raw {
        answer["raw"] = json!(raw(args, method.name(), &explanation.map)?);
    }
    Ok((answer, section))
}

/// Writes a map's values and says where.
pub fn raw(args: &Args, name: &str, map: &Map) -> Result<String, Failure> {
    let path = args.output.join(format!("{name}.safetensors"));
    let data = TensorData::new(map.as_slice().to_vec(), [map.height() as usize, map.width() as usize]);
    save_safetensors(vec![("map".into(), data)], &path)?;
    Ok(path.display().to_string())
}

/// An attack's result: its part of the last line, and its section.
pub fn attacked(
    attack: &Attack,
    subject: &SegmentationSubject<SegmentationModel>,
    image: &Image,
    goal: &Goal,
    path: &Path,
) -> Result<(Value, Section), Failure> {
    let attacked = attack.run(subject, image, goal)?;
    let changed = attacked.image.to_dynamic();
    write_image(path, &changed)?;
    let after = subject.predict(&subject.input(&attacked.image)?)?;
    let text = format!(
        "The image with changes of at most {:.0} of 255 steps, which {} found to take their classes from the pixels that are asked about; \
         and the classes that the network gives it. The changes are made for this network, with its weights known.",
        attacked.linf,
        attack.name()
    );
    let section = Section::new(format!("Attack: {}", attack.name()), text)
        .with_picture(&changed.to_rgb8())?
        .with_picture(&draw::overlay(&changed, &after, subject.classes(), 0.5)?)?
        .with_figure("probability of the class before", format!("{:.4}", attacked.score_before))
        .with_figure("probability of the class after", format!("{:.4}", attacked.score_after))
        .with_figure("pixels with another class", format!("{:.2} %", 100.0 * attacked.changed));
    let found = json!({ "name": attack.name(), "epsilon": attack.epsilon, "steps": attack.steps, "linf": attacked.linf,
        "l2": attacked.l2, "score_before": attacked.score_before, "score_after": attacked.score_after,
        "changed": attacked.changed, "picture": path.display().to_string() });
    Ok((found, section))
}
