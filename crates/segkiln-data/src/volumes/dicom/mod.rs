//! DICOM: slices of files or of frames, put in order by where they lie.

mod parse;
mod pixels;

use std::{
    collections::BTreeMap,
    mem::take,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::{
    parse::{DataSet, DicomFile, Tag, shown},
    pixels::Layout,
};
use super::{Geometry, Volume};
use crate::{DataError, Limits, Result, text::read_bytes, warn};

/// The images of one series in a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct DicomSeries {
    /// `SeriesInstanceUID`; empty where files have none.
    pub uid: String,
    /// `SeriesDescription`.
    pub description: String,
    /// `Modality`, such as `CT`.
    pub modality: String,
    /// Paths of the files, sorted by name.
    pub files: Vec<PathBuf>,
    /// Windows that the first file suggests for display.
    pub windows: Vec<VoiWindow>,
}

/// A window of values for display: its center and width, and DICOM's function of them (PS3.3, C.11.2.1.2).
///
/// ```
/// use segkiln_data::volumes::VoiWindow;
///
/// let bone = VoiWindow::linear(400.0, 1800.0);
/// assert_eq!((bone.apply(-1000.0), bone.apply(3000.0)), (0.0, 1.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VoiWindow {
    /// Value in the middle.
    pub center: f64,
    /// Range of values; at least 1 for the linear function, above 0 for the others.
    pub width: f64,
    /// Function from values to brightness.
    pub function: WindowFunction,
}

/// DICOM's `VOILUTFunction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowFunction {
    /// `LINEAR`: from center - 0.5 - (width - 1) / 2 on.
    #[default]
    Linear,
    /// `LINEAR_EXACT`: from center - width / 2 on.
    LinearExact,
    /// `SIGMOID`.
    Sigmoid,
}

impl VoiWindow {
    /// A window of DICOM's default function.
    pub fn linear(center: f64, width: f64) -> Self {
        Self { center, width, function: WindowFunction::Linear }
    }

    /// The brightness of a value, from 0 to 1.
    pub fn apply(&self, value: f32) -> f32 {
        let from_center = f64::from(value) - self.center;
        let brightness = match self.function {
            // A width of 1 is a step, which the quotient of infinities makes of it.
            WindowFunction::Linear => (from_center + 0.5) / (self.width - 1.0).max(f64::MIN_POSITIVE) + 0.5,
            WindowFunction::LinearExact => from_center / self.width + 0.5,
            WindowFunction::Sigmoid => 1.0 / (1.0 + (-4.0 * from_center / self.width).exp()),
        };
        brightness.clamp(0.0, 1.0) as f32
    }
}

/// One image of a series: a file, or a frame of one.
#[derive(Debug, Clone)]
struct Slice {
    /// Index of its file in the series.
    file: usize,
    frame: usize,
    place: Place,
    slope: f64,
    intercept: f64,
}

/// Position and direction of an image in the patient, in millimeters to the left, posterior and superior (LPS+).
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Center of the first pixel.
    position: [f64; 3],
    /// Direction of rising columns, then of rising rows.
    orientation: [f64; 6],
    /// Distance between rows, then between columns.
    spacing: [f64; 2],
    /// Distance to the next slice, where there is none to measure it by.
    step: Option<f64>,
    /// False where the file has no position.
    is_given: bool,
}

impl Place {
    fn normal(&self) -> [f64; 3] {
        let [a, b, c, d, e, f] = self.orientation;
        [b * f - c * e, c * d - a * f, a * e - b * d]
    }

    fn along(&self, normal: [f64; 3]) -> f64 {
        self.position.iter().zip(normal).map(|(position, normal)| position * normal).sum()
    }
}

/// A file of images, with its slices and the values of each.
struct Images {
    layout: Layout,
    slices: Vec<Slice>,
    values: Vec<Vec<f32>>,
}

/// Bytes of values that the files of a series may take together.
struct Budget {
    most: u64,
    taken: AtomicU64,
}

impl Budget {
    fn new(limits: &Limits) -> Self {
        Self { most: limits.max_bytes, taken: AtomicU64::new(0) }
    }

