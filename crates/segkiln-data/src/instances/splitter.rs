//! Components that are split as they become complete, and the rows that wait for them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use rayon::prelude::*;

use segkiln_core::Size;

use super::{Connectivity, WatershedOptions, components::Run, split};
use crate::Result;

/// Pixels of one object beside each other in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub start: u32,
    pub end: u32,
    pub class: u32,
    /// The component and the part of it.
    pub object: [u32; 2],
}

/// Rows after which components that are complete are split, all at once on rayon's threads.
const BATCH: u32 = 64;

/// A component that is not complete.
struct Open {
    class: u32,
    /// First and last row, first column and column after the last.
    rows: [u32; 2],
    columns: [u32; 2],
    /// Row, first column, column after the last.
    runs: Vec<[u32; 3]>,
}

#[derive(Default)]
struct Row {
    parts: Vec<Part>,
    /// Components that are not split yet.
    waiting: usize,
}

/// Splits components by a watershed. Rows come out when all of their components are split. A component stays whole if it is too large;
/// where the rows that wait are too many, those stay whole that they wait for, first the one that began first.
pub(super) struct Splitter {
    options: WatershedOptions,
    connectivity: Connectivity,
    size: Size,
    /// Most runs and parts that are held.
    most: usize,
    open: BTreeMap<u32, Open>,
    /// Components that stay whole, each with the last row that it was seen in.
    whole: HashMap<u32, u32>,
    complete: Vec<(u32, Open)>,
    rows: VecDeque<Row>,
    /// Number of the first of these rows.
    first: u32,
    /// Runs of components that are not split yet, and parts in rows that wait.
    held: usize,
    left_whole: u32,
}

impl Splitter {
    pub fn new(options: WatershedOptions, connectivity: Connectivity, size: Size, most_bytes: u64) -> Self {
        Self {
            options,
            connectivity,
            size,
            most: usize::try_from(most_bytes / size_of::<Part>() as u64).unwrap_or(usize::MAX),
            open: BTreeMap::new(),
            whole: HashMap::new(),
            complete: Vec::new(),
            rows: VecDeque::new(),
            first: 0,
            held: 0,
            left_whole: 0,
        }
    }

    /// Components that stayed whole because of their size.
    pub fn left_whole(&self) -> u32 {
        self.left_whole
    }

    /// Takes the next row, and hands over those that are complete.
    pub fn push(&mut self, y: u32, runs: &[Run], mut emit: impl FnMut(u32, &[Part]) -> Result<()>) -> Result<()> {
        let mut row = Row::default();
        for run in runs {
            if let Some(last) = self.whole.get_mut(&run.component) {
                *last = y;
                row.parts.push(whole(run.start, run.end, run.class, run.component));
                self.held += 1;
                continue;
            }
            let open = self.open.entry(run.component).or_insert_with(|| {
                row.waiting += 1;
                Open { class: run.class, rows: [y, y], columns: [run.start, run.end], runs: Vec::new() }
            });
            if open.rows[1] < y {
                row.waiting += 1;
                open.rows[1] = y;
            }
            open.columns = [open.columns[0].min(run.start), open.columns[1].max(run.end)];
            open.runs.push([y, run.start, run.end]);
            self.held += 1;
        }
        self.rows.push_back(row);
        self.whole.retain(|_, last| *last == y);
        let done: Vec<u32> = self.open.iter().filter(|(_, open)| open.rows[1] < y).map(|(key, _)| *key).collect();
        for component in done {
            self.complete.extend(self.open.remove(&component).map(|open| (component, open)));
        }
        let too_large = |open: &&Open| {
            let side = |[first, end]: [u32; 2]| u64::from(end - first);
            side(open.columns) * (side(open.rows) + 1) > self.options.max_window
        };
        let large: Vec<u32> =
            self.open.iter().filter(|(_, open)| too_large(open)).map(|(component, _)| *component).collect();
        large.into_iter().for_each(|component| self.keep_whole(component, y));
        if self.held > self.most || y % BATCH == BATCH - 1 || y + 1 == self.size.height {
            if y + 1 == self.size.height {
                self.complete.extend(std::mem::take(&mut self.open));
            }
            self.split_complete();
        }
        self.emit_ready(&mut emit)?;
        while self.held > self.most
            && let Some(component) = self.open.keys().next().copied()
        {
            self.keep_whole(component, y);
            self.emit_ready(&mut emit)?;
        }
        Ok(())
    }

    /// Hands over the first rows that wait for no component.
    fn emit_ready(&mut self, emit: &mut impl FnMut(u32, &[Part]) -> Result<()>) -> Result<()> {
        while let Some(mut row) = self.rows.pop_front_if(|row| row.waiting == 0) {
            row.parts.sort_unstable_by_key(|part| part.start);
            emit(self.first, &row.parts)?;
            self.first += 1;
            self.held -= row.parts.len();
        }
        Ok(())
    }

    fn keep_whole(&mut self, component: u32, y: u32) {
        let Some(open) = self.open.remove(&component) else { return };
        self.whole.insert(component, y);
        self.left_whole += 1;
        let parts = open.runs.iter().map(|[y, start, end]| (*y, whole(*start, *end, open.class, component)));
        self.resolve(&open, parts.collect());
    }

    /// Puts the parts of a component into their rows.
    fn resolve(&mut self, open: &Open, parts: Vec<(u32, Part)>) {
        self.held = self.held + parts.len() - open.runs.len();
        for y in open.rows[0]..=open.rows[1] {
            self.rows[(y - self.first) as usize].waiting -= 1;
        }
        for (y, part) in parts {
            self.rows[(y - self.first) as usize].parts.push(part);
        }
    }

    fn split_complete(&mut self) {
        let complete = std::mem::take(&mut self.complete);
        let parts: Vec<_> = complete.par_iter().map(|(component, open)| self.parts(*component, open)).collect();
        for ((_, open), parts) in complete.iter().zip(parts) {
            self.resolve(open, parts);
        }
    }

    /// The parts of a component, each with its row.
    fn parts(&self, component: u32, open: &Open) -> Vec<(u32, Part)> {
        // Around it are pixels of other components, but beyond the picture's border is nothing.
        let left = open.columns[0].saturating_sub(1);
        let top = open.rows[0].saturating_sub(1);
        let width = ((open.columns[1] + 1).min(self.size.width) - left) as usize;
        let height = ((open.rows[1] + 2).min(self.size.height) - top) as usize;
        let place = |y: u32, x: u32| (y - top) as usize * width + (x - left) as usize;
        let mut mask = vec![false; width * height];
        for [y, start, end] in &open.runs {
            mask[place(*y, *start)..place(*y, *end - 1) + 1].fill(true);
        }
        let labels = split(&mask, width, self.connectivity, self.options.min_distance);
        let mut parts = Vec::new();
        for [y, start, end] in &open.runs {
            let mut start = *start;
            for pixels in labels[place(*y, start)..place(*y, *end - 1) + 1].chunk_by(|a, b| a == b) {
                let end = start + pixels.len() as u32;
                parts.push((*y, Part { start, end, class: open.class, object: [component, pixels[0]] }));
                start = end;
            }
        }
        parts
    }
}

/// A part of a component that is not split.
pub(super) fn whole(start: u32, end: u32, class: u32, component: u32) -> Part {
    Part { start, end, class, object: [component, 0] }
}
