//! Uncertainty of detectors: agreement of several answers about one image, object by object.

use burn::tensor::Tensor;
use segkiln_core::{BBox, Detection, Rle};
use segkiln_data::Image;
use segkiln_models::detection::{DetectionNetwork, DetectionNetworkConfig, DetectionOptions};

use super::{no_dropout, with_dropout};
use crate::{DetectionSubject, ExplainError, Result, Subject, detection::single, picture::tensor, subject::finite};

/// IoU from which detections of several answers are one object.
const IOU: f64 = 0.5;

/// Uncertainty of several answers about the objects of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectUncertainty {
    /// The objects, by the sum of their scores over all answers, the largest first.
    pub objects: Vec<UncertainObject>,
    /// Number of answers.
    pub answers: usize,
}

/// An object in several answers.
#[derive(Debug, Clone, PartialEq)]
pub struct UncertainObject {
    /// Mean box and mean score of the answers that have the object, and the mask of the one with the highest score.
    pub detection: Detection,
    /// Share of the answers that have the object, above 0 and up to 1.
    pub share: f64,
    /// Variance of the box's left, top, right and bottom side over the answers that have the object, in pixels².
    pub box_variance: [f64; 4],
    /// Variance of the score over the answers that have the object.
    pub score_variance: f64,
    /// Mean IoU of the pairs of masks; none with fewer than two masks.
    pub mask_agreement: Option<f64>,
}

impl ObjectUncertainty {
    /// Joins answers to objects: of the merging strategies of Miller et al., ICRA 2019, <https://arxiv.org/abs/1809.06006>, the sequential one that
    /// takes a detection of each answer at most, by class and IoU. Answers are gone through in their order, best scores first; a detection
    /// joins the object of its class whose mean box it meets best, if the IoU is at least `iou`, and else begins another.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if there is no answer, `iou` is not above 0 and up to 1, or masks are of several sizes;
    /// [`ExplainError::Undefined`] if a score is not finite.
    pub fn of(answers: impl IntoIterator<Item = Result<Vec<Detection>>>, iou: f64) -> Result<Self> {
        if !(iou > 0.0 && iou <= 1.0) {
            return Err(ExplainError::Option {
                option: "iou",
                reason: format!("must be above 0 and up to 1, is {iou}"),
            });
        }
        let (mut groups, mut count): (Vec<Group>, usize) = (Vec::new(), 0);
        for answer in answers {
            let mut found = answer?;
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            for detection in found {
                finite(detection.score)?;
                let open = groups.iter_mut().filter(|group| group.last != count && group.label() == detection.label());
                let met =
                    open.map(|group| (group.mean.iou(&detection.bbox), group)).filter(|(overlap, _)| *overlap >= iou);
                match met.reduce(|a, b| if b.0 > a.0 { b } else { a }) {
                    Some((_, group)) => group.push(detection, count),
                    None => groups.push(Group { mean: detection.bbox, last: count, members: vec![detection] }),
                }
            }
            count += 1;
        }
        if count == 0 {
            return Err(ExplainError::Option { option: "answers", reason: "at least one is needed".into() });
        }
        let mut objects = groups.iter().map(|group| group.summary(count)).collect::<Result<Vec<_>>>()?;
        let sum = |object: &UncertainObject| object.share * f64::from(object.detection.score);
        objects.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
        Ok(Self { objects, answers: count })
    }

    /// The object of a class that best meets a box, with an IoU of at least 0.5.
    pub fn meeting(&self, bbox: &BBox, class: u32) -> Option<&UncertainObject> {
        let of_class = self.objects.iter().filter(|object| object.detection.label() == class);
        let overlaps = of_class.map(|object| (object.detection.bbox.iou(bbox), object));
        let best = overlaps.filter(|(overlap, _)| *overlap >= IOU).reduce(|a, b| if b.0 > a.0 { b } else { a });
        best.map(|(_, object)| object)
    }
}

/// Detections of one object, at most one an answer.
struct Group {
    members: Vec<Detection>,
    mean: BBox,
    /// Answer that the last one is of.
    last: usize,
}

impl Group {
    fn label(&self) -> u32 {
        self.members[0].label()
    }

    fn push(&mut self, detection: Detection, answer: usize) {
        self.members.push(detection);
        let sides = moments(self.members.iter().map(|member| member.bbox.xyxy()));
        self.mean = bbox(sides.map(|(mean, _)| mean));
        self.last = answer;
    }

    fn summary(&self, answers: usize) -> Result<UncertainObject> {
        let sides = moments(self.members.iter().map(|member| member.bbox.xyxy()));
        let [(score, score_variance)] = moments(self.members.iter().map(|member| [f64::from(member.score)]));
        let mut detection = Detection::new(bbox(sides.map(|(mean, _)| mean)), self.label(), score as f32)
            .expect("no object is background");
        let best = self.members.iter().reduce(|a, b| if b.score > a.score { b } else { a });
        detection.mask = best.and_then(|member| member.mask.clone());
        Ok(UncertainObject {
            detection,
            share: self.members.len() as f64 / answers as f64,
            box_variance: sides.map(|(_, variance)| variance),
            score_variance,
            mask_agreement: self.mask_agreement()?,
        })
    }

