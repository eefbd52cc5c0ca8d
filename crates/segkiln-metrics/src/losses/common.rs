//! Shared parts of the losses: one-hot targets with ignored pixels, reproducible sums, checks of configurations.

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::{MetricsError, Result};

/// Reduction of the pixels' losses to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The mean over the pixels that are not ignored.
    #[default]
    Mean,
    /// The sum.
    Sum,
}

/// Losses are computed in single precision, because sums of half-precision values overflow.
const PRECISION: FloatDType = FloatDType::F32;

/// Targets of the logits' size.
pub(super) struct Labels {
    /// `[N, H, W]`, on the device of the logits.
    targets: Tensor<3, Int>,
    /// `[N, H, W]`, true where the target is ignored.
    ignored: Option<Tensor<3, Bool>>,
    /// Channels of the logits.
    channels: usize,
}

impl Labels {
    /// Returns the logits in the losses' precision, and their labels.
    ///
    /// Panics unless `targets` are `[N, H, W]` for logits `[N, C, H, W]`.
    pub(super) fn prepare(logits: Tensor<4>, targets: Tensor<3, Int>, ignore_index: Option<i64>) -> (Tensor<4>, Self) {
        let [batch, channels, height, width] = logits.dims();
        assert!(
            targets.dims() == [batch, height, width] && channels > 0,
            "targets must be [N, H, W] for logits [N, C, H, W] with at least one channel, got targets {:?} for logits {:?}",
            targets.dims(),
            logits.dims(),
        );
        let targets = targets.to_device(&logits.device());
        let ignored = ignore_index.map(|index| targets.clone().equal_scalar(index));
        (logits.cast(PRECISION), Self { targets, ignored, channels })
    }

    pub(super) fn device(&self) -> Device {
        self.targets.device()
    }

    /// `[N, C, H, W]`: 1 where the pixel is of the channel's class, and 0 elsewhere and at ignored pixels.
    pub(super) fn one_hot(&self) -> Tensor<4> {
        indicator(self.is_of_channel())
    }

    /// `[N, C, H, W]`: whether the pixel is of the channel's class; an ignored pixel is of none.
    pub(super) fn is_of_channel(&self) -> Tensor<4, Bool> {
        if self.channels == 1 {
            return self.replace_ignored(0).equal_scalar(1).unsqueeze_dim(1);
        }
        let classes = Tensor::<1, Int>::arange(0..self.channels as i64, &self.device()).cast(self.targets.dtype());
        let targets = self.replace_ignored(self.channels as i64).unsqueeze_dim::<4>(1);
        targets.equal(classes.reshape([1, self.channels, 1, 1]))
    }

    /// Sets `x`, of any number of channels, to 0 at the ignored pixels.
    pub(super) fn zero_ignored(&self, x: Tensor<4>) -> Tensor<4> {
        self.fill_ignored(x, 0.0)
    }

    /// Sets `x`, of any number of channels, to `value` at the ignored pixels.
    pub(super) fn fill_ignored(&self, x: Tensor<4>, value: f64) -> Tensor<4> {
        match &self.ignored {
            Some(ignored) => {
                let shape = x.dims();
                x.mask_fill(ignored.clone().unsqueeze_dim::<4>(1).expand(shape), value)
            }
            None => x,
        }
    }

    /// Number of pixels that are not ignored.
    pub(super) fn count(&self) -> Tensor<1> {
        match &self.ignored {
            Some(ignored) => sum_all(indicator(ignored.clone().bool_not()).unsqueeze_dim(1)),
            None => floats(&[self.targets.shape().num_elements() as f32], &self.device()),
        }
    }

    fn replace_ignored(&self, label: i64) -> Tensor<3, Int> {
        match &self.ignored {
            Some(ignored) => self.targets.clone().mask_fill(ignored.clone(), label),
            None => self.targets.clone(),
        }
    }
}

/// Returns foreground or class probabilities of logits `[N, C, H, W]`.
pub(super) fn probabilities(logits: Tensor<4>) -> Tensor<4> {
    if logits.dims()[1] == 1 { sigmoid(logits) } else { softmax(logits, 1) }
}

