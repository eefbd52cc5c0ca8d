//! Pictures that do not fit memory, segmented tile by tile.

mod plan;
mod sinks;
#[cfg(test)]
mod tests;

use std::{
    panic::resume_unwind,
    sync::mpsc::sync_channel,
    thread,
    time::{Duration, Instant},
};

use segkiln_data::{
    DataError,
    regions::{Level, Region, RegionPixels, RegionSource, RowSink},
};
use segkiln_models::{SegmentationNetwork, SegmentationNetworkConfig, reach};

use self::{
    plan::{Plan, Tile},
    sinks::{Rows, write_rows},
};
use crate::{
    PredictError, Segmenter,
    read_ahead::read_ahead,
    segmentation::ResultRows,
    tiles::{Band, bell},
};

/// Options of prediction on a picture that does not fit memory.
#[derive(Debug, Clone, PartialEq)]
pub struct LargeOptions {
    /// Side of the square tiles that the network sees, with the margin around what is kept of it; in pixels.
    pub tile: u32,
    /// Level of resolution that is read.
    pub level: usize,
    /// Level that the sinks of results are made for, the one that is read by default: classes are those of the nearest pixel,
    /// probabilities are interpolated.
    pub result_level: Option<usize>,
    /// Whether the four mirror images are segmented too and the probabilities averaged.
    pub flips: bool,
    /// Share of a tile's pixels that must have data; tiles with less are class 0, and no network sees them.
    pub skip_below: f32,
    /// Overlap of tiles whose margins do not hold all that an output depends on: a share of their side, in
    /// `[0, 0.95]`. They are then weighed with a bell around their middle.
    pub overlap: f32,
}

impl Default for LargeOptions {
    fn default() -> Self {
        Self { tile: 768, level: 0, result_level: None, flips: false, skip_below: f32::MIN_POSITIVE, overlap: 0.25 }
    }
}

impl LargeOptions {
    /// The level that is read, if the options are in range.
    pub(crate) fn check<S: RegionSource>(&self, source: &S) -> Result<Level, PredictError> {
        let levels = source.levels();
        let level = |option, level: usize| {
            let reason = || format!("{} has levels 0 to {}", source.path().display(), levels.len() - 1);
            levels.get(level).ok_or_else(|| PredictError::option(option, reason()))
        };
        level("result_level", self.result_level.unwrap_or(self.level))?;
        let level = level("level", self.level)?;
        if self.tile < 16 {
            return Err(PredictError::option("tile", "must be at least 16 pixels"));
        }
        if !(0.0..=0.95).contains(&self.overlap) {
            return Err(PredictError::option("overlap", "must be from 0 to 0.95"));
        }
        if !(0.0..=1.0).contains(&self.skip_below) {
            return Err(PredictError::option("skip_below", "must be from 0 to 1"));
        }
        Ok(*level)
    }
}

/// Way in which the tiles of a picture are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seams {
    /// The inner part of each tile is kept, with a margin of so many pixels around it: the map is that of the whole picture.
    Margin(usize),
    /// Tiles are weighed with a bell around their middle, because outputs depend on more than a margin.
    Blended,
}

/// Progress of the work.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Tiles that are done.
    pub done: usize,
    /// All tiles.
    pub tiles: usize,
    /// Expected time for the others.
    pub left: Duration,
}

/// Labels are held in 16 bits.
const MOST_CLASSES: usize = 1 << 16;

/// Probabilities of a tile of so many pixels that is all class 0.
fn background(classes: usize, pixels: usize) -> Vec<f32> {
    let mut values = vec![0.0; classes * pixels];
    values[..pixels].fill(1.0);
    values
}

