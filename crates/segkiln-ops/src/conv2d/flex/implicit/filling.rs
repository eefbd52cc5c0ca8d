//! Copies the values that pixels read at each tap (im2col) into the matrices of a product.

use std::ops::Range;

use pulp::Simd;

use crate::{
    conv2d::flex::Geometry,
    cpu::simd::{Lanes, MOST_LANES, lane_mask, prefetch},
};

/// Pixels and the source that they read: at tap `t`, pixel `(i, j)` reads `(i, j) · stride + t` of the source, or a zero outside.
#[derive(Debug, Clone, Copy)]
pub(in crate::conv2d::flex) struct Reader {
    /// Rows and columns of pixels.
    pub pixels: [usize; 2],
    pub stride: [usize; 2],
    /// Height and width of the source.
    pub source: [usize; 2],
}

impl Reader {
    /// Number of pixels.
    pub fn count(&self) -> usize {
        self.pixels[0] * self.pixels[1]
    }

    /// Values of a plane of the source.
    pub fn plane(&self) -> usize {
        self.source[0] * self.source[1]
    }

    /// Returns the first value in a plane that a register of pixels reads at a tap, if all of them read one row of the source.
    #[inline(always)]
    fn whole_row(&self, tap: Tap, [row, column]: [usize; 2], count: usize, lanes: usize) -> Option<isize> {
        let line = (row * self.stride[0]).wrapping_add_signed(tap[0]);
        let first = (column * self.stride[1]).wrapping_add_signed(tap[1]);
        let last = first.wrapping_add((lanes - 1) * self.stride[1]);
        let within = line < self.source[0] && first < self.source[1] && last < self.source[1];
        (count == lanes && column + lanes <= self.pixels[1] && within).then(|| (line * self.source[1] + first) as isize)
    }
}

/// Row and column that a tap adds to the source position of a pixel.
pub(in crate::conv2d::flex) type Tap = [isize; 2];

/// Some lanes of a register of the matrix, which come from one row of the source.
#[derive(Clone, Copy)]
struct Segment<S: Simd> {
    /// The register's offset in the matrix, for channel 0.
    target: usize,
    /// Offset in a plane of the value of the register's first lane; only the masks' lanes need to be within the plane.
    source: isize,
    /// Lanes of the register that is read; with stride 2, of the two registers.
    masks: [S::m32s; 2],
    /// Whether a segment of the same register comes before this one.
    continues: bool,
}

/// Instructions to fill a matrix from one channel; they are the same for all channels.
pub(in crate::conv2d::flex) struct Filling<S: Simd> {
    segments: Vec<Segment<S>>,
    /// Whether to prefetch the values of later channels: they are too far apart for the processor to guess.
    prefetch: bool,
}

impl<S: Simd> Filling<S> {
    /// Prepares the filling of `registers` registers a tap with the values that `pixels` read, and zeros for pixels after the last
    /// and outside of the source. Register `i` of tap `t` is at `target(t, i)`.
    #[inline(always)]
    pub fn new(
        simd: S,
        reader: &Reader,
        taps: &[Tap],
        pixels: Range<usize>,
        registers: usize,
        target: impl Fn(usize, usize) -> usize,
    ) -> Self {
        let mut filling = Self { segments: Vec::with_capacity(2 * registers * taps.len()), prefetch: taps.len() == 1 };
        // Stride 2 reads no value past a register's last.
        let whole = [lane_mask(simd, 0..S::F32_LANES), lane_mask(simd, 0..S::F32_LANES + 1 - reader.stride[1].min(2))];
        for register in 0..registers {
            let first = pixels.start + register * S::F32_LANES;
            let count = pixels.end.saturating_sub(first).min(S::F32_LANES);
            let start = [first / reader.pixels[1], first % reader.pixels[1]];
            for (index, tap) in taps.iter().enumerate() {
                let target = target(index, register);
                if let Some(source) = reader.whole_row(*tap, start, count, S::F32_LANES) {
                    filling.segments.push(Segment { target, source, masks: whole, continues: false });
                    continue;
                }
                match reader.stride[1] {
                    1 => filling.add_register::<1>(simd, reader, *tap, start, count, target),
                    2 => filling.add_register::<2>(simd, reader, *tap, start, count, target),
                    _ => filling.add_register::<0>(simd, reader, *tap, start, count, target),
                }
            }
        }
        filling
    }

