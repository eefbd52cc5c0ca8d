//! What rows of a result are given to: a file, a file of another resolution, or two.

use segkiln_core::Size;

use super::TiffSink;
use crate::{DataError, Result};

/// Rows of a result.
#[derive(Debug, Clone, Copy)]
pub struct MapRows<'a> {
    /// Number of the first.
    pub top: u32,
    /// Class of each pixel, row-major.
    pub labels: &'a [u32],
    /// Probabilities, the classes of a pixel side by side; may be empty if no sink [wants](RowSink::wants_probabilities) them.
    pub probabilities: &'a [f32],
}

/// A sink that rows of a result are given to, from the top.
pub trait RowSink: Send {
    /// Rows that need not be given again.
    fn rows_written(&self) -> u32;

    /// Whether it takes probabilities.
    fn wants_probabilities(&self) -> bool;

    /// Takes the next rows; those that it has are skipped.
    ///
    /// # Errors
    /// [`DataError::Encode`] if rows are left out, or have other values than the sink is for; [`DataError::Io`].
    fn push_rows(&mut self, rows: MapRows<'_>) -> Result<()>;

    /// Ends the result, which must have all its rows.
    ///
    /// # Errors
    /// [`DataError::Encode`] if rows are missing, [`DataError::Io`].
    fn finish(self) -> Result<()>
    where
        Self: Sized;
}

/// Probabilities if it is a file of floats, else classes.
impl RowSink for TiffSink {
    fn rows_written(&self) -> u32 {
        self.rows_written()
    }

    fn wants_probabilities(&self) -> bool {
        self.has_floats()
    }

    fn push_rows(&mut self, MapRows { top, labels, probabilities }: MapRows<'_>) -> Result<()> {
        let (next, row) = (self.next_row(), self.row_values());
        if top > next {
            return Err(self.refused(format!("rows {next} to {} were left out", top - 1)));
        }
        let known = (next - top) as usize * row;
        match self.wants_probabilities() {
            true => self.push_probabilities(probabilities.get(known..).unwrap_or_default()),
            false => self.push_labels(labels.get(known..).unwrap_or_default()),
        }
    }

    fn finish(self) -> Result<()> {
        self.finish()
    }
}

/// Two sinks of the same result, the second of which may be none.
impl<A: RowSink, B: RowSink> RowSink for (A, Option<B>) {
    fn rows_written(&self) -> u32 {
        let rows = self.0.rows_written();
        self.1.as_ref().map_or(rows, |other| rows.min(other.rows_written()))
    }

    fn wants_probabilities(&self) -> bool {
        self.0.wants_probabilities() || self.1.as_ref().is_some_and(RowSink::wants_probabilities)
    }

    fn push_rows(&mut self, rows: MapRows<'_>) -> Result<()> {
        self.0.push_rows(rows)?;
        self.1.as_mut().map_or(Ok(()), |other| other.push_rows(rows))
    }

    fn finish(self) -> Result<()> {
        self.0.finish()?;
        self.1.map_or(Ok(()), RowSink::finish)
    }
}

/// A sink for rows of one size that makes them those of another: classes by the nearest pixel, probabilities by bilinear interpolation
/// between the middles of pixels, as PyTorch's `interpolate` does with `nearest-exact`, and with `bilinear` and `align_corners=False`.
///
/// Two rows are held.
#[derive(Debug)]
pub struct ResizedSink<S> {
    sink: S,
    from: Size,
    to: Size,
    /// The next row of the sink.
    next: u32,
    /// The row that was given last, of probabilities.
    above: Vec<f32>,
}

impl<S: RowSink> ResizedSink<S> {
    /// Makes rows of a result of size `from` those of a sink of size `to`; of the same size they are handed on as they are.
    ///
    /// # Errors
    /// [`DataError::Option`] if a size has a side of 0.
    pub fn new(sink: S, from: Size, to: Size) -> Result<Self> {
        if [from, to].iter().any(|size| size.width == 0 || size.height == 0) {
            return Err(DataError::option("size", format!("{from} or {to} pixels are none")));
        }
        Ok(Self { next: sink.rows_written(), sink, from, to, above: Vec::new() })
    }

