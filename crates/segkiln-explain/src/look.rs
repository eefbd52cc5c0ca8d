//! Looks into a network: feature maps, attention, and images that maximize a channel or a class.

use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segkiln_data::Image;
use segkiln_models::{Edit, SegmentationNetwork};
use std::{cell::RefCell, rc::Rc};

use crate::{
    ExplainError, ExplanationTarget, Map, Pixels, Question, Result, SegmentationSubject, Subject, methods::normal,
    picture::image, question::gradient, subject::values,
};

/// A channel of a layer's output.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureMap {
    /// Index of the channel.
    pub channel: usize,
    /// Its values, in the layer's own size.
    pub map: Map,
}

/// The channels of a layer's output that vary most over the image, at most `most`, the one that varies most first.
/// [`picture::grid`](crate::picture::grid) makes a picture of them.
///
/// # Errors
/// [`ExplainError::Layer`], with the names of the layers that there are.
pub fn feature_maps(question: &Question<'_>, layer: &str, most: usize) -> Result<Vec<FeatureMap>> {
    let layer = question.maps()?.find(layer)?;
    let map = question.activations_of(std::slice::from_ref(&layer))?.remove(0);
    let [_, channels, height, width] = map.dims();
    let pixels = height * width;
    let found = values(map)?;
    let variance = |channel: &[f32]| {
        let mean = channel.iter().map(|value| f64::from(*value)).sum::<f64>() / pixels as f64;
        channel.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / pixels as f64
    };
    let channels: Vec<&[f32]> = found.chunks_exact(pixels.max(1)).take(channels).collect();
    let mut order: Vec<(usize, f64)> = channels.iter().map(|channel| variance(channel)).enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let is_signed = found.iter().any(|value| *value < 0.0);
    let chosen = order.into_iter().take(most);
    let map = |channel: usize| Map::new([height, width], channels[channel].to_vec(), is_signed);
    chosen.map(|(channel, _)| Ok(FeatureMap { channel, map: map(channel)? })).collect()
}

/// Activation maximization, the search for an image that maximizes a channel or a class: Erhan et al., 2009; with the jitter of Mordvintsev
/// et al., 2015, and the total variation of Mahendran and Vedaldi, CVPR 2015, <https://arxiv.org/abs/1412.0035>, without which it is noise.
///
/// The image shows what raises the number most, not what the channel sees in photographs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationMaximization {
    /// Steps.
    pub steps: usize,
    /// Size of a step's mean change, in 255ths.
    pub step_size: f64,
    /// Most pixels by which the image is shifted before each step.
    pub jitter: usize,
    /// Weight of the total variation, against a gradient of the number with a mean amount of 1.
    pub total_variation: f64,
    /// Seed of the beginning and the shifts.
    pub seed: u64,
}

impl Default for ActivationMaximization {
    /// 100 steps of 2 of 255, a jitter of 4 pixels and a total variation of 0.3.
    fn default() -> Self {
        Self { steps: 100, step_size: 2.0, jitter: 4, total_variation: 0.3, seed: 0 }
    }
}

