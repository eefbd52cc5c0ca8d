//! A task is a block of positions of one head. Positions are columns of all matrices, so keys and values are read where they lie
//! and the softmax goes down the columns, a register of positions at a time.

use burn::backend::{Flex, tensor::FloatTensor};
use pulp::{Simd, WithSimd};

use super::{AttentionOps, forward, scale};
use crate::cpu::{
    disjoint::{Disjoint, Part},
    matrix::{Finish, Left, Product, RegisterSizes, Strided, kernel_rows},
    memory::{Memory, all_f32, values, with_scratch, written},
    simd::{self, Lanes},
    threads::for_each,
};

/// Pairs of registers of a block, one after the other: the weights of one are in the cache at a time.
const PAIRS: usize = 2;

impl AttentionOps for Flex {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let shape: [usize; 3] = query.layout().shape().dims();
        let of_keys: [usize; 3] = key.layout().shape().dims();
        if !all_f32(&[&query, &key, &value]) || shape.contains(&0) || of_keys.contains(&0) {
            return forward::<Self>(query, key, value, heads);
        }
        let ([batch, channels, positions], [.., keys]) = (shape, of_keys);
        let (query, key, value) = (query.to_contiguous(), key.to_contiguous(), value.to_contiguous());
        let (query, key, value) = (values(&query), values(&key), values(&value));
        let width = channels / heads;
        assert!(width * heads == channels && key.len() == batch * channels * keys && value.len() == key.len());
        let arch = simd::arch();
        let pair = 2 * RegisterSizes::of(arch).lanes;
        let block = PAIRS * pair;
        let blocks = positions.div_ceil(block);
        // SAFETY: the blocks are all positions of all heads, and each writes all channels of its head.
        unsafe {
            written(shape, Memory::Pooled, |output| {
                let output = Disjoint::new(output);
                for_each(batch * heads * blocks, |task| {
                    let (head, first) = (task / blocks, task % blocks * block);
                    let [of_queries, of_keys] = [positions, keys].map(|length| head * width * length);
                    with_scratch([width * pair, keys * pair], |[queries, weights]| {
                        arch.dispatch(Block {
                            query: &query[of_queries..][..width * positions],
                            key: &key[of_keys..][..width * keys],
                            value: &value[of_keys..][..width * keys],
                            width,
                            positions: [first, (first + block).min(positions)],
                            queries,
                            weights,
                            output: output.part().skip(of_queries),
                        });
                    });
                });
            })
        }
    }
}

/// Some positions of one head.
struct Block<'a> {
    /// `[width, all positions]`
    query: &'a [f32],
    /// `[width, keys]`, as the values.
    key: &'a [f32],
    value: &'a [f32],
    /// Channels of the head.
    width: usize,
    /// The first one, and the one after the last.
    positions: [usize; 2],
    /// `[width]` of pairs of registers
    queries: &'a mut [f32],
    /// `[keys]` of pairs of registers
    weights: &'a mut [f32],
    output: Part<'a>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { query, key, value, width, positions: [begin, end], queries, weights, output } = self;
        let (all, keys, pair) = (query.len() / width, key.len() / width, 2 * S::F32_LANES);
        assert!(query.len() == width * all && key.len() == width * keys && value.len() == key.len() && end <= all);
        assert!(queries.len() >= width * pair && weights.len() >= keys * pair);
        let (queries, weights) = (queries.as_mut_ptr(), weights.as_mut_ptr());
        for first in (begin..end).step_by(pair) {
            let count = pair.min(end - first);
            // SAFETY: the positions are within the rows of queries and outputs, and the scratch memory has a pair of registers
            // for each channel and for each key.
            unsafe {
                for channel in 0..width {
                    let from = query.as_ptr().add(channel * all + first);
                    for register in 0..2 {
                        let query = Lanes::load_part(simd, from, register, count) * scale(width);
                        query.store(queries.add(channel * pair + register * S::F32_LANES));
                    }
                }
                for first in (0..keys).step_by(kernel_rows::<S>()) {
                    let product = Product {
                        depth: width,
                        left: Left::Columns(key.as_ptr().add(first), keys),
                        right: Strided(queries, pair),
                        output: weights.add(first * pair),
                        output_stride: pair,
                        rows: kernel_rows::<S>().min(keys - first),
                        columns: pair,
                    };
                    product.compute(simd, Finish::Store);
                }
                let shares = exponentials(simd, weights, keys);
                for channel in (0..width).step_by(kernel_rows::<S>()) {
                    let rows = kernel_rows::<S>().min(width - channel);
                    let target = output.rows(channel * all + first, all, rows, count);
                    let product = Product {
                        depth: keys,
                        left: Left::Rows(value.as_ptr().add(channel * keys), keys),
                        right: Strided(weights, pair),
                        output: target,
                        output_stride: all,
                        rows,
                        columns: count,
                    };
                    product.compute(simd, Finish::Store);
                    for row in 0..rows {
                        for (register, share) in shares.iter().enumerate() {
                            let target = target.add(row * all);
                            let sum = Lanes::load_part(simd, target, register, count);
                            sum.times(*share).store_part(target, register, count);
                        }
                    }
                }
            }
        }
    }
}

/// Replaces the values of each column by the exponentials of their differences from the largest; returns the shares that the
/// columns' sums are multiplied with.
///
/// # Safety
/// `values` are `rows` pairs of registers.
#[inline(always)]
unsafe fn exponentials<S: Simd>(simd: S, values: *mut f32, rows: usize) -> [Lanes<S>; 2] {
    let mut shares = [Lanes::splat(simd, 0.0); 2];
    for (register, share) in shares.iter_mut().enumerate() {
        let column = values.wrapping_add(register * S::F32_LANES);
        let (mut most, mut sum) = (Lanes::splat(simd, f32::NEG_INFINITY), Lanes::splat(simd, 0.0));
        // SAFETY: the caller's promise.
        unsafe {
            for row in 0..rows {
                most = most.max(Lanes::load(simd, column.add(row * 2 * S::F32_LANES)));
            }
            for row in 0..rows {
                let place = column.add(row * 2 * S::F32_LANES);
                let value = (Lanes::load(simd, place) - most).exp();
                value.store(place);
                sum = sum + value;
            }
        }
        *share = Lanes::splat(simd, 1.0).over(sum);
    }
    shares
}
