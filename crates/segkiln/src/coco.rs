use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use segkiln_core::{Rle, Size};
use segkiln_data::{
    DataError,
    coco::{CocoAnnotation, CocoFile, CocoResultFile, CocoSegmentation, ImageId},
};
use segkiln_metrics::{
    MetricsError,
    metrics::coco::{CocoEvaluator, CocoParams, CocoPrediction, CocoTruth, ImageMatches, IouType},
};

/// Why results could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CocoError {
    /// Something in one of the files.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The parameters.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Matches what a detector found to what is there, as pycocotools does with the same two files. All images of `truth`
/// are then in the evaluator; their numbers there are their places among the ascending ids.
///
/// ```
/// use segkiln::{coco_evaluate, metrics::coco::{CocoParams, IouType}};
/// use segkiln::data::coco::{CocoFile, CocoResultFile};
///
/// # let folder = tempfile::tempdir()?;
/// # let (truth, found) = (folder.path().join("truth.json"), folder.path().join("found.json"));
/// # std::fs::write(&truth, r#"{
/// #     "images": [{"id": 7, "width": 60, "height": 40}], "categories": [{"id": 3, "name": "cat"}],
/// #     "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 20, 20], "area": 400}]}"#)?;
/// # std::fs::write(&found, r#"[{"image_id": 7, "category_id": 3, "bbox": [1, 1, 20, 20], "score": 0.9}]"#)?;
/// let (truth, found) = (CocoFile::read(&truth)?, CocoResultFile::read(&found)?);
/// let evaluation = coco_evaluate(&truth, &found, IouType::Bbox, CocoParams::default())?.evaluate();
/// println!("{evaluation}");
/// assert_eq!(evaluation.figures().ar_small, 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As there:
/// - results of categories that `truth` does not have are left out
/// - the first result decides for all: if it has a box, all need one, and its area is the detection's, also where masks
///   are compared; a mask that is missing is then the box. If it has none, all need a mask, whose area counts, and a
///   box that is missing is the mask's
/// - of annotations with one id, the last counts as often as there are
///
/// Otherwise than there, an annotation with the id 0 can be found like any other; a warning says that there is one.
///
/// # Errors
/// With file, entry and field: an annotation without `area`, or without the box or mask that is compared; a result
/// whose image `truth` does not have; a mask that cannot be read or is not of its image's size. And parameters that are
/// out of range.
pub fn coco_evaluate(
    truth: &CocoFile,
    found: &CocoResultFile,
    iou: IouType,
    params: CocoParams,
) -> Result<CocoEvaluator, CocoError> {
    let mut evaluator = CocoEvaluator::new(iou, params)?;
    let mut ids: Vec<&ImageId> = truth.images().iter().map(|image| &image.id).collect();
    ids.sort_unstable();
    ids.dedup();
    if truth.annotations().iter().any(|one| one.id == 0) {
        log::warn!(
            target: "segkiln::annotation_id_0",
            "{}: pycocotools never counts the annotation with the id 0 as found, here it counts; number annotations from 1",
            truth.path().display()
        );
    }
    let images = Images { numbers: ids.iter().enumerate().map(|(number, id)| (*id, number)).collect(), ids };
    let (annotations, results) = (images.annotations(truth), images.results(truth, found)?);
    let job = Job { truth, found, iou, boxes: found.results().first().is_none_or(|first| first.bbox.is_some()) };
    let matches = |number: usize| -> Result<ImageMatches, CocoError> {
        let truths: Vec<_> = annotations[number].iter().map(|one| job.truth(one)).collect::<Result<_, _>>()?;
        let detections = results[number].iter().map(|index| job.detection(*index)).collect::<Result<Vec<_>, _>>()?;
        Ok(evaluator.matches(number as i64, &truths, &detections)?)
    };
    // In order, so that of several errors the first is told.
    let all: Vec<_> = (0..images.ids.len()).into_par_iter().map(matches).collect();
    for one in all {
        evaluator.push(one?)?;
    }
    Ok(evaluator)
}

/// The images by ascending id.
struct Images<'a> {
    ids: Vec<&'a ImageId>,
    numbers: HashMap<&'a ImageId, usize>,
}

