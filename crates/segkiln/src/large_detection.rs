//! Objects of pictures that do not fit memory, found tile by tile.

use std::time::Instant;

use segkiln_core::{BBox, CoreError, Detection, Rle, Size};
use segkiln_data::{
    instances::{Object, ObjectRun},
    regions::{Region, RegionPixels, RegionSource},
};
use segkiln_models::detection::{DetectionError, DetectionNetwork};

use crate::{Detector, LargeOptions, PredictError, Progress, read_ahead::read_ahead, tiles::starts};

/// Pixels from a tile's inner edge within which an object is cut by it.
const CUT: f64 = 2.0;
/// Pixels from a tile's inner edge beyond which the distance no longer counts.
const WHOLE: f64 = 16.0;
/// Least share of an object, within the window that two tiles see, that both have found.
const SAME: f64 = 0.5;

/// An object that a network found in a picture of any size.
#[derive(Debug, Clone, PartialEq)]
pub struct LargeDetection {
    /// Box, class and score, in pixels of the level; without a mask.
    pub detection: Detection,
    /// The mask, row by row; empty if the network predicts none.
    pub runs: Vec<ObjectRun>,
}

impl LargeDetection {
    /// The detection with its mask in a picture of this size.
    ///
    /// # Errors
    /// [`CoreError::MaskSize`] if that has more than 2³² - 1 pixels, [`CoreError::InstanceMask`] if the mask is not within it.
    pub fn in_picture(&self, width: u32, height: u32) -> Result<Detection, CoreError> {
        let detection = self.detection.clone();
        match Object::new(1, detection.label(), self.runs.clone()) {
            Some(object) => Ok(detection.with_mask(object.to_rle(width, height)?)),
            None => Ok(detection),
        }
    }

    /// The detection of a picture of size `from` in the same picture of another size: of a level in the picture's own pixels. A pixel is
    /// of its mask if its middle lies in one that was.
    ///
    /// # Errors
    /// [`CoreError::InvalidBox`] if the box is not finite.
    pub fn resized(&self, from: Size, to: Size) -> Result<Self, CoreError> {
        if from == to {
            return Ok(self.clone());
        }
        let ratio = [f64::from(to.width) / f64::from(from.width), f64::from(to.height) / f64::from(from.height)];
        let [x1, y1, x2, y2] = self.detection.bbox.xyxy();
        let bbox = BBox::new(x1 * ratio[0], y1 * ratio[1], x2 * ratio[0], y2 * ratio[1])?;
        let detection = Detection::new(bbox, self.detection.label(), self.detection.score)?;
        let mut runs = Vec::new();
        for row in self.runs.chunk_by(|a, b| a.row == b.row) {
            let columns = row.iter().map(|run| [run.start, run.end].map(|x| first_behind(x, from.width, to.width)));
            let columns: Vec<[u32; 2]> = columns.filter(|[start, end]| start < end).collect();
            let [top, bottom] = [row[0].row, row[0].row + 1].map(|y| first_behind(y, from.height, to.height));
            for row in top..bottom {
                runs.extend(columns.iter().map(|[start, end]| ObjectRun { row, start: *start, end: *end }));
            }
        }
        Ok(Self { detection, runs })
    }

    /// Converts to an object, to measure and to write; without a mask the pixels whose middles are in its box. None if there are no such
    /// pixels.
    pub fn object(&self, number: u32) -> Option<Object> {
        let [start, top, end, bottom] = self.detection.bbox.xyxy().map(|side| side.round().max(0.0) as u32);
        let runs = match self.runs.is_empty() {
            true if start < end => (top..bottom).map(|row| ObjectRun { row, start, end }).collect(),
            _ => self.runs.clone(),
        };
        Some(Object::new(number, self.detection.label(), runs)?.with_score(self.detection.score))
    }
}