impl ActivationMaximization {
    /// Finds an image of `[height, width]` that raises a class's mean logit.
    ///
    /// # Errors
    /// If there is no such class, or an option is out of range.
    pub fn of_class<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        class: usize,
        size: [usize; 2],
    ) -> Result<Image> {
        let target = ExplanationTarget::class(class, Pixels::Image);
        self.find(subject, size, |x| subject.score(x, &target))
    }

    /// Finds an image of `[height, width]` that raises the mean of a channel of a layer's output.
    ///
    /// # Errors
    /// If there is no such layer or channel, or an option is out of range.
    pub fn of_channel<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        layer: &str,
        channel: usize,
        size: [usize; 2],
    ) -> Result<Image> {
        self.check(size)?;
        let target = ExplanationTarget::class(0, Pixels::Image);
        let x = Tensor::zeros([1, subject.normalize().mean().len(), size[0], size[1]], subject.device());
        let maps = subject.layers(&x, &target)?;
        let layer = maps.find(layer)?;
        let [_, channels, height, width] = layer.shape();
        if channel >= channels {
            let reason = format!("must be below {channels}, the channels of {}; is {channel}", layer.name());
            return Err(ExplainError::Option { option: "channel", reason });
        }
        self.find(subject, size, |x| {
            let seen: Rc<RefCell<Option<Tensor<4>>>> = Rc::default();
            let keep = seen.clone();
            let edit: Edit = Box::new(move |map| {
                *keep.borrow_mut() = Some(map.clone());
                map
            });
            maps.edit(vec![(layer.clone(), edit)], || subject.logits(x));
            let map = seen.take().ok_or_else(|| ExplainError::LayerNotReached(layer.name().into()))?;
            Ok(map.slice([0..1, channel..channel + 1, 0..height, 0..width]).mean())
        })
    }

    fn check(&self, size: [usize; 2]) -> Result<()> {
        let refuse = |option, reason: &str| Err(ExplainError::Option { option, reason: reason.into() });
        if size.contains(&0) {
            return refuse("size", "must be at least 1x1");
        }
        if self.steps == 0 {
            return refuse("steps", "must be at least 1");
        }
        if !(self.step_size > 0.0 && self.step_size.is_finite()) {
            return refuse("step_size", "must be above 0");
        }
        if !(self.total_variation >= 0.0 && self.total_variation.is_finite()) {
            return refuse("total_variation", "must be at least 0");
        }
        Ok(())
    }

    /// Climbs the number from gray with a little noise.
    fn find<M: SegmentationNetwork>(
        &self,
        subject: &SegmentationSubject<M>,
        [height, width]: [usize; 2],
        score: impl Fn(Tensor<4>) -> Result<Tensor<1>>,
    ) -> Result<Image> {
        self.check([height, width])?;
        let normalize = subject.normalize();
        let channels = normalize.mean().len();
        let affine = crate::attack::Affine::new(normalize, subject.device());
        let noise = normal(self.seed, u64::MAX, channels * height * width, 0.02);
        let noise = noise.into_iter().map(|noise| 0.5 + noise).collect::<Vec<f32>>();
        let mut x = Tensor::<4>::from_data(TensorData::new(noise, [1, channels, height, width]), subject.device());
        for step in 0..self.steps {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(step as u64);
            let mut shift = |side: usize| rng.random_range(0..=self.jitter.min(side - 1));
            let [down, right] = [height, width].map(&mut shift);
            let leaf = x.clone().autodiff().require_grad();
            let shifted = rolled(rolled(leaf.clone(), 2, down), 3, right);
            let rising = unit(gradient(&leaf, &score(affine.forward(shifted))?, "the image")?);
            let variation = gradient(&leaf, &total_variation(leaf.clone()), "the image")?;
            let falling = unit(variation).mul_scalar(self.total_variation);
            x = (x + (rising - falling).mul_scalar(self.step_size / 255.0)).clamp(0.0, 1.0);
        }
        image(x)
    }
}

/// Scales a gradient to a mean amount of 1.
fn unit(gradient: Tensor<4>) -> Tensor<4> {
    let mean = gradient.clone().abs().mean().clamp_min(f32::MIN_POSITIVE).reshape([1, 1, 1, 1]);
    gradient / mean
}

/// Moves an image around, as if its sides met.
fn rolled(x: Tensor<4>, dim: usize, by: usize) -> Tensor<4> {
    let side = x.dims()[dim];
    match by % side {
        0 => x,
        by => Tensor::cat(vec![x.clone().narrow(dim, side - by, by), x.narrow(dim, 0, side - by)], dim),
    }
}

/// The sum of the squares of differences between neighbors.
fn total_variation(x: Tensor<4>) -> Tensor<1> {
    let along = |dim: usize| {
        let side = x.dims()[dim];
        let difference = x.clone().narrow(dim, 1, side - 1) - x.clone().narrow(dim, 0, side - 1);
        difference.square().sum()
    };
    match [2, 3].map(|dim| x.dims()[dim] > 1) {
        [true, true] => along(2) + along(3),
        [true, false] => along(2),
        [false, true] => along(3),
        [false, false] => x.sum().mul_scalar(0.0),
    }
}