    /// Takes the bytes of a file's values before there are any.
    fn take(&self, layout: &Layout, path: &Path) -> Result<()> {
        // The layout is within the limits by itself.
        let bytes = (layout.pixels() * layout.frames * size_of::<f32>()) as u64;
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.most {
            return Ok(());
        }
        let reason = format!(
            "with its {} frames of {}x{} pixels the series is over the limit of {} bytes; raise `Limits` if that is true",
            layout.frames, layout.columns, layout.rows, self.most
        );
        Err(DataError::volume(path, "frames", reason))
    }
}

/// Lists the series of a folder, by their UIDs. Files without pictures (reports, `DICOMDIR`) are left out, and so are files that
/// are not DICOM, with a warning unless their name says `.dcm`, which is an error.
///
/// # Errors
/// If the folder or a file cannot be read, or a file of DICOM is damaged.
pub fn dicom_series(folder: impl AsRef<Path>, limits: &Limits) -> Result<Vec<DicomSeries>> {
    let series_of = |path: &PathBuf| Ok(open_pictures(path, limits)?.map(|(_, series)| series));
    let found: Vec<Option<DicomSeries>> = files(folder.as_ref())?.par_iter().map(series_of).collect::<Result<_>>()?;
    Ok(joined(found.into_iter().flatten()))
}

/// The files of a folder that are not hidden, by their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| DataError::io("list the folder", folder, source);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Puts the files of each series together, in the order in which they are given.
fn joined(found: impl IntoIterator<Item = DicomSeries>) -> Vec<DicomSeries> {
    let mut series: BTreeMap<String, DicomSeries> = BTreeMap::new();
    for one in found {
        match series.get_mut(&one.uid) {
            Some(known) => known.files.extend(one.files),
            None => drop(series.insert(one.uid.clone(), one)),
        }
    }
    series.into_values().collect()
}

/// Reads a DICOM file, or the one series of a folder, as a volume.
///
/// Slices are put in order by their positions along the normal of their plane, whatever their names and numbers are; frames of a
/// multi-frame file are slices too. Stored values become those of `RescaleSlope` and `RescaleIntercept`; of MONOCHROME1, where
/// the least value is white, they are mirrored within their bits first, so that more is brighter. Native,
/// RLE, JPEG (baseline and lossless) and JPEG 2000 data are read.
///
/// # Errors
/// If a folder has no series or several (see [`dicom_series`]), a file is damaged, truncated, compressed in another way or
/// larger than the limits, is of color, has a `ModalityLUTSequence`, lacks its place; if slices differ in size, spacing or
/// direction, share a place, or one is missing. Each names the file and the tag.
pub fn read_dicom(path: impl AsRef<Path>, limits: &Limits) -> Result<Volume> {
    let path = path.as_ref();
    let budget = Budget::new(limits);
    // Each file is read once. What is wrong with its pixels counts only where there is one series.
    let read = |path: &PathBuf| {
        let Some((file, series)) = open_pictures(path, limits)? else { return Ok(None) };
        Ok(Some((series, images(&file, path, limits, &budget))))
    };
    let paths = if path.is_dir() { files(path)? } else { vec![path.into()] };
    let found: Vec<Option<(DicomSeries, Result<Images>)>> = paths.par_iter().map(read).collect::<Result<_>>()?;
    let (found, images): (Vec<DicomSeries>, Vec<Result<Images>>) = found.into_iter().flatten().unzip();
    let mut all = joined(found);
    match (all.pop(), all.len()) {
        (None, _) if !path.is_dir() => Err(no_pictures(path)),
        (None, _) => Err(DataError::Empty { what: format!("{} (DICOM images)", path.display()) }),
        (Some(series), 0) => series.volume(images.into_iter().collect::<Result<_>>()?),
        (Some(last), _) => {
            let uids: Vec<&str> = all.iter().chain([&last]).map(|series| series.uid.as_str()).take(10).collect();
            let reason =
                format!("the folder has {} series, read one of them by itself: {}", all.len() + 1, uids.join(", "));
            Err(DataError::volume(path, shown(parse::SERIES), reason))
        }
    }
}

fn no_pictures(path: &Path) -> DataError {
    DataError::Decode { path: path.into(), format: "DICOM", reason: "it has no picture".into() }
}