/// The first pixel of a side of `to` whose middle lies behind the first `at` pixels of the side of `from`.
fn first_behind(at: u32, from: u32, to: u32) -> u32 {
    let [at, from, to] = [at, from, to].map(i128::from);
    // (2 · pixel + 1) · from >= 2 · at · to
    (2 * at * to + from - 1).div_euclid(2 * from).clamp(0, to) as u32
}

/// A detection of a picture that was seen whole.
impl From<Detection> for LargeDetection {
    fn from(mut detection: Detection) -> Self {
        let runs = detection.mask.take().map_or(Vec::new(), |mask| runs(&mask, [0, 0]));
        Self { detection, runs }
    }
}

/// A mask row by row, in a picture in which it begins at a column and a row.
fn runs(mask: &Rle, [left, top]: [u32; 2]) -> Vec<ObjectRun> {
    let mut runs = Vec::new();
    for (row, pixels) in (top..).zip(mask.to_mask().chunks_exact(mask.width() as usize)) {
        let mut start = left;
        for pixels in pixels.chunk_by(|a, b| a == b) {
            let end = start + pixels.len() as u32;
            if pixels[0] {
                runs.push(ObjectRun { row, start, end });
            }
            start = end;
        }
    }
    runs
}

/// A detection of a tile, in the picture's pixels.
#[derive(Debug, Clone)]
struct Found {
    tile: Region,
    bbox: [f64; 4],
    label: u32,
    score: f32,
    runs: Vec<ObjectRun>,
    /// Pixels to the nearest edge of the tile behind which the picture goes on.
    margin: f64,
}

impl<M: DetectionNetwork> Detector<M> {
    /// Finds the objects of a picture of any size, best first: tiles with [an overlap](LargeOptions::overlap) are read and looked at one
    /// by one, and what several of them found of one object is made one.
    ///
    /// Two tiles have found the same object if half of what both see of it agrees: of masks, or of boxes from a network without masks.
    /// One of those that no tile's edge cuts is kept: the one farthest from the edge (16 pixels and more are alike), then the one with
    /// the highest score; parts of an object that no tile sees whole are joined. Objects should be smaller than the overlap to be seen
    /// whole, and tiles as large as the images that the network was trained on.
    ///
    /// Memory: the network with a tile, two tiles that are read ahead, and the objects.
    ///
    /// # Errors
    /// [`PredictError::Option`], [`PredictError::Data`] with the place of a tile that cannot be read, and those of
    /// [`detect`](Self::detect).
    ///
    /// # Panics
    /// If the source does.
    pub fn detect_large<S: RegionSource>(
        &self,
        source: &S,
        options: &LargeOptions,
        mut progress: impl FnMut(Progress),
    ) -> Result<Vec<LargeDetection>, PredictError> {
        options.check(source)?;
        if options.flips {
            return Err(PredictError::option("flips", "are for segmentation"));
        }
        let level = source.levels()[options.level];
        let size = level.size();
        let tile = |side: u32| options.tile.min(side);
        let firsts = |side: u32| starts(side as usize, options.tile as usize, options.overlap);
        let columns = firsts(size.width);
        let regions: Vec<Region> = firsts(size.height)
            .into_iter()
            .flat_map(|top| columns.iter().map(move |left| [*left as u32, top as u32]))
            .map(|[left, top]| Region { left, top, width: tile(size.width), height: tile(size.height) })
            .collect();
        let start = Instant::now();
        let read = |region: &Region| {
            let is_wanted = source.is_wanted(options.level, *region);
            is_wanted.then(|| source.read(options.level, *region)).transpose()
        };
        let found = read_ahead(regions.iter(), read, |next| {
            let mut found = Vec::new();
            for (index, region) in regions.iter().enumerate() {
                if let Some(pixels) = next()? {
                    let pixels = pixels.to_color(self.card().color, source.path())?;
                    found.extend(self.detect_tile(pixels, *region, size, options)?);
                }
                let (done, tiles) = (index + 1, regions.len());
                let left = start.elapsed().mul_f64((tiles - done) as f64 / done as f64);
                progress(Progress { done, tiles, left });
            }
            Ok::<_, PredictError>(found)
        })?;
        let mut objects = merge(found)?;
        objects.sort_by(|a, b| b.detection.score.total_cmp(&a.detection.score));
        Ok(objects)
    }

