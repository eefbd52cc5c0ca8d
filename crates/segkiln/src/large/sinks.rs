//! Rows of a result that are complete, and the files that they are written to.

use std::path::Path;

use segkiln_core::Size;
use segkiln_data::{
    Cleaning, DataError, Limits,
    instances::LabelRows,
    regions::{Level, MapRows, RegionSource, ResizedSink, RowSink, SampleType, TiffSink, TiffSinkOptions},
};
use segkiln_models::SegmentationNetwork;

use super::LargeOptions;
use crate::{PredictError, Segmenter, segmentation::check_steps};

/// Rows that are given to a sink at once.
const ROWS: usize = 32;

/// Rows of a result that are complete.
pub(super) struct Rows {
    top: usize,
    pub labels: Vec<u16>,
    /// Values of a pixel: the classes, or none if the sink wants none.
    pub bands: usize,
    /// The classes of a pixel side by side.
    pub probabilities: Vec<f32>,
}

impl Rows {
    /// Rows from `top` on that are all class 0.
    pub fn background(top: usize, width: usize, rows: usize, bands: usize) -> Self {
        let mut probabilities = vec![0.0; width * rows * bands];
        probabilities.iter_mut().step_by(bands.max(1)).for_each(|value| *value = 1.0);
        Self { top, labels: vec![0; width * rows], bands, probabilities }
    }

    /// Rows of labels, and of probabilities `[class][row][column]` if these are wanted.
    pub fn of_result(top: usize, (labels, values): (Vec<u32>, Vec<f32>), bands: usize) -> Self {
        let count = labels.len();
        let mut probabilities = vec![0.0; count * bands];
        for (class, values) in values.chunks_exact(count.max(1)).enumerate() {
            let target = probabilities[class..].iter_mut().step_by(bands.max(1));
            target.zip(values).for_each(|(target, value)| *target = *value);
        }
        Self { top, labels: labels.into_iter().map(|label| label as u16).collect(), bands, probabilities }
    }
}

/// Gives rows to a sink, some at a time.
pub(super) fn write_rows(rows: &Rows, width: usize, sink: &mut impl RowSink) -> Result<(), DataError> {
    let done = sink.rows_written() as usize;
    for (index, labels) in rows.labels.chunks(ROWS * width).enumerate() {
        let (top, first) = (rows.top + index * ROWS, index * ROWS * width);
        if top + labels.len() / width <= done {
            continue;
        }
        let probabilities = &rows.probabilities[first * rows.bands..(first + labels.len()) * rows.bands];
        let labels: Vec<u32> = labels.iter().map(|label| (*label).into()).collect();
        sink.push_rows(MapRows { top: top as u32, labels: &labels, probabilities })?;
    }
    Ok(())
}

impl<M: SegmentationNetwork> Segmenter<M> {
    /// A file for the map of a picture, tiled and compressed, with the place of the picture on the earth or a slide. With an identity
    /// that says what the map is made of (the files and their dates, say) it goes on with what a process that was killed left.
    ///
    /// # Errors
    /// [`PredictError::Option`] if there is no such level, [`PredictError::Data`] if the file cannot be written.
    pub fn map_sink<S: RegionSource>(
        &self,
        source: &S,
        path: impl AsRef<Path>,
        options: &LargeOptions,
        identity: Option<String>,
    ) -> Result<ResizedSink<TiffSink>, PredictError> {
        let samples = if self.card().classes.count() <= 256 { SampleType::U8 } else { SampleType::U16 };
        self.sink(source, path.as_ref(), options, identity, (1, samples))
    }

    /// A file for the probabilities of a picture, a band a class, as [`map_sink`](Self::map_sink) for its map. To write both in one go,
    /// give [`segment_large`](Self::segment_large) the pair `(map, Some(probabilities))`.
    ///
    /// # Errors
    /// As [`map_sink`](Self::map_sink).
    pub fn probability_sink<S: RegionSource>(
        &self,
        source: &S,
        path: impl AsRef<Path>,
        options: &LargeOptions,
        identity: Option<String>,
    ) -> Result<ResizedSink<TiffSink>, PredictError> {
        let classes = self.card().classes.count();
        let bands = u16::try_from(classes)
            .map_err(|_| PredictError::option("model", format!("a TIFF has at most 65,535 bands, not {classes}")))?;
        self.sink(source, path.as_ref(), options, identity, (bands, SampleType::F32))
    }

    /// Cleans a map of any size that this network has made, [by rows](Cleaning::apply_to_rows).
    ///
    /// # Errors
    /// [`PredictError::Option`] if a step is for a class that the network does not have, and [`PredictError::Data`] as
    /// [`Cleaning::apply_to_rows`].
    pub fn clean_large<R: LabelRows>(
        &self,
        cleaning: &Cleaning,
        map: &R,
        scratch: impl AsRef<Path>,
        limits: &Limits,
        sink: impl RowSink,
    ) -> Result<(), PredictError> {
        check_steps(cleaning, &self.card().classes)?;
        let most = self.card().classes.count() as u32 - 1;
        Ok(cleaning.apply_to_rows(map, most, scratch.as_ref(), limits, sink)?)
    }

    fn sink<S: RegionSource>(
        &self,
        source: &S,
        path: &Path,
        options: &LargeOptions,
        identity: Option<String>,
        (bands, samples): (u16, SampleType),
    ) -> Result<ResizedSink<TiffSink>, PredictError> {
        let level = options.check(source)?.size();
        let levels: Vec<Size> = source.levels().iter().map(Level::size).collect();
        let (full, result) = (levels[0], levels[options.result_level.unwrap_or(options.level)]);
        let scale = [full.width, full.height].map(f64::from);
        let geo = source.geo().scaled([scale[0] / f64::from(result.width), scale[1] / f64::from(result.height)]);
        let identity = identity.map(|identity| format!("{identity} {options:?} {:?}", self.precision()));
        let Size { width, height } = result;
        let sink = TiffSink::create(path, TiffSinkOptions { width, height, bands, samples, geo, identity })?;
        Ok(ResizedSink::new(sink, level, result)?)
    }
}
