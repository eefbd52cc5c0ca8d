//! Resizing with half-pixel centers: pixel `i` of `n` covers `[i, i + 1]`, and the edges of both images coincide.

use std::ops::Range;

use segkiln_core::LabelMap;

use crate::{DataError, Image, Result};

/// Resizes an image bilinearly; on the way down the filter widens with the scale, so that detail is averaged, not
/// skipped. This is PIL's `BILINEAR` and PyTorch's `interpolate(mode="bilinear", antialias=True, align_corners=False)`.
///
/// # Errors
/// If a side is 0.
///
/// ```
/// use segkiln_data::{Image, resize_image};
///
/// let image = Image::new(2, 1, 1, vec![0.0, 1.0])?;
/// assert_eq!(resize_image(&image, 4, 1)?.as_slice(), [0.0, 0.25, 0.75, 1.0]);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
pub fn resize_image(image: &Image, width: u32, height: u32) -> Result<Image> {
    resize_image_by(image, width, height, Filter::Bilinear)
}

/// Interpolation between pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Filter {
    /// PIL's `BILINEAR`: of two in each direction.
    #[default]
    Bilinear,
    /// PIL's `BICUBIC`: of four in each direction, Keys's cubic with `a = -0.5`. It overshoots at edges.
    Bicubic,
}

impl Filter {
    /// Beyond this distance, in old pixels, nothing counts.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// Returns the weight of a pixel at this distance, before the weights are normalized to a sum of 1.
    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((x - 5.0) * x + 8.0) * x * -0.5 + 2.0,
            Self::Bicubic => 0.0,
        }
    }
}

/// [`resize_image`] with another filter.
///
/// # Errors
/// If a side is 0.
pub fn resize_image_by(image: &Image, width: u32, height: u32, filter: Filter) -> Result<Image> {
    check(width, height)?;
    let axis = |from: u32, to: u32| PartAxis::by(filter, from, to, 0..to);
    Ok(resize_part(image, &axis(image.width(), width), &axis(image.height(), height)))
}

/// Some of the columns or rows that an image is resized to.
pub(crate) struct PartAxis {
    /// What each is made of, counted from `first`; none where both images have the same side.
    taps: Option<Vec<Taps<f32>>>,
    /// Columns or rows of the image that they are made of.
    source: Range<u32>,
}

impl PartAxis {
    /// The range `to` of a side of `new` pixels that was one of `old`.
    pub fn new(old: u32, new: u32, to: Range<u32>) -> Self {
        Self::by(Filter::Bilinear, old, new, to)
    }

    fn by(filter: Filter, old: u32, new: u32, to: Range<u32>) -> Self {
        if old == new {
            return Self { taps: None, source: to };
        }
        let mut taps = floats(taps(old, new, to, filter));
        let first = taps.iter().map(|taps| taps.first).min().unwrap_or(0);
        let last = taps.iter().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(0);
        taps.iter_mut().for_each(|taps| taps.first -= first);
        Self { taps: Some(taps), source: first as u32..last as u32 }
    }

    /// Columns or rows of the old image that are needed.
    pub fn source(&self) -> Range<u32> {
        self.source.clone()
    }
}

/// Resizes the part of an image that the axes need.
pub(crate) fn resize_part(image: &Image, columns: &PartAxis, rows: &PartAxis) -> Image {
    let (channels, old_width) = (image.channels(), image.width() as usize);
    let (width, values) = match &columns.taps {
        None => (old_width, image.as_slice().to_vec()),
        Some(taps) => {
            let mut out = vec![0.0; taps.len() * image.height() as usize * channels];
            let rows = out.chunks_exact_mut(taps.len() * channels);
            for (to, from) in rows.zip(image.as_slice().chunks_exact(old_width * channels)) {
                // With the number of channels known, the inner loop is unrolled.
                match channels {
                    1 => resize_row::<1>(from, to, taps),
                    3 => resize_row::<3>(from, to, taps),
                    4 => resize_row::<4>(from, to, taps),
                    _ => resize_any_row(from, to, taps, channels),
                }
            }
            (taps.len(), out)
        }
    };
    let Some(taps) = &rows.taps else {
        return Image::from_parts(width as u32, image.height(), channels, values);
    };
    let stride = width * channels;
    let mut out = vec![0.0; stride * taps.len()];
    for (to, taps) in out.chunks_exact_mut(stride).zip(taps) {
        for (weight, from) in taps.weights.iter().zip(values[taps.first * stride..].chunks_exact(stride)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
        }
    }
    Image::from_parts(width as u32, taps.len() as u32, channels, out)
}

