use std::collections::BTreeMap;

use rayon::prelude::*;
use segkiln_core::{Detection, Instance, Rle};

use super::{
    CocoParams, IouType,
    evaluation::{ClassFigures, CocoEvaluation, PrecisionRecall, Ranked},
    overlap::{self, Runs},
};
use crate::{MetricsError, Result};

/// A ground-truth object.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoTruth {
    /// Its id. Any but 0 will do; see [the module](super) for what 0 does.
    pub id: i64,
    /// Its class, by any numbering.
    pub class: i64,
    /// `[x, y, width, height]` in pixels, within ±10⁹; width and height may be 0 or less. Not used for
    /// [`IouType::Segm`].
    pub bbox: [f64; 4],
    /// Area in pixels by which it is small, medium or large: for COCO what the file says.
    pub area: f64,
    /// Whether it is a region of several objects that were not told apart.
    pub crowd: bool,
    /// Its pixels, for [`IouType::Segm`].
    pub mask: Option<Rle>,
}

impl CocoTruth {
    /// An object of a data set. Its area is its mask's, or without a mask its box's; a difficult one is treated as a crowd, as
    /// those do who evaluate Pascal VOC's objects so.
    pub fn of(instance: &Instance, id: i64) -> Self {
        Self {
            id,
            class: instance.label().into(),
            bbox: instance.bbox.xywh(),
            area: instance.mask.as_ref().map_or_else(|| instance.bbox.area(), |mask| mask.area().into()),
            crowd: instance.crowd || instance.difficult,
            mask: instance.mask.clone(),
        }
    }
}

/// A detection.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoPrediction {
    /// Its class, numbered as those of [`CocoTruth`].
    pub class: i64,
    /// `[x, y, width, height]` in pixels, within ±10⁹; width and height may be 0 or less. Not used for
    /// [`IouType::Segm`].
    pub bbox: [f64; 4],
    /// Area in pixels by which it is small, medium or large: for pycocotools the box's, or the mask's if there is no
    /// box.
    pub area: f64,
    /// Confidence of the detector: finite, the greater the surer.
    pub score: f64,
    /// Its pixels, for [`IouType::Segm`].
    pub mask: Option<Rle>,
}

impl CocoPrediction {
    /// Converts a network's detection; its area is its box's.
    pub fn of(detection: &Detection) -> Self {
        Self {
            class: detection.label().into(),
            bbox: detection.bbox.xywh(),
            area: detection.bbox.area(),
            score: detection.score.into(),
            mask: detection.mask.clone(),
        }
    }
}

/// Outcome of a detection in one range of areas at one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It found an object.
    True,
    /// It found none.
    False,
    /// It does not count.
    Ignored,
}

/// Detections and objects of one image and class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClassMatches {
    class: i64,
    /// Scores of the detections that count, descending.
    pub scores: Vec<f64>,
    /// Detections × areas × thresholds.
    pub outcomes: Vec<Outcome>,
    /// Objects that are to be found, for each of the areas.
    pub objects: Vec<u32>,
}

/// Matches between an image's detections and objects; see [`CocoEvaluator::matches`].
#[derive(Debug, Clone, PartialEq)]
pub struct ImageMatches {
    image: i64,
    classes: Vec<ClassMatches>,
}

/// COCO's figures over the images that it is shown, in any order. See [the module](super).
#[derive(Debug, Clone, PartialEq)]
pub struct CocoEvaluator {
    iou: IouType,
    params: CocoParams,
    /// Images by number, which is their order.
    images: BTreeMap<i64, Vec<ClassMatches>>,
}

impl CocoEvaluator {
    /// An evaluator without images.
    ///
    /// # Errors
    /// Thresholds that are not between 0 and 1, recalls or numbers of detections that do not ascend, or a list without
    /// values.
    pub fn new(iou: IouType, params: CocoParams) -> Result<Self> {
        params.check()?;
        Ok(Self { iou, params, images: BTreeMap::new() })
    }