impl Images<'_> {
    /// The annotations of each image.
    fn annotations<'a>(&self, truth: &'a CocoFile) -> Vec<Vec<&'a CocoAnnotation>> {
        let mut lists = vec![Vec::new(); self.ids.len()];
        let number = |one: &CocoAnnotation| self.numbers[&one.image_id];
        for one in truth.annotations() {
            lists[number(one)].push(one);
        }
        let last: HashMap<i64, &CocoAnnotation> = truth.annotations().iter().map(|one| (one.id, one)).collect();
        if last.len() == truth.annotations().len() {
            return lists;
        }
        let mut replaced = vec![Vec::new(); self.ids.len()];
        for one in lists.into_iter().flatten() {
            let one = last[&one.id];
            replaced[number(one)].push(one);
        }
        replaced
    }

    /// The results of each image that count, by their places in the file.
    fn results(&self, truth: &CocoFile, found: &CocoResultFile) -> Result<Vec<Vec<usize>>, DataError> {
        let categories: HashSet<i64> = truth.categories().iter().map(|category| category.id).collect();
        let mut lists = vec![Vec::new(); self.ids.len()];
        for (index, result) in found.results().iter().enumerate() {
            let number = self.numbers.get(&result.image_id).ok_or_else(|| {
                let (id, path) = (&result.image_id, truth.path().display());
                let reason = format!("{path} has no image {id}; remove the result, or evaluate against another file");
                found.wrong(index, "image_id", reason)
            })?;
            if categories.contains(&result.category_id) {
                lists[*number].push(index);
            }
        }
        Ok(lists)
    }
}

/// Two files, and what of them is compared.
struct Job<'a> {
    truth: &'a CocoFile,
    found: &'a CocoResultFile,
    iou: IouType,
    /// Whether detections are as large as their boxes.
    boxes: bool,
}

impl Job<'_> {
    fn truth(&self, one: &CocoAnnotation) -> Result<CocoTruth, DataError> {
        let missing = |field: &str, cure: &str| DataError::Coco {
            path: self.truth.path().into(),
            entry: format!("annotation {}", one.id),
            field: field.into(),
            reason: format!("is missing; {cure}"),
        };
        let (bbox, mask) = match self.iou {
            IouType::Bbox => (one.bbox.ok_or_else(|| missing("bbox", "write it, or evaluate masks"))?, None),
            IouType::Segm => {
                let mask = self.truth.mask(one)?;
                ([0.0; 4], Some(mask.ok_or_else(|| missing("segmentation", "write it, or evaluate boxes"))?))
            }
        };
        let area = one.area.ok_or_else(|| missing("area", "write the object's pixels, or its box's area"))?;
        // 0 means "no match" in pycocotools, which then counts the object as never found; ids matter for nothing else.
        let id = if one.id == 0 { 1 } else { one.id };
        Ok(CocoTruth { id, class: one.category_id, bbox, area, crowd: one.crowd, mask })
    }

    fn detection(&self, index: usize) -> Result<CocoPrediction, DataError> {
        let result = &self.found.results()[index];
        let (bbox, area, mask) = if self.boxes {
            let missing = || self.found.wrong(index, "bbox", "is missing, though the first result has one; write it");
            let bbox = result.bbox.ok_or_else(missing)?;
            let mask = match self.iou {
                IouType::Bbox => None,
                IouType::Segm => Some(self.mask(index)?.map_or_else(|| self.rectangle(index, bbox), Ok)?),
            };
            (bbox, bbox[2] * bbox[3], mask)
        } else {
            let missing = || self.found.wrong(index, "segmentation", "is missing, and so is the first result's bbox");
            let mask = self.mask(index)?.ok_or_else(missing)?;
            let of_mask = || mask.bbox().map_or([0.0; 4], |bbox| bbox.xywh());
            (result.bbox.unwrap_or_else(of_mask), f64::from(mask.area()), Some(mask))
        };
        Ok(CocoPrediction { class: result.category_id, bbox, area, score: result.score, mask })
    }

    fn mask(&self, index: usize) -> Result<Option<Rle>, DataError> {
        match self.found.results()[index].segmentation {
            Some(_) => self.found.mask(index, self.truth.size(&self.found.results()[index].image_id)?),
            None => Ok(None),
        }
    }

    /// A box's pixels.
    fn rectangle(&self, index: usize, [x, y, width, height]: [f64; 4]) -> Result<Rle, DataError> {
        let Size { width: columns, height: rows } = self.truth.size(&self.found.results()[index].image_id)?;
        let (right, bottom) = (x + width, y + height);
        let polygon = CocoSegmentation::Polygons(vec![vec![x, y, x, bottom, right, bottom, right, y]]);
        polygon.to_rle(columns, rows).map_err(|reason| self.found.wrong(index, "bbox", reason.to_string()))
    }
}
