//! Finds the pixels and weights of each bin, on the host. Points lie on a grid, so rows and columns are separate: a bin is the sum,
//! over its rows and columns, of the pixel times both weights.

use super::RoiAlignOptions;

/// Most points of a bin along an axis if the box's size determines them: f32 does not represent larger whole numbers.
pub(super) const MOST_POINTS: f32 = (1 << 24) as f32;

/// A pixel of an axis, and its weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    pub pixel: u32,
    pub weight: f32,
}

/// The taps of a region's bins along an axis.
#[derive(Debug)]
pub(super) struct Axis {
    taps: Vec<Tap>,
    /// End of each bin's taps.
    ends: Vec<u32>,
}

/// A region of interest.
#[derive(Debug)]
pub(super) struct Roi {
    /// Index in the list of regions.
    pub index: usize,
    /// Index of the image in the batch.
    pub image: usize,
    pub rows: Axis,
    pub columns: Axis,
}

impl Axis {
    /// Returns the taps of all bins, bin by bin.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// Returns the taps of each bin.
    pub fn bins(&self) -> impl Iterator<Item = &[Tap]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.taps[start as usize..*end as usize])
    }

    /// Returns the taps of a box from `from` to `to`, split into `bins`, on an axis of `pixels`.
    fn new([from, to]: [f32; 2], pixels: usize, bins: usize, options: &RoiAlignOptions) -> Self {
        let offset = if options.aligned { 0.5 } else { 0.0 };
        let [start, end] = [from, to].map(|side| side * options.scale as f32 - offset);
        let length = if !options.aligned && end - start < 1.0 { 1.0 } else { end - start };
        let bin = length / bins as f32;
        let points = match options.sampling_ratio {
            Some(points) => points,
            None => bin.ceil().min(MOST_POINTS) as usize,
        };
        let mut axis = Self { taps: Vec::new(), ends: Vec::with_capacity(bins) };
        for index in 0..bins {
            let first = start + index as f32 * bin;
            let position = |point: usize| first + (point as f32 + 0.5) * bin / points as f32;
            let range = match options.sampling_ratio {
                Some(points) => 0..points,
                // Positions grow with the point, and so do their roundings.
                None => {
                    partition(points, |point| position(point) < -1.0)..partition(points, |point| {
                        position(point) <= pixels as f32
                    })
                }
            };
            let begin = axis.taps.len();
            for point in range {
                let position = position(point);
                if !(-1.0..=pixels as f32).contains(&position) {
                    continue;
                }
                let position = position.max(0.0);
                let low = position as usize;
                if low + 1 >= pixels {
                    axis.add(begin, pixels - 1, 1.0);
                } else {
                    let share = position - low as f32;
                    axis.add(begin, low, 1.0 - share);
                    axis.add(begin, low + 1, share);
                }
            }
            for tap in &mut axis.taps[begin..] {
                tap.weight /= points as f32;
            }
            axis.ends.push(axis.taps.len() as u32);
        }
        axis
    }

    /// Adds to the weight of a pixel in the bin whose taps begin at `begin`. Neighboring points share pixels.
    fn add(&mut self, begin: usize, pixel: usize, weight: f32) {
        let last = self.taps.len().saturating_sub(3).max(begin);
        match self.taps[last..].iter_mut().find(|tap| tap.pixel as usize == pixel) {
            Some(tap) => tap.weight += weight,
            None => self.taps.push(Tap { pixel: pixel as u32, weight }),
        }
    }
}

/// Returns the first of `count` indices for which `before` is false; it is true for all before that one.
fn partition(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Returns the regions of `[batch, channels, height, width]`, ordered by image and from the top down, so that consecutive regions
/// share pixels.
///
/// # Panics
/// If an index is outside the batch.
pub(super) fn regions(rois: &[f32], [batch, _, height, width]: [usize; 4], options: &RoiAlignOptions) -> Vec<Roi> {
    let (rois, _) = rois.as_chunks::<5>();
    let mut regions: Vec<Roi> = rois
        .iter()
        .enumerate()
        .map(|(index, [image, x1, y1, x2, y2])| {
            assert!(*image > -1.0 && *image < batch as f32, "region {index} is of image {image}, of {batch}");
            Roi {
                index,
                image: *image as usize,
                rows: Axis::new([*y1, *y2], height, options.size[0], options),
                columns: Axis::new([*x1, *x2], width, options.size[1], options),
            }
        })
        .collect();
    let first = |axis: &Axis| axis.taps.first().map_or(0, |tap| tap.pixel);
    regions.sort_by_key(|roi| (roi.image, first(&roi.rows) / 16, first(&roi.columns)));
    regions
}
