use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Explanation, Method};
use crate::{ExplainError, Map, Question, Result};

/// The mean score of images that are randomly covered with the mean color, by the pixels that are seen: Petsiuk et al., BMVC 2018,
/// <https://arxiv.org/abs/1806.07421>. The paper's scores are probabilities; logits have no natural zero, so the mean of all scores is
/// taken off each, which changes the map by a constant (but for noise).
#[derive(Debug, Clone, Copy)]
pub struct Rise {
    /// Number of masks.
    pub masks: usize,
    /// Cells a side of a mask.
    pub cells: usize,
    /// Share of cells that are seen.
    pub seen: f64,
}

impl Default for Rise {
    /// 400 masks of 8 by 8 cells, half of which are seen.
    fn default() -> Self {
        Self { masks: 400, cells: 8, seen: 0.5 }
    }
}

impl Method for Rise {
    fn name(&self) -> &'static str {
        "rise"
    }

    fn meaning(&self) -> &'static str {
        "The network is asked about hundreds of randomly covered copies; red pixels were seen in those that scored above the mean. It \
         takes no look inside the network, and is only as sharp and as certain as the number of copies makes it."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        if self.masks == 0 || self.cells == 0 || !(self.seen > 0.0 && self.seen < 1.0) {
            let reason = "needs at least one mask and cell, and a share of seen cells between 0 and 1".into();
            return Err(ExplainError::Option { option: "rise", reason });
        }
        let size = question.size();
        let x = &question.x;
        let masks: Vec<Vec<f32>> = (0..self.masks).map(|index| self.mask(question.seed, index as u64, size)).collect();
        let scores = question.scores(self.masks, |index| {
            let mask = TensorData::new(masks[index].clone(), [1, 1, size[0], size[1]]);
            Ok(x.clone() * Tensor::from_data(mask, &x.device()))
        })?;
        let mean = scores.iter().map(|score| f64::from(*score)).sum::<f64>() / self.masks as f64;
        let mut sums = vec![0.0f64; size[0] * size[1]];
        for (mask, score) in masks.iter().zip(&scores) {
            for (sum, seen) in sums.iter_mut().zip(mask) {
                *sum += (f64::from(*score) - mean) * f64::from(*seen);
            }
        }
        let scale = 1.0 / (self.masks as f64 * self.seen);
        Ok(Map::new(size, sums.iter().map(|sum| (sum * scale) as f32).collect(), true)?.into())
    }
}

impl Rise {
    /// Random cells, enlarged (bilinear) by a little more than the image and shifted at random.
    fn mask(&self, seed: u64, index: u64, [height, width]: [usize; 2]) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        let side = self.cells + 1;
        let cells: Vec<f32> = (0..side * side).map(|_| f32::from(rng.random::<f64>() < self.seen)).collect();
        let cell = [height, width].map(|side| side.div_ceil(self.cells) as f64);
        let shift = cell.map(|cell| rng.random::<f64>() * cell);
        let at = |axis: usize, index: usize| {
            let place = ((index as f64 + shift[axis] + 0.5) / cell[axis] - 0.5).clamp(0.0, (side - 1) as f64);
            let low = (place as usize).min(side.saturating_sub(2));
            (low, (place - low as f64) as f32)
        };
        let mut mask = Vec::with_capacity(height * width);
        for row in 0..height {
            let (top, down) = at(0, row);
            for column in 0..width {
                let (left, right) = at(1, column);
                let value = |row: usize, column: usize| cells[row.min(side - 1) * side + column.min(side - 1)];
                let above = value(top, left) * (1.0 - right) + value(top, left + 1) * right;
                let below = value(top + 1, left) * (1.0 - right) + value(top + 1, left + 1) * right;
                mask.push(above * (1.0 - down) + below * down);
            }
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_show_their_share() {
        let rise = Rise { seen: 0.3, ..Default::default() };
        let size = [37, 50];
        let mut mean = 0.0;
        for index in 0..200 {
            let mask = rise.mask(1, index, size);
            assert!(mask.len() == size[0] * size[1] && mask.iter().all(|value| (0.0..=1.0).contains(value)));
            mean += mask.iter().map(|value| f64::from(*value)).sum::<f64>() / mask.len() as f64 / 200.0;
        }
        assert!((mean - 0.3).abs() < 0.02, "{mean}");
        assert_eq!(rise.mask(1, 7, size), rise.mask(1, 7, size));
        assert_ne!(rise.mask(1, 7, size), rise.mask(1, 8, size));
    }
}
