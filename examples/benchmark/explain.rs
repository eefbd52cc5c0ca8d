//! Cases of explanations and attacks.

use burn::tensor::Device;
use segkiln::{
    core::{Classes, LabelMap},
    data::{ColorMode, Image, Normalize},
    explain::{Attack, AttackKind, ExplanationTarget, Goal, GradCam, Pixels, Question, SegmentationSubject},
    models::{
        ModelCard,
        unet::{UNet, UNetConfig},
    },
};

use crate::{Case, common::Failure};

/// Grad-CAM of class 1 over all pixels, at the deepest level.
pub fn grad_cam(base: usize, side: u32, device: &Device) -> Result<Case, Failure> {
    // For as long as the program runs.
    let subject = Box::leak(Box::new(subject(base, device)?));
    let question = Question::new(subject, &noise(side)?, &ExplanationTarget::class(1, Pixels::Image))?;
    let question = question.with_layers(&["encoder.bottleneck"])?;
    Ok(Box::new(move || drop(question.explain(&GradCam).expect("it warmed up"))))
}

/// Ten steps of PGD against the cross-entropy of all pixels.
pub fn pgd(base: usize, side: u32, device: &Device) -> Result<Case, Failure> {
    let (subject, image) = (subject(base, device)?, noise(side)?);
    let labels = (0..side * side).map(|pixel| (pixel / 7 + pixel / 911) % 2).collect();
    let goal = Goal::Away(LabelMap::new(side, side, labels)?);
    let attack = Attack { rounded: false, ..Attack::new(AttackKind::Pgd, 8.0) };
    Ok(Box::new(move || drop(attack.run(&subject, &image, &goal).expect("it warmed up"))))
}

fn subject(base: usize, device: &Device) -> Result<SegmentationSubject<UNet>, Failure> {
    let model = UNetConfig::new(3, 2).with_base(base);
    let network = model.init(device);
    let (classes, color) = (Classes::binary(), Some(ColorMode::Rgb));
    let card = ModelCard { model, classes, color, normalize: Normalize::identity(3) };
    Ok(SegmentationSubject::new(&network, &card, device)?)
}

fn noise(side: u32) -> Result<Image, Failure> {
    let value = |index: u32| (index.wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 24) as f32;
    Ok(Image::new(side, side, 3, (0..3 * side * side).map(value).collect())?)
}
