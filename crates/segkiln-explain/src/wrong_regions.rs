//! Analysis of errors: the classes that pixels were taken for, and small changes of the image that mend them.

use std::collections::BTreeMap;

use segkiln_core::{LabelMap, Size};
use segkiln_data::Image;
use segkiln_models::SegmentationNetwork;

use crate::{Attacked, ExplainError, Goal, Map, Result, SegmentationSubject, SmallestChange, Subject};

/// Connected pixels of one class that a network takes for another one.
#[derive(Debug, Clone, PartialEq)]
pub struct WrongRegion {
    /// Annotated class.
    pub truth: u32,
    /// Class that the network gives.
    pub taken_for: u32,
    /// The pixels: 1 in them, else 0.
    pub mask: LabelMap,
    /// Number of pixels.
    pub pixels: usize,
    /// The small change that gives the search's share of them their class; none if the search found none.
    pub mended: Option<Mended>,
}

/// A change that mends a region.
#[derive(Debug, Clone, PartialEq)]
pub struct Mended {
    /// The changed image and the size of the change.
    pub attacked: Attacked,
    /// Largest change of each pixel's values, in 255ths.
    pub change: Map,
}

/// Finds the regions that a network gets wrong, the largest first and at most `most`, and a small change that mends each: a region that
/// needs a tiny one lies near the network's boundary between the classes; where the search finds none, the error is not one of a narrow margin.
///
/// Regions are joined at sides and corners. The annotated labels that the network's classes ignore do not count.
///
/// # Errors
/// If the labels or an option of the search do not fit.
pub fn wrong_regions<M: SegmentationNetwork>(
    subject: &SegmentationSubject<M>,
    image: &Image,
    labels: &LabelMap,
    most: usize,
    search: &SmallestChange,
) -> Result<Vec<WrongRegion>> {
    let (found, expected) = (labels.size(), image.size());
    if found != expected {
        return Err(ExplainError::Size { what: "the map of labels", found, expected });
    }
    let predicted = subject.predict(&subject.input(image)?)?;
    let classes = subject.classes();
    let is_wrong = |pixel: usize| {
        let truth = labels.as_slice()[pixel];
        let counts = truth != Goal::IGNORED && classes.ignore_index() != Some(truth);
        (counts && predicted.as_slice()[pixel] != truth).then(|| (truth, predicted.as_slice()[pixel]))
    };
    let mut regions: Vec<((u32, u32), Vec<usize>)> = connected(expected, is_wrong);
    regions.sort_by_key(|(_, pixels)| std::cmp::Reverse(pixels.len()));
    regions.truncate(most);
    let region = |((truth, taken_for), pixels): ((u32, u32), Vec<usize>)| -> Result<WrongRegion> {
        let mut mask = LabelMap::filled(labels.width(), labels.height(), 0);
        let mut goal = LabelMap::filled(labels.width(), labels.height(), Goal::IGNORED);
        for pixel in &pixels {
            mask.as_mut_slice()[*pixel] = 1;
            goal.as_mut_slice()[*pixel] = truth;
        }
        let mended = search.find(subject, image, &Goal::Toward(goal))?;
        let mended =
            mended.map(|attacked| Ok::<_, ExplainError>(Mended { change: change(image, &attacked.image)?, attacked }));
        Ok(WrongRegion { truth, taken_for, mask, pixels: pixels.len(), mended: mended.transpose()? })
    };
    regions.into_iter().map(region).collect()
}

/// Largest change of each pixel's values, in 255ths.
fn change(before: &Image, after: &Image) -> Result<Map> {
    let channels = before.channels();
    let pixels = before.as_slice().chunks_exact(channels).zip(after.as_slice().chunks_exact(channels));
    let largest = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| (a - b).abs() * 255.0).fold(0.0, f32::max);
    Map::new([before.height() as usize, before.width() as usize], pixels.map(largest).collect(), false)
}

/// Connected pixels of equal kinds, joined at sides and corners, in the order of their first pixels.
fn connected<K: PartialEq + Copy>(
    Size { width, height }: Size,
    kind: impl Fn(usize) -> Option<K>,
) -> Vec<(K, Vec<usize>)> {
    let [width, height] = [width, height].map(|side| side as usize);
    let mut left: BTreeMap<usize, K> = (0..width * height).filter_map(|pixel| Some((pixel, kind(pixel)?))).collect();
    let mut regions = Vec::new();
    while let Some((first, kind)) = left.pop_first() {
        let (mut pixels, mut next) = (Vec::new(), vec![first]);
        while let Some(pixel) = next.pop() {
            pixels.push(pixel);
            let (x, y) = (pixel % width, pixel / width);
            for row in y.saturating_sub(1)..(y + 2).min(height) {
                for column in x.saturating_sub(1)..(x + 2).min(width) {
                    let beside = row * width + column;
                    if left.get(&beside) == Some(&kind) {
                        left.remove(&beside);
                        next.push(beside);
                    }
                }
            }
        }
        pixels.sort_unstable();
        regions.push((kind, pixels));
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_join_at_corners_and_keep_kinds_apart() {
        // 1 . 2
        // . 1 2
        // 1 . .
        let kinds = [1, 0, 2, 0, 1, 2, 1, 0, 0];
        let found = connected((3, 3).into(), |pixel| Some(kinds[pixel]).filter(|kind| *kind > 0));
        assert_eq!(found, [(1, vec![0, 4, 6]), (2, vec![2, 5])]);
    }
}