fn open(path: &Path, limits: &Limits) -> Result<Option<DicomFile>> {
    let bytes = read_bytes(path, limits.max_bytes)?;
    if bytes.is_empty() {
        return Err(DataError::EmptyFile { path: path.into() });
    }
    let damaged = |reason| DataError::Decode { path: path.into(), format: "DICOM", reason };
    if !DicomFile::is_dicom(&bytes) {
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("dcm")) {
            return Err(damaged("it does not begin as a file of DICOM does".into()));
        }
        return Ok(None);
    }
    DicomFile::parse(bytes, limits.max_bytes).map(Some).map_err(damaged)
}

/// A file and the series of it alone; none where it has no pictures.
fn open_pictures(path: &Path, limits: &Limits) -> Result<Option<(DicomFile, DicomSeries)>> {
    let Some(file) = open(path, limits)? else {
        warn::warn(warn::NO_DICOM, path, "is not DICOM, and left out");
        return Ok(None);
    };
    if file.pixels().is_none() && file.short(&file.data, parse::ROWS).is_none() {
        return Ok(None);
    }
    let text = |tag| file.text(&file.data, tag).unwrap_or_default();
    let refused = |tag: Tag| move |reason: String| DataError::volume(path, shown(tag), reason);
    let numbers = |tag| file.decimals(&file.data, tag).map_err(refused(tag)).map(Option::unwrap_or_default);
    let function = match text(parse::WINDOW_FUNCTION).as_str() {
        "LINEAR_EXACT" => WindowFunction::LinearExact,
        "SIGMOID" => WindowFunction::Sigmoid,
        _ => WindowFunction::Linear,
    };
    let least = if function == WindowFunction::Linear { 1.0 } else { f64::MIN_POSITIVE };
    let pairs = numbers(parse::WINDOW_CENTER)?.into_iter().zip(numbers(parse::WINDOW_WIDTH)?);
    let windows = pairs.filter(|(_, width)| *width >= least);
    let series = DicomSeries {
        uid: text(parse::SERIES),
        description: text(parse::DESCRIPTION),
        modality: text(parse::MODALITY),
        files: vec![path.into()],
        windows: windows.map(|(center, width)| VoiWindow { center, width, function }).collect(),
    };
    Ok(Some((file, series)))
}

impl DicomSeries {
    /// Reads the volume.
    ///
    /// # Errors
    /// The errors of [`read_dicom`].
    pub fn read(&self, limits: &Limits) -> Result<Volume> {
        let budget = Budget::new(limits);
        let read = |path: &PathBuf| {
            let file = open(path, limits)?.ok_or_else(|| no_pictures(path))?;
            images(&file, path, limits, &budget)
        };
        self.volume(self.files.par_iter().map(read).collect::<Result<_>>()?)
    }

    /// Makes a volume of the images of its files.
    fn volume(&self, mut files: Vec<Images>) -> Result<Volume> {
        for (index, images) in files.iter_mut().enumerate() {
            images.slices.iter_mut().for_each(|slice| slice.file = index);
        }
        let Some(first) = files.first() else {
            return Err(DataError::Empty { what: format!("the series {}", self.uid) });
        };
        let (rows, columns) = (first.layout.rows, first.layout.columns);
        for (images, path) in files.iter().zip(&self.files) {
            if (images.layout.rows, images.layout.columns) != (rows, columns) {
                let reason = format!(
                    "{}x{} pixels, where {} of the same series has {columns}x{rows}; keep files of one size",
                    images.layout.columns,
                    images.layout.rows,
                    self.files[0].display()
                );
                return Err(DataError::volume(path, "rows and columns (0028,0010)", reason));
            }
        }
        let mut slices: Vec<Slice> = files.iter_mut().flat_map(|images| take(&mut images.slices)).collect();
        let geometry = self.arrange(&mut slices, [rows, columns])?;
        let mut values = Vec::with_capacity(slices.len() * rows * columns);
        for slice in &slices {
            // Each is given back when it has been copied, so that the volume is not in memory twice.
            values.extend_from_slice(&take(&mut files[slice.file].values[slice.frame]));
        }
        Volume::new(geometry, 1, values)
    }

