//! A task is a block of pixels of one image. Their channels lie a plane apart, often at the same places of the cache, so they are
//! copied to scratch memory while they are added up.

use burn::backend::{Flex, tensor::FloatTensor};
use pulp::{Simd, WithSimd};

use super::{LayerNorm2dOps, forward};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    memory::{Memory, all_f32, contiguous, values, with_scratch, written},
    simd::{self, Lanes, MOST_LANES},
    threads::for_each,
};

/// Registers of pixels of a block: the widest ones are cache lines, of which the processor fetches pairs.
const REGISTERS: usize = 4;

impl LayerNorm2dOps for Flex {
    fn layer_norm2d(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let shape: [usize; 4] = x.layout().shape().dims();
        if !all_f32(&[&x, &gamma, &beta]) || shape.contains(&0) {
            return forward::<Self>(x, gamma, beta, epsilon);
        }
        let [batch, channels, height, width] = shape;
        let (x, gamma, beta) = (contiguous(x), gamma.to_contiguous(), beta.to_contiguous());
        let (x, gamma, beta) = (values(&x), values(&gamma), values(&beta));
        assert_eq!([gamma.len(), beta.len()], [channels; 2], "scale and shift of {channels} channels");
        let (arch, plane) = (simd::arch(), height * width);
        // As many whatever the registers are, so that a block begins at the same pixels.
        let block = REGISTERS * MOST_LANES;
        let blocks = plane.div_ceil(block);
        // SAFETY: the blocks are all pixels of all images, and each writes all of its channels.
        unsafe {
            written(shape, Memory::Pooled, |output| {
                let output = Disjoint::new(output);
                for_each(batch * blocks, |task| {
                    let (image, first) = (task / blocks, task % blocks * block);
                    with_scratch([channels * block], |[scratch]| {
                        let map = Map {
                            x: &x[image * channels * plane..][..channels * plane],
                            plane,
                            gamma,
                            beta,
                            epsilon: epsilon as f32,
                            output: output.part().skip(image * channels * plane),
                        };
                        arch.dispatch(Block { map, pixels: [first, (first + block).min(plane)], scratch });
                    });
                });
            })
        }
    }
}

/// A map of one image.
#[derive(Clone, Copy)]
struct Map<'a> {
    /// `[channels, plane]`
    x: &'a [f32],
    plane: usize,
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    output: Part<'a>,
}

/// The pixels of a task.
struct Block<'a> {
    map: Map<'a>,
    /// The first one, and the one after the last.
    pixels: [usize; 2],
    /// `[channels][REGISTERS]` of registers
    scratch: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { map, pixels: [begin, end], scratch } = self;
        let (width, channels) = (REGISTERS * S::F32_LANES, map.gamma.len());
        assert!(scratch.len() >= channels * width && map.beta.len() == channels);
        assert!(end <= map.plane && map.x.len() == channels * map.plane);
        let scratch = scratch.as_mut_ptr();
        for first in (begin..end).step_by(width) {
            let count = width.min(end - first);
            // SAFETY: the pixels are within the plane, and the scratch memory has the registers of all channels.
            unsafe {
                if count == width {
                    normalize::<S, true>(simd, map, first, count, scratch);
                } else {
                    normalize::<S, false>(simd, map, first, count, scratch);
                }
            }
        }
    }
}

/// Normalizes `count` pixels, with `WHOLE` as many as the registers have.
///
/// # Safety
/// The pixels are within the plane, `x` has a plane for each of the scales and shifts, and the scratch memory, which nobody else
/// has, their registers.
#[inline(always)]
unsafe fn normalize<S: Simd, const WHOLE: bool>(simd: S, map: Map, first: usize, count: usize, scratch: *mut f32) {
    let Map { x, plane, gamma, beta, epsilon, output } = map;
    let (lanes, channels) = (S::F32_LANES, gamma.len());
    let zero = Lanes::splat(simd, 0.0);
    let share = 1.0 / channels as f32;
    let mut means = [zero; REGISTERS];
    // SAFETY: the caller's promise.
    unsafe {
        for channel in 0..channels {
            let from = x.as_ptr().add(channel * plane + first);
            for (register, mean) in means.iter_mut().enumerate() {
                let value = match WHOLE {
                    true => Lanes::load(simd, from.add(register * lanes)),
                    false => Lanes::load_part(simd, from, register, count),
                };
                value.store(scratch.add((channel * REGISTERS + register) * lanes));
                *mean = *mean + value;
            }
        }
        for mean in &mut means {
            *mean = *mean * share;
        }
        let mut scales = [zero; REGISTERS];
        for channel in 0..channels {
            for (register, scale) in scales.iter_mut().enumerate() {
                let value = Lanes::load(simd, scratch.add((channel * REGISTERS + register) * lanes));
                let centered = value - means[register];
                *scale = centered.mul_add(centered, *scale);
            }
        }
        for scale in &mut scales {
            let variance = scale.scaled_plus(share, Lanes::splat(simd, epsilon));
            *scale = Lanes::splat(simd, 1.0).over(Lanes(simd, simd.sqrt_f32s(variance.1)));
        }
        for channel in 0..channels {
            let shift = Lanes::splat(simd, beta[channel]);
            let to = output.at(channel * plane + first, count);
            for (register, scale) in scales.iter().enumerate() {
                let value = Lanes::load(simd, scratch.add((channel * REGISTERS + register) * lanes));
                let value = (value - means[register]).times(*scale).scaled_plus(gamma[channel], shift);
                match WHOLE {
                    true => value.store(to.add(register * lanes)),
                    false => value.store_part(to, register, count),
                }
            }
        }
    }
}