    /// The objects of a tile of a picture of some size.
    fn detect_tile(
        &self,
        pixels: RegionPixels,
        tile: Region,
        size: Size,
        options: &LargeOptions,
    ) -> Result<Vec<Found>, PredictError> {
        let RegionPixels { mut image, missing } = pixels;
        let count = tile.width as usize * tile.height as usize;
        let there = count - missing.iter().filter(|missing| **missing).count();
        if (there as f32) < options.skip_below * count as f32 {
            return Ok(Vec::new());
        }
        let channels = image.channels();
        let values = image.as_mut_slice().chunks_exact_mut(channels).zip(&missing);
        values.filter(|(_, missing)| **missing).for_each(|(pixel, _)| pixel.fill(0.0));
        let found = self.detect_values(&image)?;
        Ok(found.into_iter().map(|detection| Found::new(detection, tile, size)).collect())
    }
}

impl Found {
    fn new(detection: Detection, tile: Region, size: Size) -> Self {
        let [x1, y1, x2, y2] = detection.bbox.xyxy();
        let sides = [f64::from(tile.width), f64::from(tile.height)];
        let inner = [
            (tile.left > 0, x1),
            (tile.top > 0, y1),
            (tile.left + tile.width < size.width, sides[0] - x2),
            (tile.top + tile.height < size.height, sides[1] - y2),
        ];
        let margin = inner.into_iter().filter(|(is_inner, _)| *is_inner).map(|(_, distance)| distance);
        let margin = margin.fold(f64::INFINITY, f64::min);
        let [left, top] = [f64::from(tile.left), f64::from(tile.top)];
        let bbox = [x1 + left, y1 + top, x2 + left, y2 + top];
        let runs = detection.mask.as_ref().map_or(Vec::new(), |mask| runs(mask, [tile.left, tile.top]));
        Self { tile, bbox, label: detection.label(), score: detection.score, runs, margin }
    }

    fn is_cut(&self) -> bool {
        self.margin < CUT
    }

    /// Returns true if another tile found the same object, by the window that both tiles see: the intersection there is at least half of
    /// the union, or half of the one that its tile's edge cuts, as networks are less sure of it.
    fn is_same(&self, other: &Self) -> bool {
        let Some(shared) = intersection(self.tile, other.tile) else { return false };
        if self.tile == other.tile || self.label != other.label || area(clip(self.bbox, other.bbox)) <= 0.0 {
            return false;
        }
        let window = [shared.left, shared.top, shared.left + shared.width, shared.top + shared.height].map(f64::from);
        let [both, own, its] = match self.runs.is_empty() || other.runs.is_empty() {
            true => {
                let [own, its] = [self.bbox, other.bbox].map(|bbox| clip(bbox, window));
                [area(clip(own, its)), area(own), area(its)]
            }
            false => {
                let [own, its] = [self, other].map(|found| within(&found.runs, shared));
                [common(&own, &its), pixels(&own), pixels(&its)].map(|pixels| pixels as f64)
            }
        };
        let all = match (self.is_cut(), other.is_cut()) {
            (false, false) => own + its - both,
            (false, true) => its,
            (true, false) => own,
            (true, true) => own.min(its),
        };
        both > 0.0 && both >= SAME * all
    }
}

