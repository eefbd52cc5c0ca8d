//! Connected components by runs of pixels and union-find.

use super::{Connectivity, LabelRows, each_row, held};
use crate::{Limits, Result};

/// Pixels of one class beside each other in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// First column.
    pub start: u32,
    /// Column after the last.
    pub end: u32,
    /// Class, not 0.
    pub class: u32,
    /// Component.
    pub component: u32,
}

/// The connected components of a class map, numbered from 1 in the order of their first pixels, row by row, as scikit-image's `label`
/// numbers them. Pixels of class 0 are none; pixels of different classes are never connected.
///
/// A pass over the map gives a table with 4 bytes for each run that no run above it touches; a second pass finds the runs again and
/// reads their components there (Rosenfeld and Pfaltz, 1966).
#[derive(Debug, Clone)]
pub struct Components {
    connectivity: Connectivity,
    /// Number of the component of each provisional one, in the order in which the runs come.
    numbers: Vec<u32>,
    count: u32,
}

impl Components {
    /// Finds the components of a map.
    ///
    /// # Errors
    /// As [`LabelRows::rows`]; [`DataError::Held`](crate::DataError::Held) if the table is larger than the limits.
    pub fn of<M: LabelRows + ?Sized>(map: &M, connectivity: Connectivity, limits: &Limits) -> Result<Self> {
        let mut scanner = Scanner::new(connectivity);
        let mut parents: Vec<u32> = Vec::new();
        let most = (limits.max_bytes / 4).min(u64::from(u32::MAX)) as usize;
        each_row(map, |_, row| {
            scanner.scan(row, |touching| {
                let mut component = None;
                for other in touching {
                    let other = root(&mut parents, other.component);
                    component = Some(match component {
                        None => other,
                        Some(component) => {
                            // The smaller is the one that came first.
                            let (first, second) = (other.min(component), other.max(component));
                            parents[second as usize] = first;
                            first
                        }
                    });
                }
                component.unwrap_or_else(|| {
                    parents.push(parents.len() as u32);
                    parents.len() as u32 - 1
                })
            });
            match parents.len() <= most {
                true => Ok(()),
                false => Err(held(map.path(), "its connected components", limits)),
            }
        })?;
        let mut count = 0;
        for index in 0..parents.len() {
            // Parents come before their children, and have their numbers already.
            parents[index] = match parents[index] as usize {
                parent if parent == index => {
                    count += 1;
                    count
                }
                parent => parents[parent],
            };
        }
        Ok(Self { connectivity, numbers: parents, count })
    }

    /// Number of components.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Calls `f` with the runs of each row of the map that the components are of.
    pub(crate) fn each_row<M: LabelRows + ?Sized>(
        &self,
        map: &M,
        mut f: impl FnMut(u32, &[Run]) -> Result<()>,
    ) -> Result<()> {
        let mut scanner = Scanner::new(self.connectivity);
        let mut next = self.numbers.iter();
        each_row(map, |y, row| {
            let runs = scanner.scan(row, |touching| match touching.next() {
                Some(run) => run.component,
                // A map that changes between the passes has runs that the first has not seen.
                None => next.next().copied().unwrap_or(self.count),
            });
            f(y, runs)
        })
    }
}

/// The first of the components that are one.
pub(super) fn root(parents: &mut [u32], mut component: u32) -> u32 {
    while parents[component as usize] != component {
        let parent = parents[component as usize];
        parents[component as usize] = parents[parent as usize];
        component = parents[component as usize];
    }
    component
}

/// Finds the runs of rows, and which of the row above they touch.
struct Scanner {
    connectivity: Connectivity,
    above: Vec<Run>,
    runs: Vec<Run>,
}

impl Scanner {
    fn new(connectivity: Connectivity) -> Self {
        Self { connectivity, above: Vec::new(), runs: Vec::new() }
    }

    /// The runs of the next row; `component` gives the component of a run from the runs of its class above that it touches, from
    /// left to right.
    fn scan(&mut self, row: &[u32], mut component: impl FnMut(&mut dyn Iterator<Item = Run>) -> u32) -> &[Run] {
        std::mem::swap(&mut self.above, &mut self.runs);
        self.runs.clear();
        let (reach, mut first, mut start) = (self.connectivity.reach(), 0, 0);
        for pixels in row.chunk_by(|a, b| a == b) {
            let (begin, class) = (start, pixels[0]);
            start += pixels.len() as u32;
            if class == 0 {
                continue;
            }
            let end = start;
            while self.above.get(first).is_some_and(|run| run.end + reach <= begin) {
                first += 1;
            }
            let touching = self.above[first..].iter().take_while(|run| run.start < end + reach);
            let mut touching = touching.filter(|run| run.class == class).copied();
            let component = component(&mut touching);
            self.runs.push(Run { start: begin, end, class, component });
        }
        &self.runs
    }
}