    /// Adds the segments of one register. `STRIDE` is 0 for strides without code of their own.
    #[inline(always)]
    fn add_register<const STRIDE: usize>(
        &mut self,
        simd: S,
        reader: &Reader,
        tap: Tap,
        [mut row, mut column]: [usize; 2],
        count: usize,
        target: usize,
    ) {
        let (lanes, [height, width]) = (S::F32_LANES, reader.source);
        let stride = if STRIDE == 0 { reader.stride[1] } else { STRIDE };
        let (mut lane, mut continues) = (0, false);
        while lane < count {
            let pixels = (reader.pixels[1] - column).min(count - lane);
            let line = (row * reader.stride[0]).wrapping_add_signed(tap[0]);
            let start = (column * stride) as isize + tap[1];
            // The first of these pixels that reads within the row, and the one after the last that does.
            let low = (-start).max(0).unsigned_abs().div_ceil(stride).min(pixels);
            let high = (width as isize - start).max(0).unsigned_abs().div_ceil(stride).min(pixels);
            if line < height && low < high {
                let (low, high) = (lane + low, lane + high);
                let masks = if STRIDE == 2 {
                    let (low, high) = (2 * low, 2 * high - 1);
                    let after = low.saturating_sub(lanes)..high.saturating_sub(lanes);
                    [lane_mask(simd, low..high.min(lanes)), lane_mask(simd, after)]
                } else {
                    [lane_mask(simd, low..high); 2]
                };
                let source = (line * width) as isize + start - (lane * stride) as isize;
                self.segments.push(Segment { target, source, masks, continues });
                continues = true;
            }
            lane += pixels;
            column += pixels;
            if column == reader.pixels[1] {
                (row, column) = (row + 1, 0);
            }
        }
        if !continues {
            self.segments.push(Segment { target, source: 0, masks: [lane_mask(simd, 0..0); 2], continues });
        }
    }

    /// Fills the matrix from each plane of `x`; the registers of one plane are `step` after those of the plane before.
    ///
    /// # Safety
    /// The matrix has room for a register at `target(tap, register) + plane · step` for all of them.
    #[inline(always)]
    pub unsafe fn fill(&self, simd: S, reader: &Reader, x: &[f32], matrix: &mut [f32], step: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match reader.stride[1] {
                1 => self.fill_by::<1>(simd, reader, x, matrix, step),
                2 => self.fill_by::<2>(simd, reader, x, matrix, step),
                _ => self.fill_by::<0>(simd, reader, x, matrix, step),
            }
        }
    }

    #[inline(always)]
    unsafe fn fill_by<const STRIDE: usize>(
        &self,
        simd: S,
        reader: &Reader,
        x: &[f32],
        matrix: &mut [f32],
        step: usize,
    ) {
        let (plane, lanes) = (reader.plane(), S::F32_LANES);
        for (channel, x) in x.chunks_exact(plane).enumerate() {
            for segment in &self.segments {
                let Segment { target, source, masks, continues } = *segment;
                let from = x.as_ptr().wrapping_offset(source);
                if self.prefetch {
                    prefetch(from.wrapping_add(2 * plane));
                }
                // SAFETY: the masks' lanes are within the plane, and the caller promises the matrix.
                unsafe {
                    let mut value = match STRIDE {
                        1 => Lanes::load_masked(simd, from, masks[0]),
                        2 => {
                            let next = Lanes::load_masked(simd, from.wrapping_add(lanes), masks[1]);
                            Lanes::load_masked(simd, from, masks[0]).unzip(next)[0]
                        }
                        _ => {
                            let mut values = [0.0f32; MOST_LANES];
                            for lane in 0..lanes {
                                let index = source.wrapping_add_unsigned(lane * reader.stride[1]) as usize;
                                values[lane] = if index < plane { x[index] } else { 0.0 };
                            }
                            Lanes::load_masked(simd, values.as_ptr(), masks[0])
                        }
                    };
                    let target = matrix.as_mut_ptr().add(target + channel * step);
                    if continues {
                        value = value.or(Lanes::load(simd, target));
                    }
                    value.store(target);
                }
            }
        }
    }
}

impl Geometry {
    /// Returns the output's pixels as readers of the input.
    pub(super) fn reader(&self) -> Reader {
        if self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0] && self.input == self.output {
            // One long row: no register is made of two.
            let row = [1, self.output_plane()];
            return Reader { pixels: row, stride: [1, 1], source: row };
        }
        Reader { pixels: self.output, stride: self.stride, source: self.input }
    }

    /// Returns what each tap adds to the source position of an output pixel.
    pub(super) fn offsets(&self) -> Vec<Tap> {
        let offset = |axis: usize, tap: usize| (tap * self.dilation[axis]) as isize - self.padding[axis] as isize;
        (0..self.taps()).map(|tap| [offset(0, tap / self.kernel[1]), offset(1, tap % self.kernel[1])]).collect()
    }
}
