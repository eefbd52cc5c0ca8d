//! Steps of cleaning, by rows: a map of any size is read two or three times, or once with the rows around a disc.

use std::cell::RefCell;

use rayon::prelude::*;
use segkiln_core::Size;

use super::CleaningStep;
use crate::{
    DataError, Limits, Result,
    instances::{Components, Connectivity, LabelRows, distance_squared},
};

/// Rows and columns that discs are moved over at once, but for those around them.
const BAND: u32 = 256;
const BLOCK: usize = 1024;

/// Cleans a map by rows, and hands each over.
pub(super) fn clean<M: LabelRows + ?Sized>(
    map: &M,
    class: u32,
    step: CleaningStep,
    limits: &Limits,
    mut row: impl FnMut(&[u32]) -> Result<()>,
) -> Result<()> {
    if class == 0 {
        return Err(DataError::option("steps", super::BACKGROUND));
    }
    let size = map.size();
    if size.width == 0 || size.height == 0 {
        return Ok(());
    }
    let inside = ClassRows::new(map, class, true);
    match step {
        CleaningStep::MinArea(least) => {
            let (components, areas) = areas(&inside, limits)?;
            remove(&inside, &components, |component| areas[component] < least, row)
        }
        CleaningStep::Largest => {
            let (components, areas) = areas(&inside, limits)?;
            let largest = areas.iter().enumerate().rev().max_by_key(|(_, area)| **area).map(|(component, _)| component);
            remove(&inside, &components, |component| Some(component) != largest, row)
        }
        CleaningStep::FillHoles => {
            let outside = ClassRows::new(map, class, false);
            let components = of_class(&outside, Connectivity::Four, size_of::<bool>(), limits)?;
            let mut is_open = vec![false; components.count() as usize];
            components.each_row(&outside, |y, runs| {
                for run in runs {
                    let at_edge = y == 0 || y + 1 == size.height || run.start == 0 || run.end == size.width;
                    is_open[run.component as usize - 1] |= at_edge;
                }
                Ok(())
            })?;
            components.each_row(&outside, |y, runs| {
                outside.change(y, |labels| {
                    for run in runs.iter().filter(|run| !is_open[run.component as usize - 1]) {
                        let hole = labels[run.start as usize..run.end as usize].iter_mut();
                        hole.filter(|label| **label == 0).for_each(|label| *label = class);
                    }
                });
                row(&outside.changed.borrow())
            })
        }
        CleaningStep::Opening(radius) => with_discs(map, class, radius, true, limits, &mut row),
        CleaningStep::Closing(radius) => with_discs(map, class, radius, false, limits, &mut row),
    }
}

/// The pixels of a map that are of a class, or those that are not, as label 1; the map's own labels of the rows at hand stay.
struct ClassRows<'a, M: ?Sized> {
    map: &'a M,
    class: u32,
    is_inside: bool,
    /// First row, and labels.
    rows: RefCell<(u32, Vec<u32>)>,
    changed: RefCell<Vec<u32>>,
}

impl<'a, M: LabelRows + ?Sized> ClassRows<'a, M> {
    fn new(map: &'a M, class: u32, is_inside: bool) -> Self {
        Self { map, class, is_inside, rows: RefCell::default(), changed: RefCell::default() }
    }

    /// Changes a copy of a row that was read.
    fn change(&self, y: u32, change: impl FnOnce(&mut [u32])) {
        let (rows, mut changed) = (self.rows.borrow(), self.changed.borrow_mut());
        let width = self.map.size().width as usize;
        changed.clear();
        changed.extend_from_slice(&rows.1[(y - rows.0) as usize * width..][..width]);
        change(&mut changed);
    }
}

impl<M: LabelRows + ?Sized> LabelRows for ClassRows<'_, M> {
    fn path(&self) -> &std::path::Path {
        self.map.path()
    }

    fn size(&self) -> Size {
        self.map.size()
    }

    fn rows(&self, top: u32, count: u32) -> Result<Vec<u32>> {
        let labels = self.map.rows(top, count)?;
        let mask = labels.iter().map(|label| u32::from((*label == self.class) == self.is_inside)).collect();
        *self.rows.borrow_mut() = (top, labels);
        Ok(mask)
    }
}

/// Components of a mask, of which so many bytes each are held beside the table.
fn of_class<M: LabelRows + ?Sized>(
    mask: &ClassRows<'_, M>,
    connectivity: Connectivity,
    bytes: usize,
    limits: &Limits,
) -> Result<Components> {
    let components = Components::of(mask, connectivity, limits)?;
    if u64::from(components.count()) * (4 + bytes as u64) > limits.max_bytes {
        let what = "its connected components".into();
        return Err(DataError::Held { path: mask.path().into(), what, limit: limits.max_bytes });
    }
    Ok(components)
}

/// Components that are connected over corners too, and the pixels of each.
fn areas<M: LabelRows + ?Sized>(mask: &ClassRows<'_, M>, limits: &Limits) -> Result<(Components, Vec<u64>)> {
    let components = of_class(mask, Connectivity::Eight, size_of::<u64>(), limits)?;
    let mut areas = vec![0; components.count() as usize];
    components.each_row(mask, |_, runs| {
        runs.iter().for_each(|run| areas[run.component as usize - 1] += u64::from(run.end - run.start));
        Ok(())
    })?;
    Ok((components, areas))
}