    /// Puts slices in the order of their places, and checks that these are those of a volume.
    fn arrange(&self, slices: &mut [Slice], [rows, columns]: [usize; 2]) -> Result<Geometry> {
        /// Directions are written with some six digits.
        const DIRECTION: f64 = 1e-3;
        /// Share of the usual distance by which one may differ.
        const UNEVEN: f64 = 0.1;
        let first = slices[0].place;
        let normal = first.normal();
        let path = |slice: &Slice| &self.files[slice.file];
        let shown_slice = |slice: &Slice| match is_one_of_frames(self, slice) {
            true => format!("frame {} of {}", slice.frame, path(slice).display()),
            false => path(slice).display().to_string(),
        };
        for slice in slices.iter() {
            if !slice.place.is_given && slices.len() > 1 {
                let reason = "it is missing, so that the image has no place among the others";
                return Err(DataError::volume(path(slice), shown(parse::POSITION), reason));
            }
            let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > DIRECTION);
            if apart(&slice.place.orientation, &first.orientation) {
                let reason = "another direction than the first file of the series has; is it a localizer?";
                return Err(DataError::volume(path(slice), shown(parse::ORIENTATION), reason));
            }
            if apart(&slice.place.spacing, &first.spacing) {
                let reason =
                    format!("{:?}, where the first file of the series has {:?}", slice.place.spacing, first.spacing);
                return Err(DataError::volume(path(slice), shown(parse::SPACING), reason));
            }
        }
        slices.sort_by(|a, b| a.place.along(normal).total_cmp(&b.place.along(normal)));
        let distances: Vec<f64> =
            slices.windows(2).map(|pair| pair[1].place.along(normal) - pair[0].place.along(normal)).collect();
        let usual = {
            let mut sorted = distances.clone();
            sorted.sort_by(f64::total_cmp);
            // The lower of two in the middle: a gap is longer, never shorter.
            sorted.get(sorted.len().saturating_sub(1) / 2).copied()
        };
        if let Some(usual) = usual {
            for (pair, distance) in slices.windows(2).zip(&distances) {
                let (one, two) = (shown_slice(&pair[0]), shown_slice(&pair[1]));
                if *distance < 1e-4 || *distance < UNEVEN * usual {
                    let reason =
                        format!("{one} and {two} are at the same place; keep one of them, or one point of time");
                    return Err(DataError::volume(path(&pair[1]), shown(parse::POSITION), reason));
                }
                if (distance - usual).abs() > UNEVEN * usual {
                    let reason = format!(
                        "a slice is missing between {one} and {two}: they are {distance:.3} mm apart, others {usual:.3} mm"
                    );
                    return Err(DataError::volume(path(&pair[1]), shown(parse::POSITION), reason));
                }
            }
        }
        let (start, end) = (slices[0].place.position, slices[slices.len() - 1].place.position);
        let step: [f64; 3] = match slices.len() {
            1 => normal.map(|normal| normal * first.step.unwrap_or(1.0)),
            count => std::array::from_fn(|i| (end[i] - start[i]) / (count - 1) as f64),
        };
        // Left and posterior become right and anterior.
        let row = |i: usize, sign: f64| {
            let [y, x] = first.spacing;
            [first.orientation[i] * x, first.orientation[3 + i] * y, step[i], start[i]].map(|value| sign * value)
        };
        let affine = [row(0, -1.0), row(1, -1.0), row(2, 1.0), [0.0, 0.0, 0.0, 1.0]];
        Geometry::new([slices.len(), rows, columns], affine).map_err(|error| match error {
            DataError::Option { reason, .. } => DataError::volume(path(&slices[0]), shown(parse::ORIENTATION), reason),
            other => other,
        })
    }
}

/// True if messages must name the frame beside the file.
fn is_one_of_frames(series: &DicomSeries, slice: &Slice) -> bool {
    slice.frame > 0 || series.files.len() == 1
}

/// The layout, the slices and the values of a file.
fn images(file: &DicomFile, path: &Path, limits: &Limits, budget: &Budget) -> Result<Images> {
    let refused = |tag: Tag, reason: String| DataError::volume(path, shown(tag), reason);
    let layout = layout(file, limits).map_err(|(tag, reason)| refused(tag, reason))?;
    // Read once, not once a frame.
    let offsets = match layout.frames > 1 && file.data.items(parse::FRAME_GROUPS).is_empty() {
        true => file.decimals(&file.data, parse::FRAME_OFFSETS),
        false => Ok(None),
    };
    let offsets = offsets.map_err(|reason| refused(parse::FRAME_OFFSETS, reason))?.unwrap_or_default();
    let slices: Vec<Slice> = (0..layout.frames)
        .map(|frame| slice(file, &layout, &offsets, frame).map_err(|(tag, reason)| refused(tag, reason)))
        .collect::<Result<_>>()?;
    budget.take(&layout, path)?;
    let values = slices.iter().map(|slice| values(file, &layout, slice, path)).collect::<Result<_>>()?;
    Ok(Images { layout, slices, values })
}

