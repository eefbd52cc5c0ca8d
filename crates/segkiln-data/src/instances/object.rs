//! An object and its measures.

use segkiln_core::{CoreError, Rle, Size};

use super::{Polygon, polygon};
use crate::regions::Region;

/// Pixels of an object beside each other in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRun {
    /// Row.
    pub row: u32,
    /// First column.
    pub start: u32,
    /// Column after the last.
    pub end: u32,
}

/// An object of a map, with measures as scikit-image's `regionprops` has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Number, from 1.
    pub number: u32,
    /// Class, at least 1.
    pub class: u32,
    /// Its pixels, from the top and from the left.
    pub(super) runs: Vec<ObjectRun>,
    /// Mean of each band of the picture over the pixels that have data; empty if there is no picture, or no data.
    pub means: Vec<f64>,
    /// Confidence of a detector, from 0 to 1, if it is one's.
    pub score: Option<f32>,
}

impl Object {
    /// An object of a picture. None if it has no pixel, or its runs are empty, overlap, are not in order (from the top, and from the
    /// left) or lie in row 2³² - 1.
    pub fn new(number: u32, class: u32, runs: Vec<ObjectRun>) -> Option<Self> {
        let in_order = |pair: &[ObjectRun]| (pair[0].row, pair[0].end) <= (pair[1].row, pair[1].start);
        let are_valid = runs.iter().all(|run| run.start < run.end && run.row < u32::MAX)
            && runs.windows(2).all(|pair| pair[0].row < pair[1].row || in_order(pair));
        (are_valid && !runs.is_empty()).then_some(Self { number, class, runs, means: Vec::new(), score: None })
    }

    /// Adds a detector's confidence.
    #[must_use]
    pub fn with_score(mut self, score: f32) -> Self {
        self.score = Some(score);
        self
    }

    /// Its pixels, from the top and from the left; there is at least one.
    pub fn runs(&self) -> &[ObjectRun] {
        &self.runs
    }

    /// Number of pixels.
    pub fn area(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.end - run.start)).sum()
    }

    /// Mean column and row of the pixels, counted from the middle of the first pixel: `[x, y]`.
    pub fn centroid(&self) -> [f64; 2] {
        let [mut x, mut y] = [0u128; 2];
        for ObjectRun { row, start, end } in &self.runs {
            let count = u128::from(end - start);
            // Twice, so that it is whole.
            x += count * (u128::from(*start) + u128::from(*end) - 1);
            y += 2 * count * u128::from(*row);
        }
        [x, y].map(|sum| sum as f64 / (2.0 * self.area() as f64))
    }

    /// Smallest rectangle around it.
    pub fn bbox(&self) -> Region {
        let left = self.runs.iter().map(|run| run.start).min().unwrap_or(0);
        let right = self.runs.iter().map(|run| run.end).max().unwrap_or(0);
        let (top, bottom) = self.runs.first().zip(self.runs.last()).map_or((0, 0), |(a, b)| (a.row, b.row + 1));
        Region { left, top, width: right - left, height: bottom - top }
    }

    /// Length of the border through the middles of the outermost pixels, in pixels; diagonal steps are √2 long (Benkrid and Crookes,
    /// 2000). It is `regionprops`'s `perimeter`: the borders of holes count.
    pub fn perimeter(&self) -> f64 {
        let Region { left, top, width, height } = self.bbox();
        let across = width as usize + 2;
        // Three rows of the mask and of its border around the row at hand, with a pixel beside each end.
        let mut masks = [const { Vec::new() }; 3].map(|_: Vec<bool>| vec![false; across]);
        let mut borders = masks.clone();
        let mut runs = self.runs.iter().peekable();
        // How often each neighborhood occurs.
        let mut counts = [0u64; 50];
        for y in top..top + height + 2 {
            masks.rotate_left(1);
            masks[2].fill(false);
            while let Some(run) = runs.next_if(|run| run.row == y) {
                masks[2][(run.start - left + 1) as usize..(run.end - left + 1) as usize].fill(true);
            }
            borders.rotate_left(1);
            for x in 1..across - 1 {
                let inner = masks[0][x] && masks[2][x] && masks[1][x - 1] && masks[1][x + 1];
                borders[2][x] = masks[1][x] && !inner;
            }
            for x in (1..across - 1).filter(|x| borders[1][*x]) {
                let beside = [borders[0][x], borders[2][x], borders[1][x - 1], borders[1][x + 1]];
                let corners = [borders[0][x - 1], borders[0][x + 1], borders[2][x - 1], borders[2][x + 1]];
                let number = |pixels: [bool; 4]| pixels.into_iter().filter(|pixel| *pixel).count();
                counts[1 + 2 * number(beside) + 10 * number(corners)] += 1;
            }
        }
        let sum = |of: &[usize]| of.iter().map(|index| counts[*index]).sum::<u64>() as f64;
        let diagonal = 2f64.sqrt();
        sum(&[5, 7, 15, 17, 25, 27]) + diagonal * sum(&[21, 33]) + (1.0 + diagonal) / 2.0 * sum(&[13, 23])
    }

    /// Outlines along the edges of pixels, with holes. Parts that touch only at corners are polygons of their own, so that no ring
    /// touches itself.
    pub fn polygons(&self) -> Vec<Polygon> {
        polygon::trace(&self.runs)
    }

    /// The object's mask in a picture of this size.
    ///
    /// # Errors
    /// [`CoreError::MaskSize`] if that has more than 2³² - 1 pixels, [`CoreError::InstanceMask`] if the object is not within it.
    pub fn to_rle(&self, width: u32, height: u32) -> Result<Rle, CoreError> {
        width.checked_mul(height).ok_or(CoreError::MaskSize { width, height })?;
        let bbox = self.bbox();
        let image = Size { width, height };
        if !bbox.is_within(image) {
            let mask = Size { width: bbox.left + bbox.width, height: bbox.top + bbox.height };
            return Err(CoreError::InstanceMask { index: self.number as usize, mask, image });
        }
        // First and last row of the run that each column is in.
        let mut columns: Vec<Option<[u32; 2]>> = vec![None; bbox.width as usize];
        let mut found: Vec<[u32; 3]> = Vec::new();
        for ObjectRun { row, start, end } in &self.runs {
            for x in *start..*end {
                match &mut columns[(x - bbox.left) as usize] {
                    Some([_, last]) if *last + 1 == *row => *last = *row,
                    column => {
                        found.extend(column.replace([*row, *row]).map(|[first, last]| [x, first, last]));
                    }
                }
            }
        }
        let open = (bbox.left..).zip(columns).filter_map(|(x, column)| column.map(|[first, last]| [x, first, last]));
        found.extend(open);
        found.sort_unstable();
        let mut end = 0;
        let mut runs = Vec::with_capacity(2 * found.len() + 1);
        for [x, first, last] in found {
            let start = x * height + first;
            runs.push((start - end, false));
            runs.push((last + 1 - first, true));
            end = start + last + 1 - first;
        }
        runs.push((width * height - end, false));
        Rle::from_runs(width, height, runs)
    }
}