/// Attention of one position of a transformer's block to all keys: the mean over the heads, divided by its largest value, enlarged to `size`
/// (`[height, width]`).
///
/// # Shapes
/// `attention`: `[1, heads, positions, keys]`, as
/// [`forward_with_attention`](segkiln_models::segformer::SegFormer::forward_with_attention) gives it; `keys` are those of a grid of
/// `[height, width]`
///
/// # Errors
/// [`ExplainError::Option`] if there is no such position, or the grid has another number of keys.
pub fn attention_of(attention: &Tensor<4>, position: usize, grid: [usize; 2], size: [usize; 2]) -> Result<Map> {
    let [_, heads, positions, keys] = attention.dims();
    if position >= positions || grid[0] * grid[1] != keys {
        let reason = format!("has {positions} positions and {keys} keys; the grid of keys is {}x{}", grid[1], grid[0]);
        return Err(ExplainError::Option { option: "attention", reason });
    }
    let own = attention.clone().slice([0..1, 0..heads, position..position + 1, 0..keys]).mean_dim(1);
    enlarged(own, grid, size)
}

/// Attention rollout through blocks of a transformer, the first one first: Abnar and Zuidema, ACL 2020, <https://arxiv.org/abs/2005.00928>.
/// Multiplies each block's mean attention over the heads, averaged with the identity for the residual connection; returns the mean over
/// positions, divided by its largest value, enlarged to `size` (`[height, width]`).
///
/// Where a block reduces its keys, as SegFormer's first three stages do, what goes to a key is shared by the square of positions that
/// it was made of. The blocks of one stage have one grid; stages are followed one by one. Of several sides of squares that give as
/// many keys, the power of 2 is taken, as transformers reduce by such, else one that divides the grid.
///
/// # Shapes
/// Each `[1, heads, positions, keys]`, of a grid of `[height, width]` positions, with as many keys, or those of squares of the grid
///
/// # Errors
/// [`ExplainError::Option`] if there is no block, or one is not of that size.
pub fn rollout(attention: &[Tensor<4>], grid: [usize; 2], size: [usize; 2]) -> Result<Map> {
    let positions = grid[0] * grid[1];
    let refuse = |reason: String| Err(ExplainError::Option { option: "attention", reason });
    let Some(last) = attention.last() else { return refuse("has no block".into()) };
    // Only the mean over positions is wanted: a row, which goes through the blocks from the last one on.
    let mut row = Tensor::<2>::full([1, positions], 1.0 / positions.max(1) as f64, &last.device());
    for block in attention.iter().rev() {
        let [_, heads, queries, keys] = block.dims();
        let Some(side) = reduction(grid, keys).filter(|_| queries == positions) else {
            return refuse(format!(
                "needs blocks of {positions} positions, of one stage, and a key for each or for squares of them; one has {queries} and {keys}"
            ));
        };
        let mean = block.clone().slice([0..1, 0..heads, 0..queries, 0..keys]).mean_dim(1).reshape([queries, keys]);
        row = (row.clone() + shared(row.matmul(mean), grid, side)).mul_scalar(0.5);
    }
    enlarged(row.reshape([1, 1, 1, positions]), grid, size)
}

/// Side of the squares of a grid that have a key each; none if squares cannot give so many keys.
fn reduction([height, width]: [usize; 2], keys: usize) -> Option<usize> {
    let sides = || (1..=height.min(width)).filter(|side| (height / side) * (width / side) == keys);
    let divides = |side: &usize| height.is_multiple_of(*side) && width.is_multiple_of(*side);
    sides().find(|side| side.is_power_of_two()).or_else(|| sides().find(divides)).or_else(|| sides().next())
}