    /// The row of the result that is the last that a row of the sink is made of.
    fn last_source(&self, row: u32) -> u32 {
        match self.sink.wants_probabilities() {
            true => between(row, self.from.height, self.to.height).1,
            false => nearest(row, self.from.height, self.to.height),
        }
    }

    /// The next row of the sink, of row `y` of the result.
    fn push_row(&mut self, labels: &[u32], probabilities: &[f32]) -> Result<()> {
        let Size { width, .. } = self.to;
        let mut rows = MapRows { top: self.next, labels: &[], probabilities: &[] };
        if !self.sink.wants_probabilities() {
            let source = |x| labels[nearest(x, self.from.width, width) as usize];
            let labels: Vec<u32> = (0..width).map(source).collect();
            rows.labels = &labels;
            return self.sink.push_rows(rows);
        }
        let bands = probabilities.len() / self.from.width as usize;
        let (first, last, down) = between(self.next, self.from.height, self.to.height);
        let above = if first == last { probabilities } else { self.above.as_slice() };
        let mut values = Vec::with_capacity(bands * width as usize);
        for x in 0..width {
            let (left, right, across) = between(x, self.from.width, width);
            let [left, right] = [left, right].map(|x| x as usize * bands);
            let mix = |a: f32, b: f32, share: f32| a + (b - a) * share;
            values.extend((0..bands).map(|band| {
                let [upper, lower] = [above, probabilities].map(|row| mix(row[left + band], row[right + band], across));
                mix(upper, lower, down)
            }));
        }
        rows.probabilities = &values;
        self.sink.push_rows(rows)
    }
}

impl<S: RowSink> RowSink for ResizedSink<S> {
    fn rows_written(&self) -> u32 {
        let written = self.sink.rows_written();
        match (written < self.to.height, self.from == self.to, self.sink.wants_probabilities()) {
            (false, ..) => self.from.height,
            (_, true, _) => written,
            (_, _, true) => between(written, self.from.height, self.to.height).0,
            (_, _, false) => nearest(written, self.from.height, self.to.height),
        }
    }

    fn wants_probabilities(&self) -> bool {
        self.sink.wants_probabilities()
    }