    fn mask_agreement(&self) -> Result<Option<f64>> {
        let masks: Vec<&Rle> = self.members.iter().filter_map(|member| member.mask.as_ref()).collect();
        let (mut sum, mut pairs) = (0.0, 0usize);
        for (index, first) in masks.iter().enumerate() {
            for second in &masks[index + 1..] {
                sum += first.iou(second, false).map_err(|error| refused("masks", error))?;
                pairs += 1;
            }
        }
        Ok((pairs > 0).then(|| sum / pairs as f64))
    }
}

/// Mean and variance of each number.
fn moments<const N: usize>(values: impl Iterator<Item = [f64; N]> + Clone) -> [(f64, f64); N] {
    let count = values.clone().count().max(1) as f64;
    std::array::from_fn(|index| {
        let each = || values.clone().map(|value| value[index]);
        let mean = each().sum::<f64>() / count;
        (mean, each().map(|value| (value - mean).powi(2)).sum::<f64>() / count)
    })
}

/// A mean of boxes.
fn bbox([x1, y1, x2, y2]: [f64; 4]) -> BBox {
    // Rounding may exchange sides that are equal.
    BBox::new(x1, y1, x2.max(x1), y2.max(y1)).expect("a mean of finite sides is finite")
}

fn refused(option: &'static str, error: impl ToString) -> ExplainError {
    ExplainError::Option { option, reason: error.to_string() }
}

/// Test-time variance: answers about the image and its mirror image, left and right exchanged, each at several scales of the sizes that the
/// network resizes images to (1 is its own), brought back to the image.
///
/// # Errors
/// If there is no scale, a scale gives a size that the network does not take, or the image does not fit the network.
pub fn mirrored_objects<M: DetectionNetwork>(
    subject: &DetectionSubject<M>,
    image: &Image,
    scales: &[f64],
) -> Result<ObjectUncertainty> {
    let x = tensor(image.clone(), subject.device());
    let mut answers = Vec::new();
    for scale in scales {
        if !(*scale > 0.0 && scale.is_finite()) {
            return Err(refused("scales", format!("must be above 0, one is {scale}")));
        }
        let config = subject.network().config();
        let sizes = config.transform();
        let [min_size, max_size] =
            [sizes.min_size, sizes.max_size].map(|side| Some((side as f64 * scale).round() as usize));
        let config = config.with_options(DetectionOptions { min_size, max_size, ..Default::default() });
        let network = subject.network().clone().with_config(config)?;
        answers.push(answer(&network, x.clone()));
        let mirrored = answer(&network, x.clone().flip([3]))?;
        answers.push(mirrored.into_iter().map(|found| mirror(found, image.width())).collect());
    }
    ObjectUncertainty::of(answers, IOU)
}

/// Deep ensemble: answers of several detectors for the same classes, as in Lyu et al., ECCVW 2020.
///
/// # Errors
/// [`ExplainError::Option`] if the detectors differ in their classes, or there is none; or if the image does not fit one.
pub fn ensemble_of_objects<M: DetectionNetwork>(
    subjects: &[DetectionSubject<M>],
    image: &Image,
) -> Result<ObjectUncertainty> {
    if subjects.iter().any(|subject| subject.classes().names() != subjects[0].classes().names()) {
        return Err(refused("ensemble", "the networks of an ensemble need the same classes"));
    }
    ObjectUncertainty::of(subjects.iter().map(|subject| subject.detect(image)), IOU)
}

/// Monte-Carlo dropout, as [`dropout`](super::dropout()): answers of a detector whose dropout layers are on; Miller et al., ICRA 2018,
/// <https://arxiv.org/abs/1710.06677>. No detector of this library has such layers.
///
/// # Errors
/// [`ExplainError::Option`] if the network has no dropout, or `passes` is 0.
pub fn dropout_of_objects<M: DetectionNetwork>(
    subject: &DetectionSubject<M>,
    image: &Image,
    passes: usize,
    seed: u64,
) -> Result<ObjectUncertainty> {
    let (network, found) = with_dropout(subject.network().clone());
    if found == 0 {
        return Err(no_dropout());
    }
    let x = tensor(image.clone(), subject.device()).autodiff();
    ObjectUncertainty::of(
        (0..passes).map(|pass| {
            subject.device().seed(seed.wrapping_add(1 + pass as u64));
            answer(&network, x.clone())
        }),
        IOU,
    )
}