/// The values of a frame, scaled.
fn values(file: &DicomFile, layout: &Layout, slice: &Slice, path: &Path) -> Result<Vec<f32>> {
    let mut values = vec![0f32; layout.pixels()];
    let mut places = values.iter_mut();
    let put = |stored: f64| {
        if let Some(value) = places.next() {
            *value = (stored * slice.slope + slice.intercept) as f32;
        }
    };
    pixels::frame(file, layout, slice.frame, put)
        .map_err(|reason| DataError::volume(path, format!("pixel data of frame {}", slice.frame), reason))?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(DataError::volume(path, shown(parse::SLOPE), format!("{} takes values out of range", slice.slope)));
    }
    Ok(values)
}

/// Tag and reason of an error.
type Fault = (Tag, String);

fn layout(file: &DicomFile, limits: &Limits) -> std::result::Result<Layout, Fault> {
    let short = |tag: Tag| file.short(&file.data, tag).ok_or((tag, "it is missing".to_owned()));
    let samples = file.short(&file.data, parse::SAMPLES).unwrap_or(1);
    let photometric = file.text(&file.data, parse::PHOTOMETRIC).unwrap_or_else(|| "MONOCHROME2".into());
    if samples != 1 || !matches!(photometric.as_str(), "MONOCHROME1" | "MONOCHROME2") {
        return Err((parse::PHOTOMETRIC, format!("{photometric} with {samples} samples is no volume of gray values")));
    }
    if file.data.has(parse::MODALITY_LUT) {
        return Err((parse::MODALITY_LUT, "tables of values are not read; save the image with a rescale slope".into()));
    }
    let frames = match file.decimals(&file.data, parse::FRAMES).map_err(|reason| (parse::FRAMES, reason))? {
        None => 1.0,
        Some(numbers) => numbers[0],
    };
    if !(frames >= 1.0 && frames.fract() == 0.0 && frames <= f64::from(u32::MAX)) {
        return Err((parse::FRAMES, format!("{frames} is no number of frames")));
    }
    let (rows, columns) = (short(parse::ROWS)?, short(parse::COLUMNS)?);
    let allocated = short(parse::ALLOCATED)?;
    if !matches!(allocated, 8 | 16 | 32) {
        return Err((parse::ALLOCATED, format!("values of {allocated} bits are not read; 8, 16 and 32 are")));
    }
    let stored = file.short(&file.data, parse::STORED).unwrap_or(allocated);
    let high = file.short(&file.data, parse::HIGH_BIT).unwrap_or(stored.saturating_sub(1));
    if stored == 0 || high >= allocated || high + 1 < stored {
        return Err((parse::STORED, format!("{stored} bits up to bit {high} do not lie in {allocated}")));
    }
    let layout = Layout {
        rows: rows.into(),
        columns: columns.into(),
        frames: frames as usize,
        allocated,
        stored,
        high,
        signed: file.short(&file.data, parse::REPRESENTATION) == Some(1),
        inverted: photometric == "MONOCHROME1",
    };
    let produced = f64::from(rows) * f64::from(columns) * frames * 4.0;
    if rows == 0 || columns == 0 {
        return Err((parse::ROWS, format!("{columns}x{rows} pixels")));
    }
    if u32::from(rows) > limits.max_height
        || u32::from(columns) > limits.max_width
        || frames > f64::from(limits.max_width)
        || produced > limits.max_bytes as f64
    {
        let reason =
            format!("{columns}x{rows} pixels in {frames} frames are over the limits; raise `Limits` if that is true");
        return Err((parse::ROWS, reason));
    }
    Ok(layout)
}

