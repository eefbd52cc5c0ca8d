//! Measures of networks under attack, by the attack's budget.

use std::error::Error;

use segkiln_core::{Instances, LabelMap};
use segkiln_data::Image;
use segkiln_metrics::metrics::{
    ConfusionMatrix,
    coco::{CocoEvaluator, CocoParams, CocoPrediction, CocoTruth, IouType},
};
use segkiln_models::{SegmentationNetwork, detection::DetectionNetwork};

use crate::{
    Attack, AttackKind, Curve, CurvePoint, DetectionSubject, ExplainError, Goal, ObjectAttack, PerturbationNorm,
    Result, SegmentationSubject, Subject,
};

/// Measures how a segmentation network's figures fall with the budget of an attack that knows the network and the annotations: `dice` and
/// `iou`, the means over the classes that are there but for the first, the background; and `pixel_accuracy`.
///
/// # Errors
/// If there is no sample, an image cannot be read or attacked, or a budget is out of range.
pub fn robustness<M, E>(
    subject: &SegmentationSubject<M>,
    samples: impl IntoIterator<Item = Result<(Image, LabelMap), E>>,
    attack: &Attack,
    epsilons: &[f64],
) -> Result<Curve>
where
    M: SegmentationNetwork,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    check(attack, epsilons)?;
    let classes = subject.classes();
    let matrix = |_| ConfusionMatrix::new(classes.count(), classes.ignore_index()).map_err(refused);
    let mut matrices = epsilons.iter().map(matrix).collect::<Result<Vec<_>>>()?;
    let mut is_empty = true;
    for sample in samples {
        is_empty = false;
        let (image, labels) = sample.map_err(|error| ExplainError::Sample(error.into()))?;
        let goal = Goal::Away(labels);
        for (epsilon, matrix) in epsilons.iter().zip(&mut matrices) {
            let attacked = match *epsilon > 0.0 {
                true => Some(attack.with_epsilon(*epsilon).run(subject, &image, &goal)?.image),
                false => None,
            };
            let found = subject.predict(&subject.input(attacked.as_ref().unwrap_or(&image))?)?;
            matrix.update_maps(&found, goal.annotations()).map_err(refused)?;
        }
    }
    if is_empty {
        return Err(ExplainError::Option { option: "samples", reason: "at least one is needed".into() });
    }
    let mean = |figure: &dyn Fn(usize) -> Option<f64>| {
        let found: Vec<f64> = (1..classes.count()).filter_map(figure).collect();
        found.iter().sum::<f64>() / found.len().max(1) as f64
    };
    let points = epsilons.iter().zip(&matrices).map(|(epsilon, matrix)| CurvePoint {
        epsilon: *epsilon,
        figures: vec![
            ("dice", mean(&|class| matrix.dice(class))),
            ("iou", mean(&|class| matrix.iou(class))),
            ("pixel_accuracy", matrix.pixel_accuracy().unwrap_or(0.0)),
        ],
    });
    Ok(Curve { attack: attack.name(), points: points.collect() })
}

/// Measures how a detector's average precision falls with the budget of an attack that knows the network and the annotations: COCO's `AP` and
/// `AP50` of boxes.
///
/// # Errors
/// As [`robustness`], and as [`ObjectAttack::goal`]; also if no image has an object to find.
pub fn robustness_of_objects<M, E>(
    subject: &DetectionSubject<M>,
    samples: impl IntoIterator<Item = Result<(Image, Instances), E>>,
    attack: &Attack,
    kind: ObjectAttack,
    epsilons: &[f64],
) -> Result<Curve>
where
    M: DetectionNetwork,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    check(attack, epsilons)?;
    let evaluator = |_| CocoEvaluator::new(IouType::Bbox, CocoParams::default()).map_err(refused);
    let mut evaluators = epsilons.iter().map(evaluator).collect::<Result<Vec<_>>>()?;
    let mut is_empty = true;
    for (number, sample) in (1..).zip(samples) {
        let (image, objects) = sample.map_err(|error| ExplainError::Sample(error.into()))?;
        is_empty &= objects.is_empty();
        let goal = kind.goal(&objects, None, subject.classes())?;
        let truths: Vec<CocoTruth> = objects.as_slice().iter().zip(1..).map(|(t, id)| CocoTruth::of(t, id)).collect();
        for (epsilon, evaluator) in epsilons.iter().zip(&mut evaluators) {
            let found = match *epsilon > 0.0 {
                true => attack.with_epsilon(*epsilon).run_on_objects(subject, &image, &goal)?.after,
                false => subject.detect(&image)?,
            };
            let found: Vec<CocoPrediction> = found.iter().map(CocoPrediction::of).collect();
            evaluator.add_image(number, &truths, &found).map_err(refused)?;
        }
    }
    if is_empty {
        return Err(ExplainError::Option { option: "samples", reason: "at least one object is needed".into() });
    }
    let points = epsilons.iter().zip(&evaluators).map(|(epsilon, evaluator)| {
        let figures = evaluator.evaluate().figures();
        // -1 where all objects are crowds.
        CurvePoint { epsilon: *epsilon, figures: vec![("AP", figures.ap.max(0.0)), ("AP50", figures.ap50.max(0.0))] }
    });
    let attack = if attack.kind == AttackKind::Fgsm { attack.name() } else { kind.name() };
    Ok(Curve { attack, points: points.collect() })
}

fn check(attack: &Attack, epsilons: &[f64]) -> Result<()> {
    let most = match attack.norm {
        PerturbationNorm::Linf => 255.0,
        // An image of 2³² values that all change from black to white; the attack checks the bound of each image.
        PerturbationNorm::L2 => 255.0 * 65536.0,
    };
    match epsilons.iter().find(|epsilon| !(0.0..=most).contains(*epsilon)) {
        Some(epsilon) => Err(ExplainError::Budget { epsilon: *epsilon, most }),
        None => Ok(()),
    }
}

fn refused(error: impl ToString) -> ExplainError {
    ExplainError::Option { option: "labels", reason: error.to_string() }
}
