//! Numbers the objects of a map, row by row.

use std::{collections::HashMap, ops::Range, path::Path};

use segkiln_core::Size;

use super::{
    Components, InstanceOptions, LabelRows, Object, ObjectRun, ROWS, held,
    splitter::{Part, Splitter, whole},
};
use crate::{
    DataError, Limits, Result,
    regions::{Level, Region, RegionPixels, RegionSource},
};

/// The picture whose values are averaged over the objects.
#[derive(Clone, Copy)]
pub struct IntensityImage<'a> {
    /// The picture.
    pub source: &'a dyn RegionSource,
    /// Its level, which must have the size of the map.
    pub level: usize,
}

/// Values of a picture that are held.
const VALUES: usize = 1 << 23;
/// Columns that are read at once: tiles without pixels of an object are not read.
const COLUMNS: u32 = 512;

/// Numbers the objects of a class map from 1, in the order of their first pixels, and returns how many there are, and how many
/// components were to be split and are too large for that.
///
/// `row` is given each row of the map, with the number of each pixel's object or 0; `object`, if given, each object when its last row is
/// known, with the means of a picture's bands if there is one.
///
/// Memory: [`Components`]; the runs of objects that are not complete, 12 bytes each; with a watershed the rows that wait for components
/// that are not complete, and a [window](super::WatershedOptions::max_window) for each thread; 32 MiB of the picture.
///
/// # Errors
/// As [`LabelRows::rows`] and [`RegionSource::read`]; [`DataError::Held`] if the runs are larger than the limits,
/// [`DataError::Option`] if the picture's level has another size; and what `row` and `object` return.
pub fn find_objects<M: LabelRows + ?Sized>(
    map: &M,
    picture: Option<IntensityImage<'_>>,
    options: &InstanceOptions,
    row: impl FnMut(&[u32]) -> Result<()>,
    object: Option<&mut dyn FnMut(Object) -> Result<()>>,
) -> Result<Found> {
    let size = map.size();
    if let Some(IntensityImage { source, level }) = picture {
        let found = source.levels().get(level).map(Level::size);
        if found != Some(size) {
            let found = found.map_or("no".into(), |found| found.to_string());
            let reason = format!("the picture's level {level} has {found} pixels, the map {size}");
            return Err(DataError::option("intensities", reason));
        }
    }
    let components = Components::of(map, options.connectivity, &options.limits)?;
    let mut numbering = Numbering {
        path: map.path(),
        limits: options.limits,
        width: size.width,
        numbers: vec![0; size.width as usize],
        live: HashMap::new(),
        active: Vec::new(),
        count: 0,
        held: 0,
        values: picture.map(|picture| Values { picture, size, top: 0, rows: 0, blocks: Vec::new() }),
        row,
        object,
    };
    let mut splitter = options
        .watershed
        .map(|watershed| Splitter::new(watershed, options.connectivity, size, options.limits.max_bytes / 4));
    let mut parts: Vec<Part> = Vec::new();
    components.each_row(map, |y, runs| match &mut splitter {
        Some(splitter) => splitter.push(y, runs, |y, parts| numbering.push(y, parts)),
        None => {
            parts.clear();
            parts.extend(runs.iter().map(|run| whole(run.start, run.end, run.class, run.component)));
            numbering.push(y, &parts)
        }
    })?;
    numbering.complete(size.height)?;
    Ok(Found { objects: numbering.count, left_whole: splitter.map_or(0, |splitter| splitter.left_whole()) })
}

/// Numbers of objects that [`find_objects`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Objects.
    pub objects: u32,
    /// Components among these that a watershed was to split and that are too large for that.
    pub left_whole: u32,
}

/// Objects that have pixels in the rows at hand.
struct Numbering<'a, 'o, R> {
    path: &'a Path,
    limits: Limits,
    width: u32,
    /// The row at hand.
    numbers: Vec<u32>,
    live: HashMap<[u32; 2], Live>,
    /// The objects of the last row.
    active: Vec<[u32; 2]>,
    count: u32,
    /// Runs of all objects.
    held: usize,
    values: Option<Values<'a>>,
    row: R,
    object: Option<&'o mut dyn FnMut(Object) -> Result<()>>,
}

struct Live {
    last: u32,
    object: Object,
    sums: Vec<f64>,
    /// Pixels that have data.
    there: u64,
}

