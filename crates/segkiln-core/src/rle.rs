use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BBox, CoreError, LabelMap, Result, Size, polygon};

/// Columns of a label map that are read together: those of a cache line.
const COLUMNS: usize = 16;

/// A binary mask as the lengths of its runs, column by column from the upper left corner: COCO's form.
///
/// The first run is of zeros and may be empty; the runs alternate, no other is empty, and together they have as many
/// pixels as the mask.
///
/// ```
/// use segkiln_core::Rle;
///
/// // 0 1 1
/// // 0 0 1
/// let mask = Rle::from_fn(3, 2, |x, y| x > y)?;
/// assert_eq!(mask.counts(), [2, 1, 1, 2]);
/// assert_eq!(mask.area(), 3);
/// assert_eq!(mask.bbox().map(|bbox| bbox.xyxy()), Some([1.0, 0.0, 3.0, 2.0]));
/// assert_eq!(Rle::from_string(3, 2, &mask.to_coco_string())?, mask);
/// # Ok::<(), segkiln_core::CoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Rle {
    width: u32,
    height: u32,
    counts: Vec<u32>,
}

/// An [`Rle`] as it is stored, not validated yet.
#[derive(Serialize, Deserialize)]
struct Parts {
    width: u32,
    height: u32,
    counts: Vec<u32>,
}

impl TryFrom<Parts> for Rle {
    type Error = CoreError;

    fn try_from(parts: Parts) -> Result<Self> {
        Self::new(parts.width, parts.height, &parts.counts)
    }
}

impl From<Rle> for Parts {
    fn from(Rle { width, height, counts }: Rle) -> Self {
        Self { width, height, counts }
    }
}

/// Returns the number of pixels of a mask.
fn pixels(width: u32, height: u32) -> Result<u32> {
    match width.checked_mul(height) {
        Some(pixels) if pixels > 0 => Ok(pixels),
        _ => Err(CoreError::MaskSize { width, height }),
    }
}

impl Rle {
    /// Creates a mask from run lengths, some of which may be 0.
    ///
    /// # Errors
    /// - [`CoreError::MaskSize`] if the mask has no pixel, or more than 2³² - 1
    /// - [`CoreError::MaskCounts`] if the runs do not have as many pixels as the mask
    pub fn new(width: u32, height: u32, counts: &[u32]) -> Result<Self> {
        Self::from_counts(width, height, counts.to_vec())
    }

    fn from_counts(width: u32, height: u32, mut counts: Vec<u32>) -> Result<Self> {
        let expected = pixels(width, height)?;
        let actual = counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        if actual != u64::from(expected) {
            return Err(CoreError::MaskCounts { width, height, actual });
        }
        if counts.iter().skip(1).any(|count| *count == 0) {
            let mut builder = Builder::default();
            for (index, count) in counts.iter().enumerate() {
                builder.push(*count, index % 2 == 1);
            }
            counts = builder.counts;
        }
        Ok(Self { width, height, counts })
    }

    /// Creates a mask from runs of pixels, column by column, each with its length and value. Runs may be empty, and adjacent runs may
    /// have one value.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// ```
    /// use segkiln_core::Rle;
    ///
    /// let mask = Rle::from_runs(3, 2, [(1, false), (2, true), (0, false), (1, true), (2, false)])?;
    /// assert_eq!(mask.counts(), [1, 3, 2]);
    /// # Ok::<(), segkiln_core::CoreError>(())
    /// ```
    pub fn from_runs(width: u32, height: u32, runs: impl IntoIterator<Item = (u32, bool)>) -> Result<Self> {
        let expected = pixels(width, height)?;
        let mut builder = Builder::default();
        let mut actual = 0;
        for (count, value) in runs {
            actual += u64::from(count);
            if actual > u64::from(expected) {
                break;
            }
            builder.push(count, value);
        }
        if actual != u64::from(expected) {
            return Err(CoreError::MaskCounts { width, height, actual });
        }
        Ok(Self { width, height, counts: builder.counts })
    }

    /// Creates a mask from a function of column and row.
    ///
    /// # Errors
    /// [`CoreError::MaskSize`] as [`new`](Self::new).
    pub fn from_fn(width: u32, height: u32, mut inside: impl FnMut(u32, u32) -> bool) -> Result<Self> {
        pixels(width, height)?;
        let mut builder = Builder::default();
        for x in 0..width {
            for y in 0..height {
                builder.push(1, inside(x, y));
            }
        }
        Ok(Self { width, height, counts: builder.counts })
    }

