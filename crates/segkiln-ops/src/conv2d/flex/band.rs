//! Padded copies of rows of a plane.
//!
//! Columns are split by the stride: those that neighboring outputs read at one tap lie side by side, so that each tap of each
//! stride is read by whole registers, without masks.
//!
//! ```text
//!   padded row, stride 2:   p  x0 x1 x2 x3 x4  p          (p: padding)
//!   in the band:            p  x1 x3  p | x0 x2 x4         (phase 0 | phase 1)
//! ```

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops: closures and iterators may stay calls"
)]

use std::mem::MaybeUninit;

use pulp::Simd;

use super::Geometry;
use crate::cpu::simd::{Lanes, MOST_LANES, lane_mask};

/// Layout of some rows of a plane with their padding: `[row][phase][column]`, where the column of the padded plane is
/// `column · stride + phase`.
#[derive(Clone, Copy)]
pub(super) struct Band {
    /// Output rows.
    pub outputs: usize,
    /// Rows of the plane that the output rows read.
    pub rows: usize,
    /// The stride along a row.
    pub phases: usize,
    /// Columns of a phase: whole registers, with room for a register from each column on that an output reads.
    pub width: usize,
}

impl Band {
    /// Returns the layout of what `outputs` output rows read.
    pub fn new(geometry: &Geometry, outputs: usize) -> Self {
        let reach = [0, 1].map(|axis| geometry.dilation[axis] * (geometry.kernel[axis] - 1));
        let phases = geometry.stride[1];
        let width =
            (geometry.output[1].next_multiple_of(MOST_LANES) + reach[1] / phases + 1).next_multiple_of(MOST_LANES);
        Self { outputs, rows: (outputs - 1) * geometry.stride[0] + reach[0] + 1, phases, width }
    }

    /// Values of the band; saturating, so that a band that no memory has room for is seen to be too large.
    pub fn len(&self) -> usize {
        self.rows.saturating_mul(self.row())
    }

    /// Values of a row.
    pub fn row(&self) -> usize {
        self.phases.saturating_mul(self.width)
    }

    /// Columns of the padded plane that outputs read.
    pub fn columns(&self, geometry: &Geometry) -> usize {
        let reach = geometry.dilation[1] * (geometry.kernel[1] - 1);
        (geometry.output[1] - 1) * geometry.stride[1] + reach + 1
    }

    /// Returns how far a tap's value is from an output's first.
    pub fn tap_offset(&self, geometry: &Geometry, tap: usize) -> usize {
        let [row, column] =
            [tap / geometry.kernel[1] * geometry.dilation[0], tap % geometry.kernel[1] * geometry.dilation[1]];
        row * self.row() + column % self.phases * self.width + column / self.phases
    }

    /// Returns, for each register of a padded row up to `columns`, which of its lanes are within the image.
    #[inline(always)]
    pub fn masks<S: Simd>(&self, simd: S, geometry: &Geometry, columns: usize) -> Vec<S::m32s> {
        let (lanes, begin) = (S::F32_LANES, geometry.padding[1]);
        let end = begin + geometry.input[1];
        let columns = columns.next_multiple_of(2 * lanes).min(self.row());
        let mut masks = Vec::with_capacity(columns.div_ceil(lanes));
        for column in (0..columns).step_by(lanes) {
            masks.push(lane_mask(simd, begin.saturating_sub(column).min(lanes)..end.saturating_sub(column).min(lanes)));
        }
        masks
    }

    /// Copies the rows that output rows from `first` on read, as many columns as `masks` has. All of them are initialized then, and
    /// nothing is written but initialized values.
    #[inline(always)]
    pub fn fill<S: Simd>(
        &self,
        simd: S,
        geometry: &Geometry,
        masks: &[S::m32s],
        plane: &[f32],
        first: usize,
        values: &mut [MaybeUninit<f32>],
    ) {
        let (lanes, [height, width], padding) = (S::F32_LANES, geometry.input, geometry.padding);
        assert!(values.len() >= self.len() && masks.len() * lanes <= self.row());
        assert!(self.width.is_multiple_of(lanes) && self.phases == geometry.stride[1]);
        for (index, values) in values.chunks_exact_mut(self.row()).enumerate().take(self.rows) {
            let row = (first * geometry.stride[0] + index).wrapping_sub(padding[0]);
            if row >= height {
                values.fill(MaybeUninit::new(0.0));
                continue;
            }
            let line = &plane[row * width..][..width];
            let from = line.as_ptr().wrapping_sub(padding[1]);
            // SAFETY: the masks leave only lanes within the line, and the row of the band has as many registers as there are masks,
            // of two phases half of them in each.
            unsafe {
                let to: *mut f32 = values.as_mut_ptr().cast();
                match self.phases {
                    1 => {
                        for (index, mask) in masks.iter().enumerate() {
                            Lanes::load_masked(simd, from.wrapping_add(index * lanes), *mask)
                                .store(to.add(index * lanes));
                        }
                    }
                    2 => {
                        for (index, mask) in masks.as_chunks::<2>().0.iter().enumerate() {
                            let low = Lanes::load_masked(simd, from.wrapping_add(2 * index * lanes), mask[0]);
                            let high = Lanes::load_masked(simd, from.wrapping_add((2 * index + 1) * lanes), mask[1]);
                            let [even, odd] = low.unzip(high);
                            even.store(to.add(index * lanes));
                            odd.store(to.add(self.width + index * lanes));
                        }
                    }
                    phases => {
                        for phase in 0..phases {
                            for column in 0..self.width {
                                let from = (column * phases + phase).wrapping_sub(padding[1]);
                                let value = if from < width { line[from] } else { 0.0 };
                                values[phase * self.width + column].write(value);
                            }
                        }
                    }
                }
            }
        }
    }
}
