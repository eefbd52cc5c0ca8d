//! Explains what a network says of an image, attacks it, and says how sure it is, on one page.
//!
//! ```text
//! cargo run --example explain -- --model runs/unet --image data/nuclei_sample/image.png --class 1 --method gradcam,saliency \
//!     --attack pgd --epsilon 4 --uncertainty tta --output out
//! ```
//!
//! For each method it writes `METHOD.png`, the map over the image, for an attack `attacked.png`; `explain.json` and `report.html` have
//! all of it.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use segkiln::{
    Segmenter,
    data::{refuse_replacing, write_whole},
    explain::{
        ExplanationTarget, Goal, PixelReduction, Pixels, Question, SegmentationSubject, Subject, report::Report,
    },
    models::detection::DetectorConfig,
    train::checkpoint::create_and_sweep,
};
use serde_json::{Value, json};

mod ask;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/decoding.rs"]
mod decoding;
mod objects;
mod show;
mod uncertain;
#[path = "../common/weights.rs"]
mod weights;

use common::{Failure, Machine, say};
use decoding::Decoding;

/// Explains what a network says of an image.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Folder of a training run, or a .bpk file in one
    #[arg(long, required_unless_present = "arch", conflicts_with = "arch")]
    model: Option<PathBuf>,
    /// Name of a network, such as deeplabv3_resnet50
    #[arg(long)]
    arch: Option<String>,
    /// Weights for --arch: .pth or .safetensors, a .bpk, or a name of torchvision's
    #[arg(long, requires = "arch", default_value = "DEFAULT", hide_default_value = true)]
    weights: PathBuf,
    /// Channels of the logits of --arch [default: 21]
    #[arg(long, requires = "arch")]
    num_classes: Option<usize>,
    /// The image
    #[arg(long)]
    image: PathBuf,
    /// Shorter side that the image is resized to [default: the image's own]
    #[arg(long)]
    size: Option<u32>,
    /// Class that is asked about [default: the one with the most pixels but for the first]
    #[arg(long)]
    class: Option<usize>,
    /// Object of a detector, best score first, from 0
    #[arg(long, conflicts_with = "class")]
    object: Option<usize>,
    /// Part of the object that is asked about: score, box (its score and place) or mask
    #[arg(long, default_value = "score", conflicts_with = "class")]
    part: String,
    /// Pixels that are asked about: predicted (those that the network gives the class), image, or X,Y
    #[arg(long, default_value = "predicted")]
    over: String,
    /// Picture whose pixels that are not 0 are asked about instead
    #[arg(long)]
    mask: Option<PathBuf>,
    /// Methods, separated by commas
    #[arg(long, value_delimiter = ',')]
    method: Vec<String>,
    /// Layers of class activation maps [default: the end of the backbone]
    #[arg(long, value_delimiter = ',')]
    layer: Vec<String>,
    /// Attack: fgsm, pgd, segpgd or cospgd; on an object fgsm, pgd, tog_vanish, tog_fabricate or tog_mislabel
    #[arg(long)]
    attack: Option<String>,
    /// Largest change of a value, in 255ths
    #[arg(long, default_value_t = 4.0, allow_negative_numbers = true)]
    epsilon: f64,
    /// Steps of the attack
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Measure --epsilon as the length of all changes (L2)
    #[arg(long)]
    l2: bool,
    /// Uncertainty: mc (dropout), tta (mirror images) or ensemble:DIR,DIR
    #[arg(long)]
    uncertainty: Option<String>,
    /// Write the maps as METHOD.safetensors too
    #[arg(long)]
    raw: bool,
    /// Folder for the results
    #[arg(long, default_value = "runs/explain")]
    output: PathBuf,
    #[command(flatten)]
    decode: Decoding,
    #[command(flatten)]
    machine: Machine,
}

fn main() -> ExitCode {
    common::main(run)
}