    /// Creates the masks of all labels of a map except 0, in one pass.
    ///
    /// # Errors
    /// [`CoreError::MaskSize`] as [`new`](Self::new).
    ///
    /// ```
    /// use segkiln_core::{LabelMap, Rle};
    ///
    /// let masks = Rle::of_labels(&LabelMap::new(3, 1, vec![4, 0, 4])?)?;
    /// assert_eq!(masks[&4].counts(), [0, 1, 1, 1]);
    /// # Ok::<(), segkiln_core::CoreError>(())
    /// ```
    pub fn of_labels(map: &LabelMap) -> Result<BTreeMap<u32, Self>> {
        let (width, height) = (map.width(), map.height());
        let pixels = pixels(width, height)?;
        // For each label a builder and the end of its last run; and the current run.
        let mut builders: BTreeMap<u32, (Builder, u32)> = BTreeMap::new();
        let (mut label, mut start) = (0, 0);
        let mut close = |label: u32, start: u32, end: u32| {
            if label > 0 && start < end {
                let (builder, last) = builders.entry(label).or_default();
                builder.push(start - *last, false);
                builder.push(end - start, true);
                *last = end;
            }
        };
        // Some columns at a time, because a map is stored row by row.
        let mut columns = vec![0; COLUMNS.min(width as usize) * height as usize];
        for left in (0..width as usize).step_by(COLUMNS) {
            let wide = COLUMNS.min(width as usize - left);
            for (y, row) in map.as_slice().chunks_exact(width as usize).enumerate() {
                for (x, value) in row[left..left + wide].iter().enumerate() {
                    columns[x * height as usize + y] = *value;
                }
            }
            for (pixel, value) in (left as u32 * height..).zip(&columns[..wide * height as usize]) {
                if *value != label {
                    close(label, start, pixel);
                    (label, start) = (*value, pixel);
                }
            }
        }
        close(label, start, pixels);
        let mask = |(label, (mut builder, last)): (u32, (Builder, u32))| {
            builder.push(pixels - last, false);
            (label, Self { width, height, counts: builder.counts })
        };
        Ok(builders.into_iter().map(mask).collect())
    }

    /// Rasterizes the union of polygons, each `[x0, y0, x1, y1, ...]` in pixels, exactly as pycocotools does.
    ///
    /// Pixels are sampled on a grid of fifths of a pixel, and a pixel that lies within a polygon twice is outside.
    ///
    /// # Errors
    /// - [`CoreError::MaskSize`] as [`new`](Self::new)
    /// - [`CoreError::Polygon`] if a polygon has less than three vertices, an odd number of values, or a coordinate that is
    ///   not within ±10⁸
    pub fn from_polygons(width: u32, height: u32, polygons: &[impl AsRef<[f64]>]) -> Result<Self> {
        pixels(width, height)?;
        // Unions of masks of 1, 2, 4, ... polygons, so that each run is merged as often as the number of polygons has bits.
        let mut unions: Vec<(usize, Self)> = Vec::new();
        for (index, polygon) in polygons.iter().enumerate() {
            let counts = polygon::fill(width, height, polygon.as_ref())
                .map_err(|reason| CoreError::Polygon { index, reason })?;
            let (mut size, mut mask) = (1, Self { width, height, counts });
            while let Some((_, other)) = unions.pop_if(|(other, _)| *other == size) {
                (size, mask) = (2 * size, other.union(&mask)?);
            }
            unions.push((size, mask));
        }
        let nothing = Self { width, height, counts: vec![width * height] };
        unions.into_iter().rev().try_fold(nothing, |mask, (_, other)| other.union(&mask))
    }

    /// Parses COCO's compressed form.
    ///
    /// # Errors
    /// - [`CoreError::MaskSize`] and [`CoreError::MaskCounts`] as [`new`](Self::new)
    /// - [`CoreError::MaskString`] if the characters are not such numbers
    pub fn from_string(width: u32, height: u32, string: &str) -> Result<Self> {
        let wrong = |position: usize, reason: &'static str| CoreError::MaskString { position, reason };
        let mut counts: Vec<u32> = Vec::with_capacity(string.len() / 2);
        let (mut value, mut shift) = (0i64, 0);
        for (position, byte) in string.bytes().enumerate() {
            let bits = byte.checked_sub(48).filter(|bits| *bits < 64);
            let bits = bits.ok_or_else(|| wrong(position, "a character that is not between '0' and 'o'"))?;
            if shift > 30 {
                return Err(wrong(position, "a number of more than seven characters"));
            }
            value |= i64::from(bits & 31) << shift;
            shift += 5;
            if bits & 32 != 0 {
                continue;
            }
            if bits & 16 != 0 {
                value -= 1 << shift;
            }
            if counts.len() > 2 {
                value += i64::from(counts[counts.len() - 2]);
            }
            counts.push(value.try_into().map_err(|_| wrong(position, "a run of less than no pixels or of too many"))?);
            (value, shift) = (0, 0);
        }
        if shift > 0 {
            return Err(wrong(string.len(), "an end within a number"));
        }
        Self::from_counts(width, height, counts)
    }