/// Returns the sum of all values.
///
/// Sums rows first, because burn-flex adds four million or more values in an order that varies from run to run.
pub(super) fn sum_all(x: Tensor<4>) -> Tensor<1> {
    let rows = x.sum_dim(3);
    if rows.dims().iter().product::<usize>() < 1 << 22 { rows.sum() } else { rows.sum_dim(2).sum() }
}

/// Returns the sum of a list, parts first as in [`sum_all`].
pub(super) fn sum_list(values: Tensor<1>) -> Tensor<1> {
    /// Values of a part.
    const PART: usize = 4096;
    let [count] = values.dims();
    let (parts, rest) = (count / PART, count % PART);
    if parts == 0 {
        return values.sum();
    }
    let sum = values.clone().narrow(0, 0, parts * PART).reshape([parts, PART]).sum_dim(1).sum();
    if rest == 0 { sum } else { sum + values.narrow(0, parts * PART, rest).sum() }
}

/// Returns the sum of each channel, `[C]`, rows first as in [`sum_all`].
pub(super) fn sum_channels(x: Tensor<4>) -> Tensor<1> {
    let channels = x.dims()[1];
    x.sum_dim(3).sum_dim(2).sum_dim(0).reshape([channels])
}

/// Returns a tensor in the losses' precision.
pub(super) fn floats(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(values, (device, DType::from(PRECISION)))
}

/// Returns 1 where true and 0 where false, in the losses' precision.
pub(super) fn indicator<const D: usize>(mask: Tensor<D, Bool>) -> Tensor<D> {
    mask.float().cast(PRECISION)
}

/// Returns the sum of channel values `[C]`, each times its share.
pub(super) fn weighted_sum(values: Tensor<1>, shares: &[f32]) -> Tensor<1> {
    let shares = floats(shares, &values.device());
    (values * shares).sum()
}

/// Returns a value for each channel as `[1, C, 1, 1]`.
///
/// Panics unless there are as many values as channels.
pub(super) fn per_channel(name: &str, values: &[f32], channels: usize, device: &Device) -> Tensor<4> {
    assert!(values.len() == channels, "{name} has {} values for {channels} channels", values.len());
    floats(values, device).reshape([1, channels, 1, 1])
}

/// Refuses a value that is not finite or lies below `low` (or above `high`).
pub(super) fn in_range(name: &'static str, value: f64, low: f64, high: f64, expected: &'static str) -> Result<()> {
    if (low..=high).contains(&value) && value.is_finite() {
        Ok(())
    } else {
        Err(MetricsError::OutOfRange { name, expected, value })
    }
}

/// Refuses a value that is negative or not finite.
pub(super) fn not_negative(name: &'static str, value: f64) -> Result<()> {
    in_range(name, value, 0.0, f64::MAX, "finite and not negative")
}

/// Refuses weights that are negative, not finite, or all zero.
pub(super) fn valid_weights(name: &'static str, weights: Option<&[f32]>) -> Result<()> {
    match weights {
        Some(w) if w.iter().any(|w| !w.is_finite() || *w < 0.0) || w.iter().all(|w| *w == 0.0) => {
            Err(MetricsError::Weights { name, values: w.iter().map(|w| f64::from(*w)).collect() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_have_one_sum() {
        let device = Device::default();
        for count in [1, 4095, 4096, 10_000] {
            let values: Vec<f32> = (0..count).map(|i| (i % 97) as f32).collect();
            let expected: f32 = values.iter().sum();
            let sum = sum_list(Tensor::from_floats(values.as_slice(), &device)).into_scalar::<f32>();
            assert!((sum - expected).abs() <= 1e-3 * expected, "{count}: {sum} {expected}");
        }
        let values: Vec<f32> = (0..5_000_000u64).map(|i| (i * 7919 % 104_729) as f32 * 1e-3).collect();
        let sum = || sum_list(Tensor::from_floats(values.as_slice(), &device)).into_scalar::<f32>().to_bits();
        let first = sum();
        assert!((0..10).all(|_| sum() == first));
    }
}