impl<M: SegmentationNetwork> Segmenter<M> {
    /// Segments a picture of any size by tiles, and gives the class of each pixel to `sink`, which takes rows of the level's size, with
    /// the probabilities if it wants them; rows that it has already are not computed again. Returns how the tiles were joined.
    ///
    /// Where a tile's margin holds all that its inner part [depends on](segkiln_models::reach()), the map is that of the
    /// whole picture; only where two classes are within the rounding of sums it may differ, as kernels are chosen by an
    /// image's size. Else tiles are blended.
    /// Pixels without data are seen as the mean of the training images, and become class 0. Tiles whose inner part the source
    /// [does not want](RegionSource::is_wanted) are class 0 too, and are not read.
    ///
    /// Memory: the network with a tile, two tiles that are read ahead, what the source keeps, and two bands of the map as high as a tile,
    /// one of which is written while the other is made: 2 bytes a pixel each, with probabilities 4 more a pixel and class. Where tiles
    /// are blended, 4 bytes a pixel and class.
    ///
    /// ```no_run
    /// use segkiln::{LargeOptions, data::regions::{RegionSource, TiffSink, TiffSource}, prelude::*};
    ///
    /// let segmenter = Segmenter::load("runs/unet", &Device::default())?;
    /// let source = TiffSource::open("slide.tif", Default::default())?;
    /// let sink = segmenter.map_sink(&source, "map.tif", &LargeOptions::default(), None)?;
    /// segmenter.segment_large(&source, &LargeOptions::default(), sink, |progress| println!("{progress:?}"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PredictError::Option`], [`PredictError::Data`] with the place of a tile that cannot be read,
    /// [`PredictError::Undefined`] if the network gives NaN; what was written stays, and a sink with an identity goes on there.
    ///
    /// # Panics
    /// If the source does.
    pub fn segment_large<S: RegionSource>(
        &self,
        source: &S,
        options: &LargeOptions,
        mut sink: impl RowSink,
        mut progress: impl FnMut(Progress),
    ) -> Result<Seams, PredictError> {
        let plan = self.plan(source, options)?;
        let done = sink.rows_written() as usize;
        // Rows of tiles whose rows the sink has all.
        let skipped = plan.rows.iter().take_while(|row| self.next_row(&plan, row) <= done).count();
        let width = source.levels()[options.level].width as usize;
        let classes = self.card().classes.count();
        let bands = if sink.wants_probabilities() { classes } else { 0 };
        let (tiles, start) = (plan.tiles() - plan.rows[..skipped].iter().map(Vec::len).sum::<usize>(), Instant::now());
        let todo = &plan.rows[skipped..];
        let read = |tile: &Tile| {
            let is_wanted = source.is_wanted(options.level, tile.kept_region());
            is_wanted.then(|| self.pixels(source, options.level, tile.region)).transpose()
        };
        let work = |read: &mut dyn FnMut() -> _| {
            thread::scope(|scope| {
                // What is complete is written while the next rows are made.
                let (give, complete) = sync_channel(0);
                let sink = &mut sink;
                let writing =
                    scope.spawn(move || complete.iter().try_for_each(|rows: Rows| write_rows(&rows, width, sink)));
                let mut finished = 0;
                let mut next = || {
                    finished += 1;
                    let left = start.elapsed().mul_f64((tiles - finished) as f64 / finished as f64);
                    progress(Progress { done: finished, tiles, left });
                    read()
                };
                let mut band = None;
                for (index, row) in todo.iter().enumerate() {
                    let top = row[0].region.top as usize;
                    let height = row[0].region.height as usize;
                    let rows = match plan.seams {
                        Seams::Margin(_) => {
                            let kept = row[0].kept[0].clone();
                            let mut rows = Rows::background(top + kept.start, width, kept.len(), bands);
                            for tile in row {
                                if let Some(pixels) = next()? {
                                    self.keep_inner(tile, pixels, options, &mut rows, width)?;
                                }
                            }
                            rows
                        }
                        Seams::Blended => {
                            let band = band.get_or_insert_with(|| Band::new(classes, width, height));
                            for tile in row {
                                let pixels = next()?;
                                let [bell_x, bell_y] =
                                    [tile.region.width, tile.region.height].map(|length| bell(length as usize));
                                let values = match pixels {
                                    Some(pixels) => self.tile_probabilities(pixels, options)?,
                                    None => {
                                        background(classes, tile.region.width as usize * tile.region.height as usize)
                                    }
                                };
                                band.add(&values, tile.region.left as usize, &bell_x, &bell_y);
                            }
                            let rows = todo.get(index + 1).map_or(height, |next| next[0].region.top as usize - top);
                            let mut result = ResultRows::new(self.card().classes.clone(), width, rows, bands > 0);
                            band.finish(rows, &mut result);
                            Rows::of_result(top, result.into_parts().map_err(|error| error.below(top))?, bands)
                        }
                    };
                    if give.send(rows).is_err() {
                        // Why says the writer.
                        break;
                    }
                }
                drop(give);
                Ok::<(), PredictError>(writing.join().unwrap_or_else(|panic| resume_unwind(panic))?)
            })
        };
        read_ahead(todo.iter().flatten(), read, work)?;
        sink.finish()?;
        Ok(plan.seams)
    }

    /// Returns how the tiles of a picture are joined.
    ///
    /// # Errors
    /// [`PredictError::Option`].
    pub fn seams<S: RegionSource>(&self, source: &S, options: &LargeOptions) -> Result<Seams, PredictError> {
        Ok(self.plan(source, options)?.seams)
    }