    /// Returns COCO's compressed form: differences between every other run's lengths, five bits a character.
    pub fn to_coco_string(&self) -> String {
        let mut string = String::new();
        for (index, count) in self.counts.iter().enumerate() {
            let before = if index > 2 { i64::from(self.counts[index - 2]) } else { 0 };
            let mut value = i64::from(*count) - before;
            loop {
                let bits = (value & 31) as u8;
                value >>= 5;
                let done = if bits & 16 != 0 { value == -1 } else { value == 0 };
                string.push(char::from(48 + if done { bits } else { bits | 32 }));
                if done {
                    break;
                }
            }
        }
        string
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        Size { width: self.width(), height: self.height() }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Lengths of the runs, alternately of zeros and ones.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Runs of ones: the first pixel and the one after the last, counted column by column.
    pub fn runs(&self) -> impl Iterator<Item = [u32; 2]> {
        let mut end = 0;
        self.counts.chunks(2).filter_map(move |pair| {
            let first = end + pair[0];
            end = first + pair.get(1)?;
            Some([first, end])
        })
    }

    /// Returns the mask row by row.
    pub fn to_mask(&self) -> Vec<bool> {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut mask = vec![false; width * height];
        for [first, end] in self.runs() {
            for pixel in first as usize..end as usize {
                mask[pixel % height * width + pixel / height] = true;
            }
        }
        mask
    }

    /// Number of ones.
    pub fn area(&self) -> u32 {
        self.counts.iter().skip(1).step_by(2).sum()
    }

    /// Bounding box of the ones; `None` if there are none.
    pub fn bbox(&self) -> Option<BBox> {
        let height = self.height;
        let [mut x1, mut y1, mut x2, mut y2] = [u32::MAX, u32::MAX, 0, 0];
        for [first, end] in self.runs() {
            let last = end - 1;
            (x1, x2) = (x1.min(first / height), x2.max(last / height + 1));
            // A run over the end of a column has its last row and the first of the next.
            let whole = first / height != last / height;
            y1 = y1.min(if whole { 0 } else { first % height });
            y2 = y2.max(if whole { height } else { last % height + 1 });
        }
        BBox::new(x1.into(), y1.into(), x2.into(), y2.into()).ok()
    }

    /// Union of two masks.
    ///
    /// # Errors
    /// [`CoreError::MaskMismatch`] unless both masks have one size.
    pub fn union(&self, other: &Self) -> Result<Self> {
        self.combined(other, |a, b| a || b)
    }

    /// Intersection of two masks.
    ///
    /// # Errors
    /// As [`union`](Self::union).
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        self.combined(other, |a, b| a && b)
    }

    fn combined(&self, other: &Self, value: impl Fn(bool, bool) -> bool) -> Result<Self> {
        let mut builder = Builder::default();
        self.for_each_run(other, |count, a, b| builder.push(count, value(a, b)))?;
        Ok(Self { width: self.width, height: self.height, counts: builder.counts })
    }

    /// Calls `f` with the length of each run in which neither mask changes, and the masks' values there.
    fn for_each_run(&self, other: &Self, mut f: impl FnMut(u32, bool, bool)) -> Result<()> {
        let (first, second) = (self.size(), other.size());
        if first != second {
            return Err(CoreError::MaskMismatch { first, second });
        }
        let (mut index, mut rest) = ([0, 0], [self.counts[0], other.counts[0]]);
        loop {
            let count = rest[0].min(rest[1]);
            f(count, index[0] % 2 == 1, index[1] % 2 == 1);
            for (mask, counts) in [&self.counts, &other.counts].into_iter().enumerate() {
                rest[mask] -= count;
                if rest[mask] == 0 {
                    index[mask] += 1;
                    match counts.get(index[mask]) {
                        Some(count) => rest[mask] = *count,
                        // The other mask ends here too.
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    /// Intersection over union, from 0 to 1, and 0 for two empty masks. If `other` is a crowd, its pixels outside of this mask do not
    /// count: intersection over this mask's area.
    ///
    /// # Errors
    /// As [`union`](Self::union).
    pub fn iou(&self, other: &Self, crowd: bool) -> Result<f64> {
        let (mut both, mut union) = (0u32, 0u32);
        self.for_each_run(other, |count, a, b| {
            both += if a && b { count } else { 0 };
            union += if a || b && !crowd { count } else { 0 };
        })?;
        Ok(if both == 0 { 0.0 } else { f64::from(both) / f64::from(union) })
    }
}

/// Collects runs, merging adjacent ones of one value.
#[derive(Default)]
struct Builder {
    counts: Vec<u32>,
    value: bool,
}

impl Builder {
    fn push(&mut self, count: u32, value: bool) {
        if self.counts.is_empty() {
            self.counts.push(0);
        }
        if count == 0 {
            return;
        }
        if value != self.value {
            self.counts.push(0);
            self.value = value;
        }
        if let Some(last) = self.counts.last_mut() {
            *last += count;
        }
    }
}
