//! Post-training quantization: the ranges of a network's activations, found on images, with which its layers compute in 8 bits.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use segkiln_models::{Calibration, InferenceSession, RangeMethod, unet::UNetConfig};
//!
//! let device = Device::flex();
//! let unet = UNetConfig::new(3, 2).with_base(16).with_depth(2).init(&device);
//! let calibration = Calibration::new(&device)?;
//! for _ in 0..2 {
//!     let x = Tensor::random([1, 3, 32, 32], Distribution::Default, &device);
//!     calibration.run(|| unet.forward(x));
//! }
//! let quantization = calibration.finish(&unet, RangeMethod::default())?;
//! let session = InferenceSession::quantized(&unet, &quantization, &device)?;
//! let logits = session.run(|| unet.forward(Tensor::zeros([1, 3, 40, 40], &device)));
//! assert_eq!(logits.dims(), [1, 2, 40, 40]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    sync::Arc,
};

use burn::{
    module::{Module, ParamId},
    tensor::{Device, Tensor},
};
use segkiln_ops::Joined;
use serde::{Deserialize, Serialize};

use crate::{ConfigError, InferenceSession, PrecisionError, weights::visit};

/// Smallest and largest values before and after a layer, which its 8 bits represent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerRanges {
    /// Range of its input, over all channels.
    pub input: [f32; 2],
    /// Range of its output, after norm and activation.
    pub output: [f32; 2],
    /// Range of the sum of a residual block that follows it, after the ReLU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<[f32; 2]>,
}

/// The layers of a network that compute in 8 bits, by their names: a layer's weight has the name and `.weight` in a file of
/// weights. Their weights have a scale for each output channel, with which the largest is 127.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkQuantization {
    /// Ranges by the names of the layers.
    pub layers: BTreeMap<String, LayerRanges>,
}

impl NetworkQuantization {
    /// Leaves out some layers, which then compute in bf16.
    #[must_use]
    pub fn without<'a>(&self, layers: impl IntoIterator<Item = &'a str>) -> Self {
        let mut rest = self.clone();
        for layer in layers {
            rest.layers.remove(layer);
        }
        rest
    }

    /// Whether ranges can be used.
    ///
    /// # Errors
    /// A sentence that names the layer of which a bound is not finite or the wrong way round.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (layer, ranges) in &self.layers {
            let LayerRanges { input, output, sum } = ranges;
            for [low, high] in [Some(input), Some(output), sum.as_ref()].into_iter().flatten() {
                if !(low.is_finite() && high.is_finite() && low <= high) {
                    return Err(ConfigError::with_message(
                        "quantization",
                        format!("quantization: the range [{low}, {high}] of the layer {layer} is none"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Choice of the range of 8 bits from the values that were seen. A narrow one has a small step, and cuts off the largest
/// values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RangeMethod {
    /// All values.
    MinMax,
    /// All but the outermost ten-thousandth.
    Percentile,
    /// The range with the least mean squared error of the quantized values.
    #[default]
    MeanSquaredError,
}

impl RangeMethod {
    /// All methods, by [name](Self::name).
    pub const ALL: [Self; 3] = [Self::MinMax, Self::Percentile, Self::MeanSquaredError];

    /// The name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::MinMax => "minmax",
            Self::Percentile => "percentile",
            Self::MeanSquaredError => "mse",
        }
    }
}

impl fmt::Display for RangeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RangeMethod {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| ConfigError::with_message("method", format!("there is no {name:?}; known are {names}")))
    }
}

/// Why a network cannot be quantized.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// No layer was seen that can compute in 8 bits.
    #[error("no image went through a layer that can compute in 8 bits")]
    NoLayer,
    /// An activation is NaN or infinite.
    #[error("the layer {layer} has activations that are not finite; check the weights and the images")]
    NotFinite {
        /// The first such layer.
        layer: String,
    },
}

/// Watches the activations of a network while it computes images in f32.
#[derive(Debug)]
pub struct Calibration {
    session: Arc<InferenceSession>,
}

impl Calibration {
    /// Creates a calibration of networks on `device`.
    ///
    /// # Errors
    /// [`PrecisionError::Device`] if the device is not the CPU backend flex.
    pub fn new(device: &Device) -> Result<Self, PrecisionError> {
        // Where 8 bits cannot be computed nothing needs to be watched.
        InferenceSession::quantized(&Vec::<burn::nn::Linear>::new(), &NetworkQuantization::default(), device)?;
        Ok(Self { session: InferenceSession::calibration(device)? })
    }

    /// The session in which a predictor is watched.
    pub fn session(&self) -> &Arc<InferenceSession> {
        &self.session
    }

