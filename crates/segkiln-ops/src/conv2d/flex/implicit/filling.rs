//! What pixels read, copied into the matrices of a product.

use std::ops::Range;

use pulp::Simd;

use crate::{
    conv2d::flex::Geometry,
    cpu::simd::{Lanes, MOST_LANES, places, prefetch},
};

/// What pixels read: pixel `(i, j)` and tap `t` meet at `(i, j) · stride + t` of the source, or at nothing.
#[derive(Debug, Clone, Copy)]
pub(in crate::conv2d::flex) struct Reader {
    pub pixels: [usize; 2],
    pub stride: [usize; 2],
    /// Height and width of the source.
    pub source: [usize; 2],
}

impl Reader {
    pub fn count(&self) -> usize {
        self.pixels[0] * self.pixels[1]
    }

    pub fn plane(&self) -> usize {
        self.source[0] * self.source[1]
    }

    /// Where a register of pixels begins to read at a tap if they all read one row of the source.
    #[inline(always)]
    fn whole(&self, tap: Tap, [row, column]: [usize; 2], count: usize, lanes: usize) -> Option<isize> {
        let line = (row * self.stride[0]).wrapping_add_signed(tap[0]);
        let first = (column * self.stride[1]).wrapping_add_signed(tap[1]);
        let last = first.wrapping_add((lanes - 1) * self.stride[1]);
        let within = line < self.source[0] && first < self.source[1] && last < self.source[1];
        (count == lanes && column + lanes <= self.pixels[1] && within).then(|| (line * self.source[1] + first) as isize)
    }
}

pub(in crate::conv2d::flex) type Tap = [isize; 2];

/// The places of a register of the matrix that come from one row of the source.
#[derive(Clone, Copy)]
struct Part<S: Simd> {
    /// The register's place in the matrix, for channel 0.
    place: usize,
    /// Of the register's first place in a plane; what the masks leave out may be anywhere.
    offset: isize,
    /// Two for the two registers that stride 2 reads.
    masks: [S::m32s; 2],
    /// Whether the register has another part before this one.
    continues: bool,
}

/// How a matrix is filled, for one channel; it is the same for the others.
pub(in crate::conv2d::flex) struct Filling<S: Simd> {
    parts: Vec<Part<S>>,
    /// Whether other channels' values are asked for ahead of time: they are too far apart for the processor to guess.
    ahead: bool,
}

impl<S: Simd> Filling<S> {
    /// `registers` registers of what pixels from `pixels.start` on read at each tap, with zeros for those after the last and
    /// outside of the source. Register `i` of tap `t` is at `place(t, i)`.
    #[inline(always)]
    pub fn new(
        simd: S,
        reader: &Reader,
        taps: &[Tap],
        pixels: Range<usize>,
        registers: usize,
        place: impl Fn(usize, usize) -> usize,
    ) -> Self {
        let mut filling = Self { parts: Vec::with_capacity(2 * registers * taps.len()), ahead: taps.len() == 1 };
        // Stride 2 reads no value past a register's last.
        let whole = [places(simd, 0..S::F32_LANES), places(simd, 0..S::F32_LANES + 1 - reader.stride[1].min(2))];
        for register in 0..registers {
            let first = pixels.start + register * S::F32_LANES;
            let count = pixels.end.saturating_sub(first).min(S::F32_LANES);
            let start = [first / reader.pixels[1], first % reader.pixels[1]];
            for (index, tap) in taps.iter().enumerate() {
                let place = place(index, register);
                if let Some(offset) = reader.whole(*tap, start, count, S::F32_LANES) {
                    filling.parts.push(Part { place, offset, masks: whole, continues: false });
                    continue;
                }
                match reader.stride[1] {
                    1 => filling.register::<1>(simd, reader, *tap, start, count, place),
                    2 => filling.register::<2>(simd, reader, *tap, start, count, place),
                    _ => filling.register::<0>(simd, reader, *tap, start, count, place),
                }
            }
        }
        filling
    }

    /// One register, `STRIDE` being 0 where there is no code for it.
    #[inline(always)]
    fn register<const STRIDE: usize>(
        &mut self,
        simd: S,
        reader: &Reader,
        tap: Tap,
        [mut row, mut column]: [usize; 2],
        count: usize,
        place: usize,
    ) {
        let (lanes, [height, width]) = (S::F32_LANES, reader.source);
        let stride = if STRIDE == 0 { reader.stride[1] } else { STRIDE };
        let (mut lane, mut continues) = (0, false);
        while lane < count {
            let pixels = (reader.pixels[1] - column).min(count - lane);
            let line = (row * reader.stride[0]).wrapping_add_signed(tap[0]);
            let start = (column * stride) as isize + tap[1];
            // Of these pixels the first that is within the row, and the one after the last.
            let low = (-start).max(0).unsigned_abs().div_ceil(stride).min(pixels);
            let high = (width as isize - start).max(0).unsigned_abs().div_ceil(stride).min(pixels);
            if line < height && low < high {
                let (low, high) = (lane + low, lane + high);
                let masks = if STRIDE == 2 {
                    let (low, high) = (2 * low, 2 * high - 1);
                    let after = low.saturating_sub(lanes)..high.saturating_sub(lanes);
                    [places(simd, low..high.min(lanes)), places(simd, after)]
                } else {
                    [places(simd, low..high); 2]
                };
                let offset = (line * width) as isize + start - (lane * stride) as isize;
                self.parts.push(Part { place, offset, masks, continues });
                continues = true;
            }
            lane += pixels;
            column += pixels;
            if column == reader.pixels[1] {
                (row, column) = (row + 1, 0);
            }
        }
        if !continues {
            self.parts.push(Part { place, offset: 0, masks: [places(simd, 0..0); 2], continues });
        }
    }

    /// Fills the matrix from each plane of `x`; from a plane to the next places are `step` apart.
    ///
    /// # Safety
    /// The matrix has all places.
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
            for part in &self.parts {
                let Part { place, offset, masks, continues } = *part;
                let from = x.as_ptr().wrapping_offset(offset);
                if self.ahead {
                    prefetch(from.wrapping_add(2 * plane));
                }
                // SAFETY: the masks keep to the plane, and the caller gives the matrix.
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
                                let index = offset.wrapping_add_unsigned(lane * reader.stride[1]) as usize;
                                values[lane] = if index < plane { x[index] } else { 0.0 };
                            }
                            Lanes::load_masked(simd, values.as_ptr(), masks[0])
                        }
                    };
                    let target = matrix.as_mut_ptr().add(place + channel * step);
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
    /// Output pixels and the input.
    pub(super) fn reader(&self) -> Reader {
        if self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0] && self.input == self.output {
            // One long row: no register is made of two.
            let row = [1, self.output_plane()];
            return Reader { pixels: row, stride: [1, 1], source: row };
        }
        Reader { pixels: self.output, stride: self.stride, source: self.input }
    }

    /// What taps add to the place that an output pixel reads.
    pub(super) fn offsets(&self) -> Vec<Tap> {
        let offset = |axis: usize, tap: usize| (tap * self.dilation[axis]) as isize - self.padding[axis] as isize;
        (0..self.taps()).map(|tap| [offset(0, tap / self.kernel[1]), offset(1, tap % self.kernel[1])]).collect()
    }
}