impl<R: FnMut(&[u32]) -> Result<()>> Numbering<'_, '_, R> {
    fn push(&mut self, y: u32, parts: &[Part]) -> Result<()> {
        self.numbers.fill(0);
        let (measured, mut active) = (self.object.is_some(), Vec::with_capacity(parts.len()));
        for part in parts {
            let live = self.live.entry(part.object).or_insert_with(|| {
                self.count += 1;
                let object =
                    Object { number: self.count, class: part.class, runs: Vec::new(), means: Vec::new(), score: None };
                Live { last: y, object, sums: Vec::new(), there: 0 }
            });
            if live.last < y || live.object.runs.is_empty() {
                active.push(part.object);
            }
            live.last = y;
            self.numbers[part.start as usize..part.end as usize].fill(live.object.number);
            if measured {
                live.object.runs.push(ObjectRun { row: y, start: part.start, end: part.end });
                self.held += 1;
                if let Some(values) = &mut self.values {
                    values.add(y, part.start..part.end, &mut live.sums, &mut live.there)?;
                }
            }
        }
        if self.held > self.limits.max_usize() / 12 {
            let first = self.live.values().min_by_key(|live| live.object.number);
            let place = first.and_then(|live| live.object.runs.first()).map_or([0, 0], |run| [run.start, run.row]);
            let what = format!(
                "objects that are not complete at row {y}, the first of which begins at column {} of row {},",
                place[0], place[1]
            );
            return Err(held(self.path, what, &self.limits));
        }
        // Without runs an object may be listed more than once.
        active.dedup();
        let before = std::mem::replace(&mut self.active, active);
        self.finish(before, y)?;
        (self.row)(&self.numbers[..self.width as usize])
    }

    /// Hands over the objects that are left.
    fn complete(&mut self, height: u32) -> Result<()> {
        let before = std::mem::take(&mut self.active);
        self.finish(before, height)
    }

    /// Hands over those of some objects that have no pixel in row `y`.
    fn finish(&mut self, mut objects: Vec<[u32; 2]>, y: u32) -> Result<()> {
        objects.retain(|key| self.live.get(key).is_some_and(|live| live.last < y));
        let mut done: Vec<Live> = objects.into_iter().filter_map(|key| self.live.remove(&key)).collect();
        done.sort_unstable_by_key(|live| live.object.number);
        for Live { mut object, sums, there, .. } in done {
            self.held -= object.runs.len();
            if let Some(give) = &mut self.object {
                if there > 0 {
                    object.means = sums.into_iter().map(|sum| sum / there as f64).collect();
                }
                give(object)?;
            }
        }
        Ok(())
    }
}

/// Some rows of a picture, of which those columns are read that objects have pixels in.
struct Values<'a> {
    picture: IntensityImage<'a>,
    size: Size,
    top: u32,
    rows: u32,
    blocks: Vec<Option<RegionPixels>>,
}

impl Values<'_> {
    /// Adds the values of pixels of row `y` that have data.
    fn add(&mut self, y: u32, columns: Range<u32>, sums: &mut Vec<f64>, there: &mut u64) -> Result<()> {
        let IntensityImage { source, level } = self.picture;
        let (bands, Size { width, height }) = (source.bands(), self.size);
        if y >= self.top + self.rows {
            let rows = (VALUES / (bands * width as usize).max(1)).clamp(1, ROWS as usize) as u32;
            (self.top, self.rows) = (y, rows.min(ROWS - y % ROWS).min(height - y));
            self.blocks.clear();
            self.blocks.resize_with(width.div_ceil(COLUMNS) as usize, || None);
        }
        sums.resize(bands, 0.0);
        let mut start = columns.start;
        while start < columns.end {
            let left = start / COLUMNS * COLUMNS;
            let block = Region { left, top: self.top, width: COLUMNS.min(width - left), height: self.rows };
            let pixels = &mut self.blocks[(left / COLUMNS) as usize];
            let RegionPixels { image, missing } = match pixels {
                Some(pixels) => pixels,
                None => pixels.insert(source.read(level, block)?),
            };
            let end = columns.end.min(left + block.width);
            let first = (y - self.top) as usize * block.width as usize;
            for pixel in (start..end).map(|x| first + (x - left) as usize) {
                if !missing.get(pixel).copied().unwrap_or(false) {
                    *there += 1;
                    let values = &image.as_slice()[pixel * bands..(pixel + 1) * bands];
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
                }
            }
            start = end;
        }
        Ok(())
    }
}