    /// The parameters.
    pub fn params(&self) -> &CocoParams {
        &self.params
    }

    /// The kind of overlap.
    pub fn iou_type(&self) -> IouType {
        self.iou
    }

    /// Adds an image, also one without objects or detections. `image` is its id or any other number: it decides only
    /// which of equal scores comes first.
    ///
    /// # Errors
    /// As [`matches`](Self::matches) and [`push`](Self::push).
    pub fn add_image(&mut self, image: i64, truths: &[CocoTruth], detections: &[CocoPrediction]) -> Result<()> {
        self.push(self.matches(image, truths, detections)?)
    }

    /// Matches detections to objects, the part that takes time, which several threads can do for several images. The
    /// result is for [`push`](Self::push).
    ///
    /// # Errors
    /// A score, area or box that is not finite or not within ±10⁹; and for [`IouType::Segm`] a mask that is missing or
    /// of another size than the image's first.
    pub fn matches(&self, image: i64, truths: &[CocoTruth], detections: &[CocoPrediction]) -> Result<ImageMatches> {
        self.check(image, truths, detections)?;
        let class = |class: i64| if self.params.use_classes { class } else { -1 };
        let mut groups: BTreeMap<i64, (Vec<&CocoTruth>, Vec<&CocoPrediction>)> = BTreeMap::new();
        for truth in truths {
            groups.entry(class(truth.class)).or_default().0.push(truth);
        }
        for detection in detections {
            groups.entry(class(detection.class)).or_default().1.push(detection);
        }
        let classes = groups.into_iter().map(|(class, (mut truths, mut detections))| {
            // No change but for one group of all classes, where it makes pycocotools' order.
            truths.sort_by_key(|truth| truth.class);
            detections.sort_by_key(|detection| detection.class);
            self.class_matches(class, &truths, detections)
        });
        Ok(ImageMatches { image, classes: classes.collect() })
    }

    /// Adds an image whose detections were matched by this evaluator or one with the same parameters.
    ///
    /// # Errors
    /// An image of that number was added already.
    pub fn push(&mut self, matches: ImageMatches) -> Result<()> {
        if self.images.contains_key(&matches.image) {
            return Err(MetricsError::ImageTwice(matches.image));
        }
        self.images.insert(matches.image, matches.classes);
        Ok(())
    }