/// Makes detections of several tiles one where they are of one object.
fn merge(mut found: Vec<Found>) -> Result<Vec<LargeDetection>, PredictError> {
    let rank = |found: &Found| found.margin.min(WHOLE);
    found.sort_by(|a, b| rank(b).total_cmp(&rank(a)).then(b.score.total_cmp(&a.score)));
    let near = neighbors(&found);
    let mut taken = vec![false; found.len()];
    let mut objects = Vec::new();
    for index in 0..found.len() {
        if taken[index] {
            continue;
        }
        taken[index] = true;
        let mut parts = vec![index];
        let mut next = 0;
        while next < parts.len() {
            let part = parts[next];
            for other in &near[part] {
                if !taken[*other] && found[part].is_same(&found[*other]) {
                    taken[*other] = true;
                    parts.push(*other);
                }
            }
            // A whole object has copies and parts only; cut parts lead to further parts.
            if !found[index].is_cut() {
                break;
            }
            next += 1;
        }
        if !found[index].is_cut() {
            parts.truncate(1);
        }
        objects.push(joined(parts.iter().map(|part| &found[*part]))?);
    }
    Ok(objects)
}

/// Finds for each detection those of other tiles whose boxes meet its own, in order.
fn neighbors(found: &[Found]) -> Vec<Vec<usize>> {
    let mut by_left: Vec<usize> = (0..found.len()).collect();
    by_left.sort_by(|a, b| found[*a].bbox[0].total_cmp(&found[*b].bbox[0]));
    let mut near = vec![Vec::new(); found.len()];
    for (at, a) in by_left.iter().enumerate() {
        let meets = |b: &&usize| area(clip(found[*a].bbox, found[**b].bbox)) > 0.0 && found[*a].tile != found[**b].tile;
        let right = by_left[at + 1..].iter().take_while(|b| found[**b].bbox[0] < found[*a].bbox[2]);
        for b in right.filter(meets) {
            near[*a].push(*b);
            near[*b].push(*a);
        }
    }
    near.iter_mut().for_each(|near| near.sort_unstable());
    near
}

/// The object that parts make.
fn joined<'a>(parts: impl Iterator<Item = &'a Found>) -> Result<LargeDetection, PredictError> {
    let parts: Vec<&Found> = parts.collect();
    let hull = parts
        .iter()
        .map(|part| part.bbox)
        .reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]);
    let score = parts.iter().map(|part| part.score).max_by(f32::total_cmp);
    let [x1, y1, x2, y2] = hull.unwrap_or_default();
    let bbox = BBox::new(x1, y1, x2, y2).map_err(DetectionError::Core)?;
    let label = parts.first().map_or(0, |part| part.label);
    let detection = Detection::new(bbox, label, score.unwrap_or(0.0)).map_err(DetectionError::Core)?;
    let mut runs: Vec<ObjectRun> = parts.iter().flat_map(|part| &part.runs).copied().collect();
    runs.sort_unstable_by_key(|run| (run.row, run.start));
    runs.dedup_by(|next, run| {
        let touches = next.row == run.row && next.start <= run.end;
        if touches {
            run.end = run.end.max(next.end);
        }
        touches
    });
    Ok(LargeDetection { detection, runs })
}

fn clip(a: [f64; 4], b: [f64; 4]) -> [f64; 4] {
    [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]
}

fn area([x1, y1, x2, y2]: [f64; 4]) -> f64 {
    (x2 - x1).max(0.0) * (y2 - y1).max(0.0)
}

fn intersection(a: Region, b: Region) -> Option<Region> {
    let span = |first: u32, length: u32, other: u32, other_length: u32| {
        let start = first.max(other);
        (first + length).min(other + other_length).checked_sub(start).filter(|length| *length > 0).map(|l| (start, l))
    };
    let (left, width) = span(a.left, a.width, b.left, b.width)?;
    let (top, height) = span(a.top, a.height, b.top, b.height)?;
    Some(Region { left, top, width, height })
}

/// The runs within a region.
fn within(runs: &[ObjectRun], region: Region) -> Vec<ObjectRun> {
    let (right, bottom) = (region.left + region.width, region.top + region.height);
    let rows = runs.iter().filter(|run| (region.top..bottom).contains(&run.row));
    let clipped = rows.map(|run| ObjectRun { start: run.start.max(region.left), end: run.end.min(right), ..*run });
    clipped.filter(|run| run.start < run.end).collect()
}