/// Weights of keys, each shared by the positions of a square of the grid; those beyond the last square have none.
fn shared(keys: Tensor<2>, [height, width]: [usize; 2], side: usize) -> Tensor<2> {
    let [rows, columns] = [height / side, width / side];
    let squares = keys.div_scalar((side * side) as f64).reshape([rows, 1, columns, 1]);
    let inside = squares.expand([rows, side, columns, side]).reshape([rows * side, columns * side]);
    let all = Tensor::<2>::zeros([height, width], &inside.device());
    all.slice_assign([0..rows * side, 0..columns * side], inside).reshape([1, height * width])
}

/// A map of a grid, divided by its largest value and enlarged (bilinear).
fn enlarged(weights: Tensor<4>, [height, width]: [usize; 2], size: [usize; 2]) -> Result<Map> {
    let most = weights.clone().max().clamp_min(f32::MIN_POSITIVE).reshape([1, 1, 1, 1]);
    let grid = (weights / most).reshape([1, 1, height, width]);
    Map::new(size, values(segkiln_ops::resize(grid, size, segkiln_ops::ResizeMode::default()))?, false)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn attention_is_followed_through_blocks() {
        let device = Device::default();
        let block = |weights: [f32; 4]| Tensor::<1>::from_floats(weights, &device).reshape([1, 1, 2, 2]);
        // Both positions look at the first, in both blocks: with what stays, 1/4 of the second is left.
        let all_first = block([1.0, 0.0, 1.0, 0.0]);
        let map = rollout(&[all_first.clone(), all_first.clone()], [1, 2], [1, 2]).unwrap();
        // Means over positions: (1 + 3/4) / 2 and 1/4 / 2; the largest is 1.
        let expected = [1.0, 0.125 / 0.875];
        assert!(map.as_slice().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{map:?}");
        // Keys of squares of two by two, all attention on the second: what stays is half of each block.
        let reduced = Tensor::<1>::from_floats([0.0, 1.0], &device).reshape([1, 1, 1, 2]).repeat_dim(2, 15);
        let map = rollout(&[reduced.clone(), reduced], [3, 5], [3, 5]).unwrap();
        let (second, others) = (0.25 / 15.0 + 0.75 / 4.0, 0.25 / 15.0);
        for (index, found) in map.as_slice().iter().enumerate() {
            let is_second = index < 10 && (2..4).contains(&(index % 5));
            let expected = if is_second { 1.0 } else { others / second };
            assert!((found - expected).abs() < 1e-6, "{index}: {found}");
        }
        // Four keys of 16 by 16 positions are of squares of 8, though squares of 6 would give as many.
        assert_eq!([16, 12, 9].map(|side| reduction([side, side], 4)), [Some(8), Some(6), Some(4)]);
        let last = Tensor::<1>::from_floats([0.0, 0.0, 0.0, 1.0], &device).reshape([1, 1, 1, 4]).repeat_dim(2, 256);
        let map = rollout(&[last], [16, 16], [16, 16]).unwrap();
        for (index, found) in map.as_slice().iter().enumerate() {
            let expected = if index / 16 >= 8 && index % 16 >= 8 { 1.0 } else { 0.2 };
            assert!((found - expected).abs() < 1e-6, "{index}: {found}");
        }
        let own = attention_of(&block([0.25, 0.75, 0.5, 0.5]), 0, [1, 2], [1, 2]).unwrap();
        assert!(own.as_slice().iter().zip([1.0 / 3.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{own:?}");
        assert!(
            rollout(&[], [1, 2], [1, 2]).is_err() && rollout(std::slice::from_ref(&all_first), [1, 3], [1, 3]).is_err()
        );
        assert!(attention_of(&all_first, 2, [1, 2], [1, 2]).is_err());
    }

    #[test]
    fn images_are_moved_around() {
        let x = Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0], &Device::default()).reshape([1, 1, 1, 4]);
        assert_eq!(values(rolled(x.clone(), 3, 1)).unwrap(), [3.0, 0.0, 1.0, 2.0]);
        assert_eq!(values(total_variation(x)).unwrap(), [3.0]);
    }
}