fn run(args: &Args) -> Result<(), Failure> {
    let device = args.machine.device()?;
    let chosen = ask::methods(&args.method, args.attack.is_none() && args.uncertainty.is_none())?;
    let page = |name: &str| args.output.join(name);
    let pictures = chosen.iter().map(|method| page(&format!("{}.png", method.name())));
    let outputs = pictures.chain(["report.html", "explain.json", "attacked.png"].map(page));
    refuse_replacing([&args.image, &args.weights], outputs)?;

    let is_detector = |arch: &String| DetectorConfig::names().contains(&arch.as_str());
    if args.object.is_some() || args.arch.as_ref().is_some_and(is_detector) {
        return objects::run(args, &chosen, &device);
    }
    let attack = args.attack.as_deref().map(|name| ask::attack(name, args)).transpose()?;
    let segmenter = match (&args.model, &args.arch) {
        (Some(model), _) => Segmenter::load(model, &device)?,
        (_, Some(arch)) => {
            let weights = weights::file(arch, &args.weights, args.num_classes)?;
            Segmenter::by_name(arch, weights, args.num_classes.unwrap_or(21), &device)?
        }
        _ => return Err("either --model or --arch must be given".into()),
    };
    let color = segmenter.card().color.ok_or("the network does not take pictures: its config.json has no color")?;
    let image = ask::image(args, args.size, color)?;
    let subject = SegmentationSubject::new(segmenter.model(), segmenter.card(), &device)?;
    let shown = image.to_dynamic().to_rgb8();
    let predicted = subject.predict(&subject.input(&image)?)?;
    let class = args.class.unwrap_or_else(|| ask::most_common(&predicted));
    let target = ExplanationTarget::Class {
        class,
        pixels: ask::region(args, &predicted, class)?,
        reduction: PixelReduction::Mean,
    };
    let mut question = Question::new(&subject, &image, &target)?.with_seed(args.machine.seed);
    if !args.layer.is_empty() {
        question = question.with_layers(&args.layer)?;
    }
    create_output(args)?;
    if args.over == "predicted" && matches!(question.target(), ExplanationTarget::Class { pixels: Pixels::Image, .. }) {
        eprintln!("the network gives no pixel class {class}: the whole image is asked about");
    }

    let name = &subject.classes().names()[class];
    let asked = format!("Class {class} ({name}); mean logit over {}", ask::described(question.target()));
    let mut report = Report::new(args.image.display().to_string(), &asked);
    report.push(show::prediction(&subject, &shown, &predicted)?);
    let mut facts = json!({ "image": args.image.display().to_string(), "class": class, "name": name, "asked": asked,
        "score": question.score()? });
    let mut line = show::all(args, &question, &chosen, &shown, "logit", &mut report)?;
    if chosen.iter().any(|method| method.name().ends_with("cam") || method.name().starts_with("gradcam")) {
        facts["layers"] = json!(question.layers()?.iter().map(|layer| layer.name()).collect::<Vec<_>>());
    }
    if let Some(attack) = attack {
        let goal = Goal::Away(ask::labels(&predicted, question.target()));
        let (found, section) = show::attacked(&attack, &subject, &image, &goal, &page("attacked.png"))?;
        line["attack"] = found;
        report.push(section);
    }
    if let Some(how) = &args.uncertainty {
        let (found, section) = uncertain::measured(how, &subject, &image, args)?;
        line["uncertainty"] = found;
        report.push(section);
    }
    finish(args, facts, line, &report)
}

fn create_output(args: &Args) -> Result<(), Failure> {
    Ok(create_and_sweep(&args.output)?)
}

/// Writes `explain.json` and the page, and says the last line.
fn finish(args: &Args, mut facts: Value, mut line: Value, report: &Report) -> Result<(), Failure> {
    let write = |name: &str, text: String| {
        let path = args.output.join(name);
        let written = write_whole(&path, text.as_bytes());
        written.map(|()| path.clone()).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    line["report"] = json!(write("report.html", report.html())?.display().to_string());
    facts["results"] = line.clone();
    write("explain.json", format!("{facts:#}"))?;
    say(line)?;
    Ok(())
}