    /// Computes `f`, a forward pass, and watches it.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        self.session.run(f)
    }

    /// The ranges of all layers of `network` that were seen and can compute in 8 bits. What was seen is forgotten.
    ///
    /// # Errors
    /// [`CalibrationError`] if there are none, or activations are not finite.
    pub fn finish<M: Module>(&self, network: &M, method: RangeMethod) -> Result<NetworkQuantization, CalibrationError> {
        let seen = self.session.observations();
        let mut layers = BTreeMap::new();
        for (layer, weight) in weights(network) {
            let Some(Layer { input, output, sum }) = seen.layers.get(&weight) else { continue };
            let mut range = |histogram: &Histogram| match histogram.range(method) {
                Some(range) => Ok(range),
                None => Err(CalibrationError::NotFinite { layer: layer.clone() }),
            };
            let ranges = LayerRanges {
                input: range(input)?,
                output: range(output)?,
                sum: sum.as_ref().map(&mut range).transpose()?,
            };
            layers.insert(layer, ranges);
        }
        if layers.is_empty() { Err(CalibrationError::NoLayer) } else { Ok(NetworkQuantization { layers }) }
    }
}

/// The weights of a network's layers, by the layers' names.
pub(crate) fn weights<M: Module>(network: &M) -> HashMap<String, ParamId> {
    visit(network, |param, _| param.id())
        .into_iter()
        .filter_map(|(name, id)| Some((name.strip_suffix(".weight")?.to_owned(), id)))
        .collect()
}

/// Whether a layer's kernels of 8 bits can read its input's channels.
pub(crate) fn can_be_read(x: &Joined) -> bool {
    x.dims()[1].is_multiple_of(16)
}

/// The values that a calibration has seen, by the layers' weights.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    layers: HashMap<ParamId, Layer>,
}

#[derive(Debug, Default)]
struct Layer {
    input: Histogram,
    output: Histogram,
    sum: Option<Histogram>,
}

impl Observations {
    /// Values before and after a layer, if its channels can be read in 8 bits.
    pub fn layer(&mut self, weight: ParamId, x: &Joined, y: &Tensor<4>) {
        if !can_be_read(x) {
            return;
        }
        let layer = self.layers.entry(weight).or_default();
        for x in x.tensors() {
            layer.input.add(x);
        }
        layer.output.add(y);
    }

    /// Values of the sum after a layer.
    pub fn sum(&mut self, last: ParamId, sum: &Tensor<4>) {
        if let Some(layer) = self.layers.get_mut(&last) {
            layer.sum.get_or_insert_default().add(sum);
        }
    }
}

/// Counts of values in many intervals around 0; the intervals grow with the values.
#[derive(Debug)]
struct Histogram {
    /// The intervals reach from its negative to it; a power of two.
    limit: f32,
    bins: Vec<u64>,
    low: f32,
    high: f32,
    finite: bool,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { limit: 2f32.powi(-20), bins: vec![0; Self::BINS], low: 0.0, high: 0.0, finite: true }
    }
}

impl Histogram {
    /// A multiple of 4, so that two neighbors become one on either side of 0.
    const BINS: usize = 8192;
    /// Ranges that are tried for each bound.
    const STEPS: usize = 64;

    fn add(&mut self, tensor: &Tensor<4>) {
        let data = tensor.clone().into_data().convert::<f32>();
        let Ok(values) = data.as_slice::<f32>() else { return };
        let bounds = values.iter().fold([0f32; 2], |[low, high], value| [low.min(*value), high.max(*value)]);
        // A sum is not finite where a value is not, nor are bounds where it is infinite.
        if !bounds.iter().all(|bound| bound.is_finite()) || values.iter().any(|value| value.is_nan()) {
            self.finite = false;
            return;
        }
        (self.low, self.high) = (self.low.min(bounds[0]), self.high.max(bounds[1]));
        while self.limit < self.high.max(-self.low) {
            self.limit *= 2.0;
            let half = Self::BINS / 2;
            let merged: Vec<u64> = self.bins.chunks_exact(2).map(|pair| pair[0] + pair[1]).collect();
            self.bins.fill(0);
            self.bins[half / 2..half / 2 + half].copy_from_slice(&merged);
        }
        let factor = Self::BINS as f32 / (2.0 * self.limit);
        for value in values {
            let bin = ((value + self.limit) * factor) as usize;
            self.bins[bin.min(Self::BINS - 1)] += 1;
        }
    }

    /// The middle of an interval.
    fn middle(&self, bin: usize) -> f64 {
        (bin as f64 + 0.5) / Self::BINS as f64 * 2.0 * f64::from(self.limit) - f64::from(self.limit)
    }

    /// The range for 8 bits; none where a value was not finite.
    fn range(&self, method: RangeMethod) -> Option<[f32; 2]> {
        if !self.finite {
            return None;
        }
        let all = [self.low, self.high];
        Some(match method {
            RangeMethod::MinMax => all,
            RangeMethod::Percentile => self.percentile(1e-4),
            RangeMethod::MeanSquaredError => self.least_error(),
        })
    }