    fn push_rows(&mut self, rows: MapRows<'_>) -> Result<()> {
        if self.from == self.to {
            return self.sink.push_rows(rows);
        }
        let width = self.from.width as usize;
        let count = rows.labels.len() / width;
        // Labels come with probabilities, too.
        let bands = rows.probabilities.len() / rows.labels.len().max(1);
        for (y, index) in (rows.top..).zip(0..count) {
            let labels = &rows.labels[index * width..(index + 1) * width];
            let probabilities = &rows.probabilities[index * width * bands..(index + 1) * width * bands];
            while self.next < self.to.height && self.last_source(self.next) <= y {
                self.push_row(labels, probabilities)?;
                self.next += 1;
            }
            if self.wants_probabilities() {
                self.above.clear();
                self.above.extend_from_slice(probabilities);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.sink.finish()
    }
}

/// The pixel of `from` that the middle of one of `to` lies in.
fn nearest(at: u32, from: u32, to: u32) -> u32 {
    let middle = (2 * u128::from(at) + 1) * u128::from(from) / (2 * u128::from(to));
    (middle as u32).min(from - 1)
}

/// The pixels of `from` whose middles the middle of one of `to` lies between, and how far it is from the first to the second.
fn between(at: u32, from: u32, to: u32) -> (u32, u32, f32) {
    let place = ((f64::from(at) + 0.5) * f64::from(from) / f64::from(to) - 0.5).clamp(0.0, f64::from(from - 1));
    let first = place as u32;
    let share = (place - f64::from(first)) as f32;
    match share > 0.0 {
        true => (first, first + 1, share),
        false => (first, first, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink in memory, which begins with some of its rows.
    #[derive(Default)]
    struct Kept {
        width: usize,
        bands: usize,
        known: u32,
        labels: Vec<u32>,
        probabilities: Vec<f32>,
    }

    impl RowSink for &mut Kept {
        fn rows_written(&self) -> u32 {
            self.known
        }

        fn wants_probabilities(&self) -> bool {
            self.bands > 0
        }

        fn push_rows(&mut self, rows: MapRows<'_>) -> Result<()> {
            let pixels = self.probabilities.len().checked_div(self.bands).unwrap_or(self.labels.len());
            let given = pixels / self.width;
            assert_eq!(rows.top as usize, self.known as usize + given);
            self.labels.extend_from_slice(rows.labels);
            if self.bands > 0 {
                self.probabilities.extend_from_slice(rows.probabilities);
            }
            Ok(())
        }

        fn finish(self) -> Result<()> {
            Ok(())
        }
    }

    /// Gives a result of 5 × 4 pixels and 2 classes to a sink of some size, rows at a time, and from the row on that the sink asks for.
    fn resized(to: Size, bands: usize, known: u32, count: usize) -> Kept {
        let mut kept = Kept { width: to.width as usize, bands, known, ..Kept::default() };
        let mut sink = ResizedSink::new(&mut kept, (5, 4).into(), to).unwrap();
        let labels: Vec<u32> = (0..20).collect();
        let probabilities: Vec<f32> =
            (0..20u32).flat_map(|at| [(at * at % 7) as f32 / 7.0, (at * at % 5) as f32 / 5.0]).collect();
        let first = sink.rows_written() as usize;
        for top in (first..4).step_by(count) {
            let end = 4.min(top + count);
            let (labels, probabilities) = (&labels[5 * top..5 * end], &probabilities[10 * top..10 * end]);
            sink.push_rows(MapRows { top: top as u32, labels, probabilities }).unwrap();
        }
        kept
    }

    #[test]
    fn classes_are_those_of_the_nearest_pixel() {
        // torch.nn.functional.interpolate(arange(20.).view(1, 1, 4, 5), size=(6, 7), mode="nearest-exact")
        let found = resized((7, 6).into(), 0, 0, 1).labels;
        let row = |y: u32| [0, 1, 1, 2, 3, 3, 4].map(|x| 5 * y + x);
        assert_eq!(found, [row(0), row(1), row(1), row(2), row(3), row(3)].concat());
        // size=(2, 3)
        assert_eq!(resized((3, 2).into(), 0, 0, 3).labels, [5, 7, 9, 15, 17, 19]);
        assert_eq!(resized((5, 4).into(), 0, 0, 2).labels, (0..20).collect::<Vec<u32>>());
    }

    #[test]
    fn probabilities_are_interpolated() {
        let value = |x: u32, y: u32, band: usize| {
            let at = 5 * y + x;
            [(at * at % 7) as f32 / 7.0, (at * at % 5) as f32 / 5.0][band]
        };
        for to in [Size { width: 9, height: 11 }, Size { width: 10, height: 8 }, Size { width: 3, height: 2 }] {
            let found = resized(to, 2, 0, 3).probabilities;
            assert_eq!(found.len(), 2 * (to.width * to.height) as usize);
            for (at, found) in found.iter().enumerate() {
                let (band, x, y) = (at % 2, at / 2 % to.width as usize, at / 2 / to.width as usize);
                let place = |at: usize, from: f64, to: u32| {
                    ((at as f64 + 0.5) * from / f64::from(to) - 0.5).clamp(0.0, from - 1.0)
                };
                let (x, y) = (place(x, 5.0, to.width), place(y, 4.0, to.height));
                let mut expected = 0.0;
                for (v, u) in (0..4).flat_map(|v| (0..5).map(move |u| (v, u))) {
                    let share = |at: f64, pixel: u32| (1.0 - (at - f64::from(pixel)).abs()).max(0.0);
                    expected += share(x, u) * share(y, v) * f64::from(value(u, v, band));
                }
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{to} {at}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn a_sink_goes_on_behind_its_rows() {
        for (to, bands) in [((7, 6), 0), ((9, 11), 2), ((3, 2), 0), ((3, 2), 2), ((5, 4), 0)] {
            let to = Size::from(to);
            let all = resized(to, bands, 0, 2);
            for known in 0..=to.height {
                let rest = resized(to, bands, known, 2);
                let skipped = (known * to.width) as usize;
                assert_eq!(rest.labels, all.labels[skipped.min(all.labels.len())..]);
                assert_eq!(rest.probabilities, all.probabilities[(bands * skipped).min(all.probabilities.len())..]);
            }
        }
        let mut kept = Kept::default();
        assert!(ResizedSink::new(&mut kept, (0, 4).into(), (1, 1).into()).is_err());
    }
}