fn pixels(runs: &[ObjectRun]) -> u64 {
    runs.iter().map(|run| u64::from(run.end - run.start)).sum()
}

/// Number of pixels that both have.
fn common(a: &[ObjectRun], b: &[ObjectRun]) -> u64 {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut count = 0;
    while let (Some(one), Some(two)) = (a.peek(), b.peek()) {
        if one.row == two.row {
            count += u64::from(one.end.min(two.end).saturating_sub(one.start.max(two.start)));
        }
        if (one.row, one.end) <= (two.row, two.end) {
            a.next()
        } else {
            b.next()
        };
    }
    count
}

#[cfg(test)]
mod tests {
    use segkiln_core::LabelMap;

    use super::*;

    /// Objects of a scene, with one number each: discs of all sizes, some larger than an overlap or a tile.
    fn scene(width: u32, height: u32, touching: bool) -> LabelMap {
        let mut labels = vec![0; (width * height) as usize];
        for k in 0..400u32 {
            // First one that is larger than an overlap.
            let (x, y, radius) = match touching && k == 0 {
                true => (width / 2, height / 2, 70),
                false => (k * 7919 % width, k * 104_729 % height, [6, 9, 14, 22, 70][k as usize % 5]),
            };
            let gap = if touching { 0 } else { 3 };
            let around = |reach: u32| {
                let span = move |at: u32, side: u32| at.saturating_sub(reach)..side.min(at + reach + 1);
                let rows = span(y, height).flat_map(move |v| span(x, width).map(move |u| (u, v)));
                rows.filter(move |(u, v)| u.abs_diff(x).pow(2) + v.abs_diff(y).pow(2) <= reach * reach)
            };
            if around(radius + gap).all(|(u, v)| labels[(v * width + u) as usize] == 0) {
                around(radius).for_each(|(u, v)| labels[(v * width + u) as usize] = k + 1);
            }
        }
        LabelMap::new(width, height, labels).unwrap()
    }

    /// Detections of a perfect network in a tile.
    fn found(scene: &LabelMap, tile: Region, masks: bool) -> Vec<Found> {
        let rows =
            (tile.top..tile.top + tile.height).flat_map(|y| (tile.left..tile.left + tile.width).map(move |x| [x, y]));
        let labels = rows.map(|[x, y]| scene.get(x, y).unwrap()).collect();
        let part = LabelMap::new(tile.width, tile.height, labels).unwrap();
        let of_label = |(label, mask): (u32, Rle)| {
            let detection =
                Detection::new(mask.bbox().unwrap(), 1 + label % 2, 0.5 + (label % 7) as f32 / 20.0).unwrap();
            let detection = if masks { detection.with_mask(mask) } else { detection };
            Found::new(detection, tile, scene.size())
        };
        Rle::of_labels(&part).unwrap().into_iter().map(of_label).collect()
    }

    fn tiles(size: Size, tile: u32, overlap: f32) -> Vec<Region> {
        let firsts = [size.width, size.height].map(|side| starts(side as usize, tile as usize, overlap));
        let places = firsts[1].iter().flat_map(|top| firsts[0].iter().map(move |left| [*left, *top]));
        let region = |[left, top]: [usize; 2]| Region {
            left: left as u32,
            top: top as u32,
            width: tile.min(size.width),
            height: tile.min(size.height),
        };
        places.map(region).collect()
    }

    #[test]
    fn objects_cut_by_tiles_are_found_once_and_whole() {
        for (width, height, tile, overlap) in [(530, 411, 128, 0.25), (530, 411, 96, 0.5), (300, 90, 128, 0.1)] {
            let scene = scene(width, height, true);
            let truth = Rle::of_labels(&scene).unwrap();
            assert!(
                truth.len() > 3
                    && truth.values().any(|mask| mask.bbox().unwrap().width() > f64::from(tile) * f64::from(overlap))
            );
            let all: Vec<Found> = tiles(Size { width, height }, tile, overlap)
                .into_iter()
                .flat_map(|tile| found(&scene, tile, true))
                .collect();
            assert!(all.len() > truth.len());
            let objects = merge(all).unwrap();
            assert_eq!(objects.len(), truth.len(), "{width}x{height}");
            for object in objects {
                let run = object.runs[0];
                let label = scene.get(run.start, run.row).unwrap();
                let detection = object.in_picture(width, height).unwrap();
                assert_eq!(detection.mask.as_ref(), Some(&truth[&label]));
                assert_eq!(Some(detection.bbox), truth[&label].bbox());
                assert_eq!(detection.label(), 1 + label % 2);
            }
        }
    }