fn answer<M: DetectionNetwork>(network: &M, x: Tensor<4>) -> Result<Vec<Detection>> {
    Ok(network.detect(&single(x))?.remove(0))
}

/// A detection of a mirror image as one of the image.
fn mirror(found: Detection, width: u32) -> Result<Detection> {
    let [x1, y1, x2, y2] = found.bbox.xyxy();
    let width = f64::from(width);
    let bbox = BBox::new(width - x2, y1, width - x1, y2).map_err(|error| refused("box", error))?;
    let mirrored = Detection::new(bbox, found.label(), found.score).expect("no object is background");
    let Some(mask) = found.mask else { return Ok(mirrored) };
    let (pixels, line) = (mask.to_mask(), mask.width());
    let inside = |x: u32, y: u32| pixels[y as usize * line as usize + (line - 1 - x) as usize];
    let mask = Rle::from_fn(line, mask.height(), inside).map_err(|error| refused("mask", error))?;
    Ok(mirrored.with_mask(mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(x: f64, class: u32, score: f32) -> Detection {
        Detection::new(BBox::new(x, 2.0, x + 10.0, 12.0).unwrap(), class, score).unwrap()
    }

    #[test]
    fn answers_are_joined_by_class_and_overlap() {
        let answers = [
            vec![found(0.0, 1, 0.9), found(40.0, 1, 0.6)],
            // Of two that meet an object, the better score is the object; the other is one of its own.
            vec![found(1.0, 1, 0.3), found(2.0, 1, 0.7)],
            vec![found(0.0, 2, 0.4), found(1.0, 1, 0.8), found(40.0, 1, 0.5)],
        ];
        let joined = ObjectUncertainty::of(answers.map(Ok), 0.5).unwrap();
        assert_eq!(joined.answers, 3);
        let shares: Vec<(u32, usize)> =
            joined.objects.iter().map(|o| (o.detection.label(), (o.share * 3.0).round() as usize)).collect();
        assert_eq!(shares, [(1, 3), (1, 2), (2, 1), (1, 1)]);
        let first = &joined.objects[0];
        assert_eq!(first.detection.bbox.xyxy(), [1.0, 2.0, 11.0, 12.0]);
        assert!((first.detection.score - 0.8).abs() < 1e-6);
        assert!((first.score_variance - 0.02 / 3.0).abs() < 1e-6, "{}", first.score_variance);
        for (side, expected) in first.box_variance.iter().zip([2.0 / 3.0, 0.0, 2.0 / 3.0, 0.0]) {
            assert!((side - expected).abs() < 1e-12, "{:?}", first.box_variance);
        }
        assert_eq!(first.mask_agreement, None);
        let met = joined.meeting(&BBox::new(41.0, 2.0, 51.0, 12.0).unwrap(), 1).unwrap();
        assert_eq!(met.detection.bbox.xyxy()[0], 40.0);
        assert!(joined.meeting(&BBox::new(41.0, 2.0, 51.0, 12.0).unwrap(), 2).is_none());
    }

    #[test]
    fn masks_agree_as_far_as_they_overlap() {
        let with = |from: u32| {
            let mask = Rle::from_fn(20, 14, |x, y| (from..from + 4).contains(&x) && y < 5).unwrap();
            found(0.0, 1, 0.5 + from as f32 / 10.0).with_mask(mask)
        };
        let joined = ObjectUncertainty::of([vec![with(0)], vec![with(0)], vec![with(2)]].map(Ok), 0.5).unwrap();
        // Two pairs share 2 of 6 columns, one pair all.
        let agreement = joined.objects[0].mask_agreement.unwrap();
        assert!((agreement - (1.0 + 2.0 / 3.0) / 3.0).abs() < 1e-12, "{agreement}");
        assert_eq!(joined.objects[0].detection.mask, with(2).mask);
    }

    #[test]
    fn mirror_images_are_brought_back() {
        let mask = Rle::from_fn(20, 14, |x, y| x < 3 && y == 2).unwrap();
        let back = mirror(found(0.0, 1, 0.5).with_mask(mask), 20).unwrap();
        assert_eq!(back.bbox.xyxy(), [10.0, 2.0, 20.0, 12.0]);
        assert_eq!(back.mask.unwrap(), Rle::from_fn(20, 14, |x, y| x > 16 && y == 2).unwrap());
    }

    #[test]
    fn nonsense_is_refused() {
        let none: [Result<Vec<Detection>>; 0] = [];
        assert!(ObjectUncertainty::of(none, 0.5).unwrap_err().to_string().contains("at least one"));
        assert!(ObjectUncertainty::of([Ok(vec![])], 0.0).unwrap_err().to_string().contains("iou"));
        let nan = ObjectUncertainty::of([Ok(vec![found(0.0, 1, f32::NAN)])], 0.5);
        assert!(matches!(nan, Err(ExplainError::Undefined(_))));
    }
}