fn resize_row<const C: usize>(from: &[f32], to: &mut [f32], taps: &[Taps<f32>]) {
    let (from, _) = from.as_chunks::<C>();
    for (pixel, taps) in to.as_chunks_mut::<C>().0.iter_mut().zip(taps) {
        for (weight, source) in taps.weights.iter().zip(&from[taps.first..]) {
            for c in 0..C {
                pixel[c] += weight * source[c];
            }
        }
    }
}

fn resize_any_row(from: &[f32], to: &mut [f32], taps: &[Taps<f32>], channels: usize) {
    for (pixel, taps) in to.chunks_exact_mut(channels).zip(taps) {
        for (weight, source) in taps.weights.iter().zip(from[taps.first * channels..].chunks_exact(channels)) {
            pixel.iter_mut().zip(source).for_each(|(to, from)| *to += weight * from);
        }
    }
}

/// Resizes a label map: each pixel takes the label in which its center lies.
///
/// # Errors
/// If a side is 0, or the map has no pixels.
pub fn resize_labels(map: &LabelMap, width: u32, height: u32) -> Result<LabelMap> {
    check(width, height)?;
    check(map.width(), map.height())?;
    let source = |i: u32, from: u32, to: u32| ((2 * u64::from(i) + 1) * u64::from(from) / (2 * u64::from(to))) as usize;
    let columns: Vec<usize> = (0..width).map(|x| source(x, map.width(), width)).collect();
    let mut labels = Vec::with_capacity(width as usize * height as usize);
    for y in 0..height {
        let row = &map.as_slice()[source(y, map.height(), height) * map.width() as usize..];
        labels.extend(columns.iter().map(|x| row[*x]));
    }
    Ok(LabelMap::new(width, height, labels).expect("each pixel has one label"))
}

fn check(width: u32, height: u32) -> Result<()> {
    if width > 0 && height > 0 {
        return Ok(());
    }
    Err(DataError::Option { option: "size", reason: format!("both sides must be at least 1, got {width}x{height}") })
}

/// Resizes an image of gray levels of 8 bits in `[0, 1]` as PIL does: weights of 22 bits, and whole levels after each direction.
///
/// # Errors
/// If a side is 0.
pub(crate) fn resize_levels(image: &Image, width: u32, height: u32, filter: Filter) -> Result<Image> {
    check(width, height)?;
    let channels = image.channels();
    let [old_width, old_height] = [image.width(), image.height()].map(|side| side as usize);
    let mut levels: Vec<u8> = image.as_slice().iter().map(|value| (value * 255.0).round_ties_even() as u8).collect();
    if width != image.width() {
        let mut rows = Vec::with_capacity(width as usize * old_height * channels);
        let taps = fixed(taps(image.width(), width, 0..width, filter));
        for row in levels.chunks_exact(old_width * channels) {
            for (first, weights) in &taps {
                rows.extend(
                    (0..channels)
                        .map(|channel| level(weights, row[first * channels + channel..].iter().step_by(channels))),
                );
            }
        }
        levels = rows;
    }
    if height != image.height() {
        let stride = width as usize * channels;
        let mut rows = Vec::with_capacity(stride * height as usize);
        for (first, weights) in &fixed(taps(image.height(), height, 0..height, filter)) {
            rows.extend(
                (0..stride).map(|column| level(weights, levels[first * stride + column..].iter().step_by(stride))),
            );
        }
        levels = rows;
    }
    let values = levels.into_iter().map(|level| f32::from(level) / 255.0).collect();
    Ok(Image::from_parts(width, height, channels, values))
}