    #[test]
    fn boxes_are_joined_without_masks() {
        let scene = scene(530, 411, false);
        let truth = Rle::of_labels(&scene).unwrap();
        let all = tiles((530, 411).into(), 128, 0.25).into_iter().flat_map(|tile| found(&scene, tile, false)).collect();
        let mut boxes: Vec<BBox> = merge(all).unwrap().iter().map(|object| object.detection.bbox).collect();
        let mut expected: Vec<BBox> = truth.values().filter_map(Rle::bbox).collect();
        for boxes in [&mut boxes, &mut expected] {
            boxes.sort_by(|a, b| a.xyxy().partial_cmp(&b.xyxy()).unwrap());
        }
        assert_eq!(boxes, expected);
    }

    #[test]
    fn detections_of_a_level_are_moved_to_the_picture() {
        // A ring with a hole, and a pixel beside it.
        let map = LabelMap::new(5, 4, vec![1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let mask = Rle::of_labels(&map).unwrap()[&1].clone();
        let detection = Detection::new(BBox::new(0.0, 0.5, 5.0, 3.0).unwrap(), 2, 0.75).unwrap().with_mask(mask);
        let found = LargeDetection::from(detection);
        for (width, height) in [(5, 4), (10, 8), (13, 9), (3, 2), (2, 30)] {
            let resized = found.resized(map.size(), Size { width, height }).unwrap();
            assert_eq!((resized.detection.label(), resized.detection.score), (2, 0.75));
            let [x, y] = [f64::from(width) / 5.0, f64::from(height) / 4.0];
            assert_eq!(resized.detection.bbox.xyxy(), [0.0, 0.5 * y, 5.0 * x, 3.0 * y]);
            let source = |at: u32, from: f64, to: u32| ((f64::from(at) + 0.5) * from / f64::from(to)) as u32;
            let expected =
                Rle::from_fn(width, height, |u, v| map.get(source(u, 5.0, width), source(v, 4.0, height)) == Some(1));
            assert_eq!(resized.in_picture(width, height).unwrap().mask, Some(expected.unwrap()), "{width}x{height}");
        }
        // Boxes alone stay boxes.
        let plain = LargeDetection { runs: Vec::new(), ..found };
        let twice = plain.resized((5, 4).into(), (10, 8).into()).unwrap();
        assert_eq!((twice.detection.bbox.xyxy(), twice.runs.len()), ([0.0, 1.0, 10.0, 6.0], 0));
        assert_eq!(twice.object(1).unwrap().area(), 50);
    }

    #[test]
    fn a_part_over_two_objects_loses_neither() {
        let size = Size { width: 200, height: 100 };
        let [one, two] = [0, 90].map(|left| Region { left, top: 0, width: 110, height: 100 });
        let of = |tile: Region, x1: f64, x2: f64, score| {
            let bbox = BBox::new(x1 - f64::from(tile.left), 40.0, x2 - f64::from(tile.left), 60.0).unwrap();
            Found::new(Detection::new(bbox, 1, score).unwrap(), tile, size)
        };
        // Two objects side by side, which the other tile takes for one that its edge cuts.
        let all = vec![of(one, 60.0, 92.0, 0.9), of(one, 93.0, 107.0, 0.8), of(two, 90.0, 107.0, 0.95)];
        let objects = merge(all).unwrap();
        assert_eq!(objects.len(), 2, "{objects:?}");
    }
}