    fn plan<S: RegionSource>(&self, source: &S, options: &LargeOptions) -> Result<Plan, PredictError> {
        let level = options.check(source)?;
        if self.preset().is_some() {
            let reason = "is not for tiles, as the network sees images whole; take it away by `with_preset`";
            return Err(PredictError::option("preset", reason));
        }
        let classes = self.card().classes.count();
        if classes > MOST_CLASSES {
            return Err(PredictError::option(
                "model",
                format!("maps have at most {MOST_CLASSES} classes, not {classes}"),
            ));
        }
        let (bands, wanted) = (source.bands(), self.card().model.in_channels());
        if self.card().color.is_none() && bands != wanted {
            return Err(DataError::Bands { path: source.path().into(), bands, expected: wanted }.into());
        }
        let reach = reach(self.model(), wanted, &self.device);
        Ok(Plan::new(level, options.tile as usize, reach, options.overlap))
    }

    /// The first row that the rows of tiles after this one make.
    fn next_row(&self, plan: &Plan, row: &[Tile]) -> usize {
        let Tile { region, kept } = &row[0];
        match plan.seams {
            Seams::Margin(_) => region.top as usize + kept[0].end,
            // Rows are sums of several rows of tiles, so all are computed again.
            Seams::Blended => usize::MAX,
        }
    }

    /// A region in the network's colors or bands.
    fn pixels<S: RegionSource>(&self, source: &S, level: usize, region: Region) -> Result<RegionPixels, PredictError> {
        let pixels = source.read(level, region)?;
        Ok(match self.card().color {
            Some(color) => pixels.to_color(color, source.path())?,
            None => pixels,
        })
    }

    /// Probabilities of a tile, `[class][row][column]`; class 0 where there are no data.
    fn tile_probabilities(&self, pixels: RegionPixels, options: &LargeOptions) -> Result<Vec<f32>, PredictError> {
        let RegionPixels { mut image, missing } = pixels;
        let (count, classes) = (image.width() as usize * image.height() as usize, self.card().classes.count());
        let there = count - missing.iter().filter(|missing| **missing).count();
        if (there as f32) < options.skip_below * count as f32 {
            return Ok(background(classes, count));
        }
        self.card().normalize.apply(&mut image)?;
        if !missing.is_empty() {
            let channels = image.channels();
            let pixels = image.as_mut_slice().chunks_exact_mut(channels).zip(&missing);
            pixels.filter(|(_, missing)| **missing).for_each(|(pixel, _)| pixel.fill(0.0));
        }
        let mut values = self.normalized_probabilities(image, options.flips)?;
        missing.iter().enumerate().filter(|(_, missing)| **missing).for_each(|(pixel, _)| {
            (0..classes).for_each(|class| values[class * count + pixel] = f32::from(class == 0));
        });
        Ok(values)
    }

    /// Segments a tile and puts the classes of its inner part, and the probabilities if they are wanted, into rows of the whole width.
    fn keep_inner(
        &self,
        tile: &Tile,
        pixels: RegionPixels,
        options: &LargeOptions,
        kept: &mut Rows,
        width: usize,
    ) -> Result<(), PredictError> {
        let values = self.tile_probabilities(pixels, options)?;
        let Region { left, top, width: tile_width, height } = tile.region;
        let (tile_width, count) = (tile_width as usize, tile_width as usize * height as usize);
        let [rows, columns] = tile.kept.clone();
        for (index, row) in rows.enumerate() {
            let first = index * width + left as usize + columns.start;
            let target = &mut kept.labels[first..first + columns.len()];
            // Class by class, as the values lie in memory.
            let mut best = vec![f32::NEG_INFINITY; columns.len()];
            for class in 0..self.card().classes.count() {
                let values = &values[class * count + row * tile_width..][columns.clone()];
                if let Some(column) = values.iter().position(|value| value.is_nan()) {
                    let (x, y) = (left as usize + columns.start + column, top as usize + row);
                    return Err(PredictError::Undefined { x, y });
                }
                for ((label, best), value) in target.iter_mut().zip(&mut best).zip(values) {
                    if value > best {
                        (*label, *best) = (class as u16, *value);
                    }
                }
                if kept.bands > 0 {
                    let target = kept.probabilities[first * kept.bands + class..].iter_mut().step_by(kept.bands);
                    target.zip(values).for_each(|(target, value)| *target = *value);
                }
            }
        }
        Ok(())
    }
}

impl PredictError {
    /// The error of a part that begins at a row.
    fn below(self, row: usize) -> Self {
        match self {
            Self::Undefined { x, y } => Self::Undefined { x, y: y + row },
            error => error,
        }
    }
}