    /// Adds the images of another evaluator.
    ///
    /// # Errors
    /// Other parameters, or an image that both have.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        if (self.iou, &self.params) != (other.iou, &other.params) {
            return Err(MetricsError::Unlike("COCO evaluators"));
        }
        if let Some(image) = other.images.keys().find(|image| self.images.contains_key(image)) {
            return Err(MetricsError::ImageTwice(*image));
        }
        self.images.extend(other.images);
        Ok(())
    }

    /// Removes all images.
    pub fn reset(&mut self) {
        self.images.clear();
    }

    fn check(&self, image: i64, truths: &[CocoTruth], detections: &[CocoPrediction]) -> Result<()> {
        let mut size = None;
        let mut check = |bbox: &[f64; 4], numbers: &[(&str, f64)], mask: &Option<Rle>| {
            const MOST: f64 = 1e9;
            if bbox.iter().any(|value| value.is_nan() || value.abs() > MOST) {
                return Err(format!("the box {bbox:?} must have numbers within ±1e9"));
            }
            if let Some((name, value)) = numbers.iter().find(|(_, value)| !value.is_finite()) {
                return Err(format!("the {name} {value} must be finite"));
            }
            if self.iou == IouType::Bbox {
                return Ok(());
            }
            let mask = mask.as_ref().ok_or("it has no mask; give it one, or evaluate boxes")?;
            let actual = mask.size();
            let expected = *size.get_or_insert(actual);
            match actual == expected {
                true => Ok(()),
                false => Err(format!("its mask has {actual} pixels, others {expected}")),
            }
        };
        for (index, truth) in truths.iter().enumerate() {
            check(&truth.bbox, &[("area", truth.area)], &truth.mask).map_err(|reason| MetricsError::Object {
                what: "object",
                index,
                image,
                reason,
            })?;
        }
        for (index, found) in detections.iter().enumerate() {
            check(&found.bbox, &[("area", found.area), ("score", found.score)], &found.mask)
                .map_err(|reason| MetricsError::Object { what: "detection", index, image, reason })?;
        }
        Ok(())
    }

    fn class_matches(&self, class: i64, truths: &[&CocoTruth], mut detections: Vec<&CocoPrediction>) -> ClassMatches {
        let CocoParams { iou_thresholds, areas, .. } = &self.params;
        detections.sort_by(|a, b| b.score.partial_cmp(&a.score).expect("scores were checked"));
        detections.truncate(self.params.most());
        let candidates = self.candidates(truths, &detections);

        let mut outcomes = vec![Outcome::False; detections.len() * areas.len() * iou_thresholds.len()];
        let mut objects = Vec::with_capacity(areas.len());
        // Thresholds × objects.
        let mut taken = vec![false; iou_thresholds.len() * truths.len()];
        for (a, area) in areas.iter().enumerate() {
            let outside = |value: f64| value < area.from || value > area.to;
            let ignored: Vec<bool> = truths.iter().map(|truth| truth.crowd || outside(truth.area)).collect();
            objects.push(ignored.iter().filter(|ignored| !**ignored).count() as u32);
            taken.fill(false);
            for (d, (detection, candidates)) in detections.iter().zip(&candidates).enumerate() {
                let nothing = if outside(detection.area) { Outcome::Ignored } else { Outcome::False };
                let row = &mut outcomes[(d * areas.len() + a) * iou_thresholds.len()..][..iou_thresholds.len()];
                row.fill(nothing);
                if candidates.is_empty() {
                    continue;
                }
                for ((outcome, threshold), taken) in
                    row.iter_mut().zip(iou_thresholds).zip(taken.chunks_exact_mut(truths.len()))
                {
                    // Objects that count come before the others, however much these overlap.
                    let best = [false, true].into_iter().find_map(|which| {
                        let (mut best, mut least) = (None, CocoParams::reached(*threshold));
                        for (index, iou) in candidates {
                            let free = !taken[*index] || truths[*index].crowd;
                            if *iou >= least && ignored[*index] == which && free {
                                (best, least) = (Some(*index), *iou);
                            }
                        }
                        best
                    });
                    if let Some(index) = best {
                        taken[index] = true;
                        *outcome = match truths[index].id {
                            _ if ignored[index] => Outcome::Ignored,
                            0 => nothing,
                            _ => Outcome::True,
                        };
                    }
                }
            }
        }
        ClassMatches { class, scores: detections.iter().map(|found| found.score).collect(), outcomes, objects }
    }

    /// Returns, for each detection, the objects that it might match, in their order, and its overlap with them.
    fn candidates(&self, truths: &[&CocoTruth], detections: &[&CocoPrediction]) -> Vec<Vec<(usize, f64)>> {
        if truths.is_empty() {
            return vec![Vec::new(); detections.len()];
        }
        let least = self.params.iou_thresholds.iter().copied().fold(f64::INFINITY, f64::min);
        let least = CocoParams::reached(least);
        let runs = |mask: &Option<Rle>| mask.as_ref().map(Runs::new).expect("masks were checked");
        let of_truths: Vec<Runs> = match self.iou {
            IouType::Segm if !detections.is_empty() => truths.iter().map(|truth| runs(&truth.mask)).collect(),
            _ => Vec::new(),
        };
        let of_one = |detection: &&CocoPrediction| {
            let of_it = (self.iou == IouType::Segm).then(|| runs(&detection.mask));
            let overlaps = truths.iter().enumerate().map(|(index, truth)| {
                let iou = match &of_it {
                    Some(of_it) => of_it.iou(&of_truths[index], truth.crowd, least),
                    None => overlap::boxes(detection.bbox, truth.bbox, truth.crowd),
                };
                (index, iou)
            });
            overlaps.filter(|(_, iou)| *iou >= least).collect()
        };
        detections.iter().map(of_one).collect()
    }

    /// Returns the detections of each class by descending score.
    fn ranked(&self) -> BTreeMap<i64, Vec<&ClassMatches>> {
        let mut classes: BTreeMap<i64, Vec<&ClassMatches>> = BTreeMap::new();
        for matches in self.images.values().flatten() {
            classes.entry(matches.class).or_default().push(matches);
        }
        classes
    }

    /// Computes the figures of all images so far.
    pub fn evaluate(&self) -> CocoEvaluation {
        let classes: Vec<_> = self.ranked().into_iter().collect();
        let figures: Vec<ClassFigures> = classes
            .par_iter()
            .map(|(class, matches)| ClassFigures::new(*class, &Ranked::new(matches, &self.params), &self.params))
            .collect();
        CocoEvaluation::new(self.params.clone(), figures)
    }

    /// Precision over recall of a class (-1 without [`use_classes`](CocoParams::use_classes)) at one of the thresholds,
    /// areas and numbers of detections. None if there is no object to be found, or no such parameter.
    pub fn curve(&self, class: i64, threshold: f64, area: &str, max_detections: usize) -> Option<PrecisionRecall> {
        let params = &self.params;
        let area = params.areas.iter().position(|range| range.name == area)?;
        let threshold = super::evaluation::threshold(params, threshold)?;
        params.max_detections.contains(&max_detections).then_some(())?;
        let classes = self.ranked();
        let ranked = Ranked::new(classes.get(&class)?, params);
        let precision = ranked.curves(params, area, max_detections)?.swap_remove(threshold).precision;
        Some(PrecisionRecall { recall: params.recall_thresholds.clone(), precision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(id: i64, bbox: [f64; 4], crowd: bool) -> CocoTruth {
        CocoTruth { id, class: 1, bbox, area: bbox[2] * bbox[3], crowd, mask: None }
    }

    fn found(bbox: [f64; 4], score: f64) -> CocoPrediction {
        CocoPrediction { class: 1, bbox, area: bbox[2] * bbox[3], score, mask: None }
    }

    fn evaluator() -> CocoEvaluator {
        CocoEvaluator::new(IouType::Bbox, CocoParams::default()).unwrap()
    }

    const BOX: [f64; 4] = [0.0, 0.0, 10.0, 10.0];

    /// AP of one image.
    fn ap(truths: &[CocoTruth], detections: &[CocoPrediction]) -> f64 {
        let mut evaluator = evaluator();
        evaluator.add_image(5, truths, detections).unwrap();
        evaluator.evaluate().figures().ap
    }

    #[test]
    fn possible_matches_of_a_detection() {
        let near = |actual: f64, expected: f64| assert!((actual - expected).abs() < 1e-9, "{actual}, not {expected}");
        let away = found([90.0, 0.0, 10.0, 10.0], 0.9);
        near(ap(&[truth(1, BOX, false)], &[found(BOX, 0.5)]), 1.0);
        near(ap(&[truth(1, BOX, false)], &[found(BOX, 0.5), away.clone()]), 0.5);
        near(ap(&[truth(1, BOX, false)], &[]), 0.0);
        near(ap(&[], &[found(BOX, 0.5)]), -1.0);
        // An object of id 0 is there, but is not found.
        near(ap(&[truth(0, BOX, false)], &[found(BOX, 0.5)]), 0.0);
        // A crowd takes any number, and the object goes before it.
        let crowd = truth(2, [0.0, 0.0, 100.0, 100.0], true);
        near(ap(&[crowd.clone(), truth(1, BOX, false)], &[found(BOX, 0.5), away.clone(), away.clone()]), 1.0);
        near(ap(&[crowd], &[away]), -1.0);
    }

    #[test]
    fn images_come_in_any_order() {
        let images: Vec<_> = (0..20i64)
            .map(|image| {
                let shift = (image % 4) as f64;
                (image, [truth(1, BOX, false)], [found([shift, 0.0, 10.0, 10.0], (image % 3) as f64)])
            })
            .collect();
        let mut all = evaluator();
        for (image, truths, detections) in &images {
            all.add_image(*image, truths, detections).unwrap();
        }
        let (mut even, mut odd) = (evaluator(), evaluator());
        for (image, truths, detections) in images.iter().rev() {
            let part = if image % 2 == 0 { &mut even } else { &mut odd };
            part.push(part.matches(*image, truths, detections).unwrap()).unwrap();
        }
        even.merge(odd).unwrap();
        assert_eq!(even, all);
        assert_eq!(even.evaluate(), all.evaluate());
        assert_eq!(all.evaluate().class_figures(1), all.evaluate().figures());
        assert_eq!(all.evaluate().class_figures(2).values(), [-1.0; 12]);

        assert_eq!(all.add_image(3, &[], &[]), Err(MetricsError::ImageTwice(3)));
        assert_eq!(all.merge(even), Err(MetricsError::ImageTwice(0)));
        let masks = CocoEvaluator::new(IouType::Segm, CocoParams::default()).unwrap();
        assert!(all.merge(masks).is_err());
        all.reset();
        assert_eq!(all, evaluator());
    }

    #[test]
    fn curves_of_what_there_is() {
        let mut evaluator = evaluator();
        evaluator.add_image(1, &[truth(1, BOX, false)], &[found(BOX, 0.5)]).unwrap();
        assert!(evaluator.curve(1, 0.5, "small", 10).is_some());
        for (class, threshold, area, most) in [
            (2, 0.5, "all", 100),
            (1, 0.51, "all", 100),
            (1, 0.5, "huge", 100),
            (1, 0.5, "all", 50),
            (1, 0.5, "large", 100),
        ] {
            assert_eq!(evaluator.curve(class, threshold, area, most), None);
        }
    }

    #[test]
    fn wrong_input() {
        let wrong = |truths: &[CocoTruth], detections: &[CocoPrediction], iou, word: &str| {
            let error = CocoEvaluator::new(iou, CocoParams::default()).unwrap().matches(5, truths, detections);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("of image 5") && error.contains(word), "no {word:?} in {error}");
        };
        let mask = |side| Some(Rle::new(side, side, &[side * side]).unwrap());
        let with_mask = CocoTruth { mask: mask(4), ..truth(1, BOX, false) };
        wrong(&[truth(1, [f64::NAN, 0.0, 1.0, 1.0], false)], &[], IouType::Bbox, "object 0");
        wrong(&[], &[found([0.0, 0.0, 1e12, 1.0], 0.5)], IouType::Bbox, "±1e9");
        wrong(&[], &[found(BOX, 0.5), found(BOX, f64::NAN)], IouType::Bbox, "detection 1");
        wrong(&[CocoTruth { area: f64::INFINITY, ..truth(1, BOX, false) }], &[], IouType::Bbox, "area inf");
        wrong(std::slice::from_ref(&with_mask), &[found(BOX, 0.5)], IouType::Segm, "no mask");
        wrong(&[with_mask], &[CocoPrediction { mask: mask(5), ..found(BOX, 0.5) }], IouType::Segm, "5x5");

        let refused = |params: CocoParams| assert!(CocoEvaluator::new(IouType::Bbox, params).is_err());
        let default = CocoParams::default;
        refused(CocoParams { iou_thresholds: vec![], ..default() });
        refused(CocoParams { iou_thresholds: vec![0.5, f64::NAN], ..default() });
        refused(CocoParams { recall_thresholds: vec![0.5, 0.1], ..default() });
        refused(CocoParams { areas: vec![], ..default() });
        refused(CocoParams { max_detections: vec![0, 10], ..default() });
        refused(CocoParams { max_detections: vec![10, 1], ..default() });
    }
}