/// Hands over rows without some components, of which those counted from 0 are asked for.
fn remove<M: LabelRows + ?Sized>(
    mask: &ClassRows<'_, M>,
    components: &Components,
    goes: impl Fn(usize) -> bool,
    mut row: impl FnMut(&[u32]) -> Result<()>,
) -> Result<()> {
    components.each_row(mask, |y, runs| {
        mask.change(y, |labels| {
            for run in runs.iter().filter(|run| goes(run.component as usize - 1)) {
                labels[run.start as usize..run.end as usize].fill(0);
            }
        });
        row(&mask.changed.borrow())
    })
}

/// Opens or closes a class with discs: what becomes of a pixel depends on those up to two radii away.
fn with_discs<M: LabelRows + ?Sized>(
    map: &M,
    class: u32,
    radius: u32,
    opens: bool,
    limits: &Limits,
    row: &mut impl FnMut(&[u32]) -> Result<()>,
) -> Result<()> {
    let Size { width, height } = map.size();
    let (columns, margin) = (width as usize, radius.saturating_mul(2));
    // Of large discs as much as there is around them, so that no pixel is looked at often.
    let band = BAND.max(margin);
    let block = BLOCK.max(margin as usize);
    // Rows from `first` on.
    let (mut first, mut end, mut labels) = (0, 0, Vec::new());
    for top in (0..height).step_by(band as usize) {
        let bottom = height.min(top.saturating_add(band));
        let (from, to) = (top.saturating_sub(margin), height.min(bottom.saturating_add(margin)));
        if u64::from(to - from) * u64::from(width) * 4 > limits.max_bytes {
            let what = format!("what {} rows around a disc of radius {radius} need", to - from);
            return Err(DataError::Held { path: map.path().into(), what, limit: limits.max_bytes });
        }
        labels.drain(..(from - first) as usize * columns);
        first = from;
        while end < to {
            let count = BAND.min(to - end);
            labels.extend(map.rows(end, count)?);
            end += count;
        }
        let blocks: Vec<Vec<bool>> = (0..columns)
            .into_par_iter()
            .step_by(block)
            .map(|left| {
                let right = columns.min(left + block);
                let around = left.saturating_sub(margin as usize)..columns.min(right.saturating_add(margin as usize));
                let mask: Vec<bool> = labels
                    .chunks_exact(columns)
                    .flat_map(|row| row[around.clone()].iter().map(|label| *label == class))
                    .collect();
                let (across, radius) = (around.len(), u64::from(radius));
                let changed = match opens {
                    true => dilated(&eroded(&mask, across, radius), across, radius),
                    false => eroded(&dilated(&mask, across, radius), across, radius),
                };
                let inner = changed.chunks_exact(across).skip((top - first) as usize).take((bottom - top) as usize);
                inner.flat_map(|row| row[left - around.start..right - around.start].iter().copied()).collect()
            })
            .collect();
        let rows = labels.chunks_exact(columns).skip((top - first) as usize).take((bottom - top) as usize);
        for (index, labels) in rows.enumerate() {
            let mut labels = labels.to_vec();
            for (labels, block) in labels.chunks_mut(block).zip(&blocks) {
                let first = index * labels.len();
                for (label, is_kept) in labels.iter_mut().zip(&block[first..]) {
                    match (*label == class, *is_kept) {
                        (true, false) => *label = 0,
                        (false, true) if *label == 0 => *label = class,
                        _ => {}
                    }
                }
            }
            row(&labels)?;
        }
    }
    Ok(())
}

/// Pixels around which a disc fits into the mask, which goes on beyond the picture.
fn eroded(mask: &[bool], width: usize, radius: u64) -> Vec<bool> {
    distance_squared(mask, width).into_iter().map(|distance| distance > radius.pow(2)).collect()
}

/// Pixels of discs around those of the mask.
fn dilated(mask: &[bool], width: usize, radius: u64) -> Vec<bool> {
    let outside: Vec<bool> = mask.iter().map(|inside| !inside).collect();
    distance_squared(&outside, width).into_iter().map(|distance| distance <= radius.pow(2)).collect()
}

#[cfg(test)]
mod tests {
    use segkiln_core::LabelMap;

    use super::*;
    use crate::instances::{InstanceOptions, Object, find_objects};

