//! Class, region and image that the flags ask about.

use segkiln::{
    core::LabelMap,
    data::{ColorMode, Filter, Image, MaskFormat, Preset, read_dynamic, read_labels},
    explain::{
        Attack, AttackKind, ExplanationTarget, Goal, Method, ObjectAttack, ObjectPart, PerturbationNorm, Pixels,
    },
};

use crate::{Args, common::Failure};

/// The methods of these names; gradcam if there is none and nothing else is asked for.
pub fn methods(names: &[String], or_default: bool) -> Result<Vec<Box<dyn Method>>, Failure> {
    let mut found: Vec<Box<dyn Method>> = Vec::new();
    let default = ["gradcam".to_owned()];
    for name in if names.is_empty() && or_default { &default[..] } else { names } {
        let method = segkiln::explain::method(name).ok_or_else(|| {
            let known: Vec<&str> = segkiln::explain::methods().iter().map(|method| method.name()).collect();
            format!("there is no method {name:?}; the methods are {}", known.join(", "))
        })?;
        if found.iter().all(|before| before.name() != method.name()) {
            found.push(method);
        }
    }
    Ok(found)
}

/// The attack of this name with the flags' budget.
pub fn attack(name: &str, args: &Args) -> Result<Attack, Failure> {
    let kind = AttackKind::by_name(name).ok_or_else(|| {
        let known = AttackKind::ALL.map(|(name, _)| name).join(", ");
        format!("there is no attack {name:?}; the attacks are {known}")
    })?;
    Ok(with_budget(kind, args))
}

/// The attack of this name on an object, and its aim.
pub fn object_attack(name: &str, args: &Args) -> Result<(Attack, ObjectAttack), Failure> {
    match (AttackKind::by_name(name), ObjectAttack::by_name(name)) {
        (Some(kind @ (AttackKind::Fgsm | AttackKind::Pgd)), _) => {
            Ok((with_budget(kind, args), ObjectAttack::Untargeted))
        }
        (_, Some(goal)) => Ok((with_budget(AttackKind::Pgd, args), goal)),
        _ => {
            let known = ObjectAttack::ALL.map(|(name, _)| name).join(", ");
            Err(format!("there is no attack {name:?} on objects; the attacks are fgsm, pgd, {known}").into())
        }
    }
}

fn with_budget(kind: AttackKind, args: &Args) -> Attack {
    let norm = if args.l2 { PerturbationNorm::L2 } else { PerturbationNorm::Linf };
    Attack { norm, seed: args.machine.seed, ..Attack::new(kind, args.epsilon) }.with_steps(args.steps)
}

/// Part of an object, by the flag's word.
pub fn part(name: &str) -> Result<ObjectPart, Failure> {
    match name {
        "score" => Ok(ObjectPart::Score),
        "box" => Ok(ObjectPart::ScoreAndBox),
        "mask" => Ok(ObjectPart::Mask),
        other => Err(format!("--part {other:?} is none of score, box and mask").into()),
    }
}

/// The image as the network is to see it, with a shorter side of `size`.
pub fn image(args: &Args, size: Option<u32>, color: ColorMode) -> Result<Image, Failure> {
    /// Gradients of larger ones need some 10 GB with usual networks.
    const MOST: u64 = 1 << 22;
    let image = read_dynamic(&args.image, args.decode.options())?;
    // In 8 bits, which is what an attack gives back too.
    let image = Image::from_dynamic(&Image::from_dynamic(&image, color).to_dynamic(), color);
    let image = match size {
        None => image,
        Some(resize) => {
            let preset = Preset { resize: Some(resize), crop: None, filter: Filter::Bilinear };
            preset.apply(&image).map_err(|error| format!("{error}; give another --size"))?
        }
    };
    let (width, height) = (image.width(), image.height());
    match u64::from(width) * u64::from(height) {
        0..=MOST => Ok(image),
        _ => Err(format!("the image of {width}x{height} is too large to explain; give a --size, such as 520").into()),
    }
}

/// The class with the most pixels but for the first; the first if there is no other.
pub fn most_common(predicted: &LabelMap) -> usize {
    let count = |label: &u32| predicted.as_slice().iter().filter(|found| *found == label).count();
    predicted.labels().into_iter().filter(|label| *label > 0).max_by_key(count).unwrap_or(0) as usize
}

/// The pixels that the flags ask about; the whole image where the network gives the class no pixel.
pub fn region(args: &Args, predicted: &LabelMap, class: usize) -> Result<Pixels, Failure> {
    if let Some(mask) = &args.mask {
        return Ok(Pixels::Mask(read_labels(mask, &MaskFormat::default(), args.decode.options())?));
    }
    let pixel = || {
        let (x, y) = args.over.split_once(',')?;
        Some(Pixels::Pixel { x: x.trim().parse().ok()?, y: y.trim().parse().ok()? })
    };
    match args.over.as_str() {
        "image" => Ok(Pixels::Image),
        "predicted" if predicted.labels().contains(&(class as u32)) => Ok(Pixels::Predicted),
        "predicted" => Ok(Pixels::Image),
        other => pixel().ok_or_else(|| format!("--over {other:?} is none of predicted, image and a pixel X,Y").into()),
    }
}

/// The pixels of a target, in words.
pub fn described(target: &ExplanationTarget) -> String {
    match target {
        ExplanationTarget::Class { pixels: Pixels::Image, .. } => "the whole image".into(),
        ExplanationTarget::Class { pixels: Pixels::Pixel { x, y }, .. } => {
            format!("the pixel in column {x} of row {y}")
        }
        ExplanationTarget::Class { pixels: Pixels::Mask(mask), .. } => {
            format!("{} pixels", mask.as_slice().iter().filter(|label| **label != 0).count())
        }
        other => format!("{other:?}"),
    }
}

/// Labels that the network gives the pixels that were asked about, for an attack to change.
pub fn labels(predicted: &LabelMap, target: &ExplanationTarget) -> LabelMap {
    let mut labels = predicted.clone();
    let width = labels.width() as usize;
    let inside = |index: usize| match target {
        ExplanationTarget::Class { pixels: Pixels::Mask(mask), .. } => mask.as_slice()[index] != 0,
        ExplanationTarget::Class { pixels: Pixels::Pixel { x, y }, .. } => index == *y as usize * width + *x as usize,
        _ => true,
    };
    let ignored = labels.as_mut_slice().iter_mut().enumerate().filter(|(index, _)| !inside(*index));
    ignored.for_each(|(_, label)| *label = Goal::IGNORED);
    labels
}
