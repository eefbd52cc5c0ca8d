//! How sure the network is.

use segkiln::{
    Segmenter,
    data::{Image, write_image},
    explain::{SegmentationSubject, picture, report::Section, uncertainty},
    models::SegmentationModel,
};
use serde_json::{Value, json};

use crate::{Args, common::Failure, show::raw};

/// Passes with dropout.
const PASSES: usize = 20;

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
        _ => return Err(format!("--uncertainty {how:?} is none of mc, tta and ensemble:DIR,DIR").into()),
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