    /// Discs of class 1, some of which others cut out again, within and beyond blocks, and noise of class 2.
    fn noise(width: u32, height: u32) -> LabelMap {
        let mut labels = vec![0; (width * height) as usize];
        for k in 0..600u32 {
            let (x, y, radius) = (k * 7919 % width, k * 104_729 % height, [3, 7, 12, 30][k as usize % 4]);
            let span = |at: u32, side: u32| at.saturating_sub(radius)..side.min(at + radius + 1);
            for (u, v) in span(y, height).flat_map(|v| span(x, width).map(move |u| (u, v))) {
                if u.abs_diff(x).pow(2) + v.abs_diff(y).pow(2) <= radius.pow(2) {
                    labels[(v * width + u) as usize] = u32::from(k % 3 > 0);
                }
            }
        }
        for (at, label) in labels.iter_mut().enumerate().filter(|(at, _)| at * at % 97 == 4) {
            *label = if at % 5 == 0 { 2 } else { 1 - (*label).min(1) };
        }
        LabelMap::new(width, height, labels).unwrap()
    }

    fn cleaned(map: &LabelMap, step: CleaningStep, limits: &Limits) -> Result<Vec<u32>> {
        let mut labels = Vec::new();
        clean(map, 1, step, limits, |row| {
            labels.extend_from_slice(row);
            Ok(())
        })?;
        Ok(labels)
    }

    /// The step's definition, on the whole map.
    fn expected(map: &LabelMap, step: CleaningStep) -> Vec<u32> {
        let (width, height) = (map.width() as usize, map.height());
        let mask: Vec<bool> = map.as_slice().iter().map(|label| *label == 1).collect();
        let objects = |mask: &[bool], connectivity| {
            let labels = mask.iter().map(|inside| u32::from(*inside)).collect();
            let map = LabelMap::new(width as u32, height, labels).unwrap();
            let mut objects: Vec<Object> = Vec::new();
            let options = InstanceOptions { connectivity, ..InstanceOptions::default() };
            let mut object = |object| {
                objects.push(object);
                Ok(())
            };
            find_objects(&map, None, &options, |_| Ok(()), Some(&mut object)).unwrap();
            objects
        };
        let filled = |objects: &[&Object]| {
            let mut filled = vec![false; mask.len()];
            for run in objects.iter().flat_map(|object| object.runs()) {
                filled[run.row as usize * width..][run.start as usize..run.end as usize].fill(true);
            }
            filled
        };
        let kept = match step {
            CleaningStep::MinArea(least) => {
                let objects = objects(&mask, Connectivity::Eight);
                filled(&objects.iter().filter(|object| object.area() >= least).collect::<Vec<_>>())
            }
            CleaningStep::Largest => {
                let objects = objects(&mask, Connectivity::Eight);
                let best = objects.iter().max_by_key(|object| (object.area(), std::cmp::Reverse(object.number)));
                filled(&best.into_iter().collect::<Vec<_>>())
            }
            CleaningStep::FillHoles => {
                let outside: Vec<bool> = mask.iter().map(|inside| !inside).collect();
                let parts = objects(&outside, Connectivity::Four);
                let holes = parts.iter().filter(|part| {
                    let bbox = part.bbox();
                    let (right, bottom) = (bbox.left + bbox.width, bbox.top + bbox.height);
                    bbox.left > 0 && bbox.top > 0 && right < width as u32 && bottom < height
                });
                let holes = filled(&holes.collect::<Vec<_>>());
                mask.iter().zip(holes).map(|(inside, hole)| *inside || hole).collect()
            }
            CleaningStep::Opening(radius) => dilated(&eroded(&mask, width, radius.into()), width, radius.into()),
            CleaningStep::Closing(radius) => eroded(&dilated(&mask, width, radius.into()), width, radius.into()),
        };
        let labels = map.as_slice().iter().zip(kept).map(|(label, kept)| match (*label, kept) {
            (1, false) => 0,
            (0, true) => 1,
            (label, _) => label,
        });
        labels.collect()
    }

    #[test]
    fn rows_are_those_of_the_whole_map() {
        for (width, height) in [(1300, 700), (90, 1100), (2100, 40)] {
            let map = noise(width, height);
            for step in [
                CleaningStep::MinArea(40),
                CleaningStep::Largest,
                CleaningStep::FillHoles,
                CleaningStep::Opening(3),
                CleaningStep::Closing(4),
                CleaningStep::Opening(0),
                CleaningStep::Closing(150),
                CleaningStep::Opening(u32::MAX),
            ] {
                let found = cleaned(&map, step, &Limits::default()).unwrap();
                assert!(found == expected(&map, step), "{step:?} of {width}x{height}");
                assert!(found != map.as_slice() || step == CleaningStep::Opening(0), "{step:?} changes nothing");
            }
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let map = noise(1300, 700);
        let limits = Limits { max_bytes: 4 * 1300 * 290, ..Limits::default() };
        // 256 rows and 16 on either side fit, and all steps by components.
        assert!(cleaned(&map, CleaningStep::Closing(8), &limits).is_ok());
        let error = cleaned(&map, CleaningStep::Closing(12), &limits).unwrap_err().to_string();
        assert!(error.contains("disc of radius 12") && error.contains("1508000 bytes"), "{error}");
        assert!(cleaned(&map, CleaningStep::FillHoles, &limits).is_ok());
        let limits = Limits { max_bytes: 2000, ..Limits::default() };
        let error = cleaned(&map, CleaningStep::Largest, &limits).unwrap_err().to_string();
        assert!(error.contains("connected components"), "{error}");
    }
}
