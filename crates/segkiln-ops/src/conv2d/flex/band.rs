//! Rows of a plane, copied with their padding, columns that a stride takes by turns apart: every tap of every stride reads whole
//! registers there.

#![allow(
    clippy::needless_range_loop,
    reason = "what is compiled for wide registers is plain loops: closures and iterators may stay calls"
)]

use pulp::Simd;

use super::Geometry;
use crate::cpu::simd::{Lanes, MOST_LANES, places};

/// Rows of a plane with their padding: `[row][phase][column]`, where the column of the padded plane is
/// `column · stride + phase`.
#[derive(Clone, Copy)]
pub(super) struct Band {
    /// Output rows, and the rows that they read.
    pub outputs: usize,
    pub rows: usize,
    pub phases: usize,
    /// Columns of a phase, whole registers and room for the last tap.
    pub width: usize,
}

impl Band {
    /// For some output rows.
    pub fn new(geometry: &Geometry, outputs: usize) -> Self {
        let reach = [0, 1].map(|axis| geometry.dilation[axis] * (geometry.kernel[axis] - 1));
        let phases = geometry.stride[1];
        let width =
            (geometry.output[1].next_multiple_of(MOST_LANES) + reach[1] / phases + 1).next_multiple_of(MOST_LANES);
        Self { outputs, rows: (outputs - 1) * geometry.stride[0] + reach[0] + 1, phases, width }
    }

    /// Values of the band; saturating, so that one that no memory has room for can be told.
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

    /// What a tap adds to the place of an output's first value.
    pub fn tap(&self, geometry: &Geometry, tap: usize) -> usize {
        let [row, column] =
            [tap / geometry.kernel[1] * geometry.dilation[0], tap % geometry.kernel[1] * geometry.dilation[1]];
        row * self.row() + column % self.phases * self.width + column / self.phases
    }

    /// Which places of the registers of a padded row are within the image, as far as `columns`.
    #[inline(always)]
    pub fn masks<S: Simd>(&self, simd: S, geometry: &Geometry, columns: usize) -> Vec<S::m32s> {
        let (lanes, begin) = (S::F32_LANES, geometry.padding[1]);
        let end = begin + geometry.input[1];
        let columns = columns.next_multiple_of(2 * lanes).min(self.row());
        let mut masks = Vec::with_capacity(columns.div_ceil(lanes));
        for column in (0..columns).step_by(lanes) {
            masks.push(places(simd, begin.saturating_sub(column).min(lanes)..end.saturating_sub(column).min(lanes)));
        }
        masks
    }

    /// Copies the rows that output rows from `first` on read, as far as there are masks.
    #[inline(always)]
    pub fn fill<S: Simd>(
        &self,
        simd: S,
        geometry: &Geometry,
        masks: &[S::m32s],
        plane: &[f32],
        first: usize,
        values: &mut [f32],
    ) {
        let (lanes, [height, width], padding) = (S::F32_LANES, geometry.input, geometry.padding);
        assert!(values.len() >= self.len() && masks.len() * lanes <= self.row());
        for (index, values) in values.chunks_exact_mut(self.row()).enumerate().take(self.rows) {
            let row = (first * geometry.stride[0] + index).wrapping_sub(padding[0]);
            if row >= height {
                values.fill(0.0);
                continue;
            }
            let line = &plane[row * width..][..width];
            let from = line.as_ptr().wrapping_sub(padding[1]);
            // SAFETY: masks leave only places within the line, and a phase has whole registers.
            unsafe {
                let to = values.as_mut_ptr();
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
                                values[phase * self.width + column] = if from < width { line[from] } else { 0.0 };
                            }
                        }
                    }
                }
            }
        }
    }
}