    /// All but this share of the values, half of it on each side where there are values on both.
    fn percentile(&self, outside: f64) -> [f32; 2] {
        let total: u64 = self.bins.iter().sum();
        let sides = if self.low < 0.0 && self.high > 0.0 { 2.0 } else { 1.0 };
        let spare = (total as f64 * outside / sides) as u64;
        // The first interval that this share reaches, in this order.
        let cut = |order: &mut dyn Iterator<Item = usize>| {
            let mut count = 0;
            for bin in order {
                count += self.bins[bin];
                if count > spare {
                    return self.middle(bin) as f32;
                }
            }
            0.0
        };
        let low = cut(&mut (0..Self::BINS));
        let high = cut(&mut (0..Self::BINS).rev());
        [low.clamp(self.low, 0.0), high.clamp(0.0, self.high)]
    }

    fn least_error(&self) -> [f32; 2] {
        // Number, sum and sum of squares of the values before each interval. Those at 0 are always exact.
        let zero = Self::BINS / 2;
        let mut before = vec![[0f64; 3]];
        for (bin, count) in self.bins.iter().enumerate() {
            let (count, value) = (if bin == zero { 0.0 } else { *count as f64 }, self.middle(bin));
            let [number, sum, squares] = before[bin];
            before.push([number + count, sum + count * value, squares + count * value * value]);
        }
        let place = |value: f64| {
            let place = (value + f64::from(self.limit)) / (2.0 * f64::from(self.limit)) * Self::BINS as f64;
            (place.round() as usize).min(Self::BINS)
        };
        let within = |from: usize, to: usize| [0, 1, 2].map(|index| before[to][index] - before[from][index]);
        // Squared distances from a bound.
        let from_bound =
            |[number, sum, squares]: [f64; 3], bound: f64| squares - 2.0 * bound * sum + number * bound * bound;
        let error = |low: f64, high: f64| {
            let (first, last) = (place(low), place(high));
            let step = (high - low) / 255.0;
            from_bound(within(0, first), low)
                + from_bound(within(last.max(first), Self::BINS), high)
                + within(first, last.max(first))[0] * step * step / 12.0
        };
        let parts = || (1..=Self::STEPS).map(|part| part as f64 / Self::STEPS as f64);
        let lows: Vec<f64> =
            if self.low < 0.0 { parts().map(|part| part * f64::from(self.low)).collect() } else { vec![0.0] };
        let highs: Vec<f64> =
            if self.high > 0.0 { parts().map(|part| part * f64::from(self.high)).collect() } else { vec![0.0] };
        let all = [f64::from(self.low), f64::from(self.high)];
        let mut best = (f64::INFINITY, all);
        for low in &lows {
            for high in &highs {
                let error = error(*low, *high);
                if error < best.0 || (error == best.0 && high - low > best.1[1] - best.1[0]) {
                    best = (error, [*low, *high]);
                }
            }
        }
        best.1.map(|bound| bound as f32)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn histogram(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        for part in values.chunks(1000) {
            histogram.add(&Tensor::from_data(TensorData::new(part.to_vec(), [1, 1, 1, part.len()]), &Device::flex()));
        }
        histogram
    }

    fn squared_error(values: &[f32], [low, high]: [f32; 2]) -> f32 {
        let step = (high - low) / 255.0;
        values
            .iter()
            .map(|value| (value - (low + ((value.clamp(low, high) - low) / step).round() * step)).powi(2))
            .sum()
    }

    #[test]
    fn ranges_of_a_bell_with_outliers() {
        // Sums of uniform numbers, and two values far away.
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut values: Vec<f32> = (0..20_000).map(|_| (0..8).map(|_| uniform()).sum::<f32>() - 4.0).collect();
        values.extend([40.0, -30.0]);
        let histogram = histogram(&values);
        assert_eq!(histogram.range(RangeMethod::MinMax), Some([-30.0, 40.0]));
        let [percentile, least] =
            [RangeMethod::Percentile, RangeMethod::MeanSquaredError].map(|method| histogram.range(method).unwrap());
        assert!((-4.0..-2.0).contains(&percentile[0]) && (2.0..4.0).contains(&percentile[1]), "{percentile:?}");
        let found = squared_error(&values, least);
        for other in [percentile, [-30.0, 40.0], [-2.0, 2.0], [-10.0, 13.0]] {
            assert!(found <= 1.02 * squared_error(&values, other), "{least:?} {other:?}");
        }
    }

    #[test]
    fn one_sided_and_empty_values_have_ranges() {
        let values: Vec<f32> = (0..1000).map(|index| index as f32 / 1000.0).collect();
        for method in RangeMethod::ALL {
            let [low, high] = histogram(&values).range(method).unwrap();
            assert!(low == 0.0 && (0.95..1.0).contains(&high), "{method}: {low} {high}");
            assert_eq!(histogram(&[0.0; 9]).range(method), Some([0.0; 2]));
            assert_eq!(histogram(&[0.0, f32::NAN]).range(method), None);
            assert_eq!(histogram(&[0.0, f32::NEG_INFINITY]).range(method), None);
            assert_eq!(method.name().parse(), Ok(method));
        }
    }
}