/// Bits of a weight behind the point.
const BITS: u32 = 22;

fn fixed(taps: Vec<Taps<f64>>) -> Vec<(usize, Vec<i64>)> {
    let weight = |weight: f64| (weight * f64::from(1 << BITS)).round() as i64;
    taps.into_iter().map(|taps| (taps.first, taps.weights.into_iter().map(weight).collect())).collect()
}

/// The level that some make, of which each counts its weight.
fn level<'a>(weights: &[i64], levels: impl Iterator<Item = &'a u8>) -> u8 {
    let sum: i64 = weights.iter().zip(levels).map(|(weight, level)| weight * i64::from(*level)).sum();
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

/// The neighboring source pixels that make up one output pixel; the weights sum to 1.
struct Taps<T> {
    first: usize,
    weights: Vec<T>,
}

/// The pixels of the range `part` of `to`.
fn taps(from: u32, to: u32, part: Range<u32>, filter: Filter) -> Vec<Taps<f64>> {
    let scale = f64::from(from) / f64::from(to);
    let (support, inverse) = (filter.support() * scale.max(1.0), 1.0 / scale.max(1.0));
    part.map(|i| {
        let center = scale * (f64::from(i) + 0.5);
        let first = (center - support + 0.5).max(0.0) as usize;
        let last = ((center + support + 0.5) as usize).min(from as usize);
        let weight = |at: usize| filter.weight((at as f64 - center + 0.5) * inverse);
        let total: f64 = (first..last).map(weight).sum();
        Taps { first, weights: (first..last).map(|at| weight(at) / total).collect() }
    })
    .collect()
}

fn floats(taps: Vec<Taps<f64>>) -> Vec<Taps<f32>> {
    let float = |taps: Taps<f64>| Taps {
        first: taps.first,
        weights: taps.weights.into_iter().map(|weight| weight as f32).collect(),
    };
    taps.into_iter().map(float).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from `tests/parity/data_resize.py`.
    #[test]
    fn images_are_resized_as_by_pil() {
        let values = (0..20u32).map(|i| (i % 5, i / 5)).map(|(x, y)| ((3 * x * x + 7 * y + x * y) % 17) as f32);
        let image = Image::new(5, 4, 1, values.collect()).unwrap();
        let cases: [(Filter, u32, u32, &[f32]); 10] = [
            (
                Filter::Bilinear,
                7,
                6,
                &[
                    0.0, 1.71429, 5.57143, 12.0, 10.57143, 11.71429, 14.0, 3.5, 5.5, 7.28571, 8.0, 6.92857, 8.42857,
                    11.0, 8.16667, 8.92857, 8.35714, 5.5, 4.90476, 5.66667, 7.0, 12.83333, 7.5, 5.78571, 11.5,
                    11.38095, 7.7619, 3.0, 9.0, 7.28571, 6.85714, 9.0, 9.35714, 8.64286, 7.5, 4.0, 7.42857, 8.57143,
                    5.0, 5.71429, 9.0, 13.0,
                ],
            ),
            (Filter::Bilinear, 3, 2, &[5.55102, 7.88889, 8.73469, 7.85714, 8.0, 8.0]),
            (
                Filter::Bilinear,
                5,
                2,
                &[5.0, 6.28571, 8.71429, 7.42857, 9.71429, 8.71429, 6.71429, 8.28571, 8.57143, 7.57143],
            ),
            (Filter::Bilinear, 2, 4, &[4.40909, 11.40909, 7.77273, 5.18182, 8.81818, 9.0, 6.77273, 8.18182]),
            (
                Filter::Bilinear,
                13,
                3,
                &[
                    2.1, 2.35385, 3.62308, 4.89231, 6.36923, 7.98462, 9.6, 8.94615, 8.29231, 8.56154, 10.21538,
                    11.86923, 12.2, 10.5, 10.19231, 8.65385, 7.11538, 6.96154, 7.73077, 8.5, 8.30769, 8.11539, 7.53846,
                    6.38462, 5.23077, 5.0, 7.0, 7.04615, 7.27692, 7.50769, 7.55385, 7.47692, 7.4, 7.66923, 7.93846,
                    8.34615, 8.96154, 9.57692, 9.7,
                ],
            ),
            (
                Filter::Bicubic,
                7,
                6,
                &[
                    -0.63145, 0.51301, 5.18034, 12.52632, 10.96674, 12.05598, 14.62391, 2.62536, 5.32361, 7.76162,
                    7.70588, 6.11953, 8.39563, 11.84466, 8.25137, 9.81037, 9.10271, 4.71296, 3.70568, 5.11191, 6.97355,
                    14.46397, 6.96721, 4.22524, 12.28704, 13.17628, 7.65898, 1.42761, 9.31639, 6.97002, 6.30835,
                    9.29412, 10.02041, 8.85921, 7.3301, 2.92361, 7.76447, 9.55424, 4.47368, 4.50859, 9.21501, 14.20043,
                ],
            ),
            (Filter::Bicubic, 3, 2, &[5.35232, 7.87092, 8.81907, 8.04336, 8.00815, 7.95448]),
            (
                Filter::Bicubic,
                5,
                2,
                &[4.73967, 6.28926, 8.71074, 7.29752, 9.84711, 9.09504, 6.71074, 8.28926, 8.70248, 7.31818],
            ),
            (Filter::Bicubic, 2, 4, &[3.9734, 11.97595, 7.79634, 5.083, 9.11939, 8.82996, 6.5099, 8.36944]),
            (
                Filter::Bicubic,
                13,
                3,
                &[
                    0.91095, 1.50785, 2.87701, 4.78341, 6.5481, 8.39435, 9.50801, 8.91876, 7.75893, 8.20645, 10.57611,
                    12.62128, 13.37954, 11.56083, 10.88439, 9.04286, 6.93181, 6.56224, 7.6125, 8.5, 8.63079, 8.37813,
                    7.54949, 5.89912, 4.56361, 4.03973, 6.80788, 6.90077, 7.14221, 7.43406, 7.53192, 7.46768, 7.49199,
                    7.70579, 8.0418, 8.53868, 9.28863, 9.86609, 10.10275,
                ],
            ),
        ];
        for (filter, width, height, expected) in cases {
            let resized = resize_image_by(&image, width, height, filter).unwrap();
            assert_eq!((resized.width(), resized.height()), (width, height));
            for (actual, expected) in resized.as_slice().iter().zip(expected) {
                assert!((actual - expected).abs() < 2e-5, "{width}x{height}: {actual} {expected}");
            }
        }
    }

    #[test]
    fn channels_do_not_mix() {
        let image = Image::new(2, 2, 3, (0..12).map(|i| i as f32).collect()).unwrap();
        let resized = resize_image(&image, 3, 5).unwrap();
        for pixel in resized.as_slice().chunks_exact(3) {
            assert!((pixel[1] - pixel[0] - 1.0).abs() < 1e-5 && (pixel[2] - pixel[0] - 2.0).abs() < 1e-5);
        }
        assert_eq!(resize_image(&image, 2, 2).unwrap(), image);
    }

    #[test]
    fn labels_take_the_one_under_their_center() {
        let map = LabelMap::new(2, 1, vec![3, 9]).unwrap();
        assert_eq!(resize_labels(&map, 4, 2).unwrap().as_slice(), [3, 3, 9, 9, 3, 3, 9, 9]);
        // the middle of three centers lies on the border, and belongs to the right
        assert_eq!(resize_labels(&map, 3, 1).unwrap().as_slice(), [3, 9, 9]);
        let wide = LabelMap::new(5, 1, vec![0, 1, 2, 3, 4]).unwrap();
        assert_eq!(resize_labels(&wide, 2, 1).unwrap().as_slice(), [1, 3]);
        assert!(resize_labels(&wide, 0, 1).is_err());
        assert!(resize_labels(&LabelMap::filled(0, 0, 0), 1, 1).is_err());
    }
}