/// The place and scaling of a frame. `offsets` are those of `GridFrameOffsetVector`, or empty.
fn slice(file: &DicomFile, layout: &Layout, offsets: &[f64], frame: usize) -> std::result::Result<Slice, Fault> {
    let (shared, own) = (file.data.items(parse::SHARED_GROUPS), file.data.items(parse::FRAME_GROUPS));
    if !own.is_empty() && own.len() != layout.frames {
        return Err((parse::FRAME_GROUPS, format!("{} items for {} frames", own.len(), layout.frames)));
    }
    // The frame's own group, else the shared one, else the data set itself (files older than functional groups).
    let group = |sequence: Tag| {
        let of = |groups: &DataSet| !groups.items(sequence).is_empty();
        let groups = own.get(frame).filter(|groups| of(groups)).or(shared.first().filter(|groups| of(groups)));
        groups.map_or(&file.data, |groups| &groups.items(sequence)[0])
    };
    fn needed<const N: usize>(file: &DicomFile, data: &DataSet, tag: Tag) -> std::result::Result<[f64; N], Fault> {
        let numbers = file.numbers(data, tag).map_err(|reason| (tag, reason))?;
        numbers.ok_or_else(|| (tag, "it is missing, so that the image has no place in the patient".into()))
    }
    let number = |data: &DataSet, tag: Tag| {
        let number = file.numbers::<1>(data, tag).map_err(|reason| (tag, reason))?;
        Ok(number.map(|[number]| number))
    };
    let measures = group(parse::PIXEL_MEASURES);
    let step = match number(measures, parse::BETWEEN_SLICES)? {
        Some(step) => Some(step),
        None => number(measures, parse::THICKNESS)?,
    };
    let step = step.map(f64::abs).filter(|step| *step > 0.0);
    let (position, orientation) = (group(parse::PLANE_POSITION), group(parse::PLANE_ORIENTATION));
    // A picture by itself, such as a radiograph, may have no place.
    let is_placed = layout.frames > 1 || file.text(position, parse::POSITION).is_some();
    let mut place = match is_placed {
        true => Place {
            position: needed(file, position, parse::POSITION)?,
            orientation: needed(file, orientation, parse::ORIENTATION)?,
            spacing: needed(file, measures, parse::SPACING)?,
            step,
            is_given: true,
        },
        false => Place {
            position: [0.0; 3],
            orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            spacing: file
                .numbers(measures, parse::SPACING)
                .map_err(|reason| (parse::SPACING, reason))?
                .unwrap_or([1.0; 2]),
            step,
            is_given: false,
        },
    };
    if place.spacing.iter().any(|spacing| *spacing <= 0.0) {
        return Err((parse::SPACING, format!("{:?} must be above 0", place.spacing)));
    }
    // Lengths other than 1 would be taken for spacing.
    let length = place.normal().iter().map(|value| value * value).sum::<f64>().sqrt();
    if (length - 1.0).abs() > 0.01 {
        let reason = format!("{:?} are not two directions of length 1 at a right angle", place.orientation);
        return Err((parse::ORIENTATION, reason));
    }
    // Without functional groups, frames lie along the normal.
    if layout.frames > 1 && own.is_empty() {
        let offset = match offsets.get(frame) {
            Some(offset) => *offset,
            None => {
                let step = number(measures, parse::BETWEEN_SLICES)?;
                step.ok_or((parse::BETWEEN_SLICES, "it is missing, so that frames have no place".to_owned()))?
                    * frame as f64
            }
        };
        let normal = place.normal();
        place.position = std::array::from_fn(|i| place.position[i] + normal[i] * offset);
    }
    let values = group(parse::VALUE_TRANSFORMATION);
    let slope = number(values, parse::SLOPE)?.unwrap_or(1.0);
    let intercept = number(values, parse::INTERCEPT)?.unwrap_or(0.0);
    Ok(Slice { file: 0, frame, place, slope, intercept })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_series_are_bounded_together() {
        let layout = Layout {
            rows: 10,
            columns: 5,
            frames: 2,
            allocated: 16,
            stored: 16,
            high: 15,
            signed: false,
            inverted: false,
        };
        let budget = Budget::new(&Limits { max_bytes: 1000, ..Limits::default() });
        // Values are floats: 400 bytes.
        assert!(budget.take(&layout, Path::new("a.dcm")).is_ok() && budget.take(&layout, Path::new("b.dcm")).is_ok());
        let error = budget.take(&layout, Path::new("c.dcm")).unwrap_err().to_string();
        assert!(
            error.contains("c.dcm") && error.contains("2 frames of 5x10") && error.contains("1000 bytes"),
            "{error}"
        );
    }
}
