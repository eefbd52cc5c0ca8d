use serde::{Deserialize, Serialize};

use super::{Interpolation, resample::resample};
use crate::{
    DataError, Result, Sample, TransformRng,
    transforms::{Bounds, Compose, Transform},
};

/// A random change of the values of a volume, of any scale: [`Intensities`](super::Intensities) come before. As in nnU-Net and
/// batchgeneratorsv2, whose names are given. Bounds are of one channel of one patch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ValueChange {
    /// Adds noise of this standard deviation, from 0 to 100 (`GaussianNoiseTransform`, whose variance is a deviation). All channels of
    /// a patch have the same.
    GaussianNoise {
        /// Bounds of the standard deviation.
        std: [f32; 2],
    },
    /// Blurs along each axis by a deviation of its own, from 0.1 to 10 voxels, with a kernel of 6 deviations and mirrored ends
    /// (`GaussianBlurTransform`).
    GaussianBlur {
        /// Bounds of the standard deviation in voxels.
        sigma: [f32; 2],
    },
    /// Multiplies by a factor from 0 to 10 (`MultiplicativeBrightnessTransform`).
    Brightness {
        /// Bounds of the factor; half of those drawn are at most 1.
        factor: [f32; 2],
    },
    /// Multiplies the distance from the mean by a factor from 0 to 10, within the range that the values have
    /// (`ContrastTransform`).
    Contrast {
        /// Bounds of the factor; half of those drawn are at most 1.
        factor: [f32; 2],
    },
    /// Takes every n-th voxel and those between them by linear interpolation (`SimulateLowResolutionTransform`).
    LowResolution {
        /// Bounds of the share of voxels along an axis that are left, in `(0, 1]`.
        scale: [f32; 2],
        /// Rows and columns alone lose voxels, as thick slices are few already.
        in_plane: bool,
    },
    /// Raises values within their range to a power from 0.1 to 10, and gives them the mean and the standard deviation that they had
    /// (`GammaTransform`).
    Gamma {
        /// Bounds of the power; half of those drawn are at most 1.
        gamma: [f32; 2],
        /// Changes the negative, so that it is the bright values that move.
        inverted: bool,
    },
}

/// A [`ValueChange`] as a transform of a [`PatchesDataset`](super::PatchesDataset)'s patches, whose slices lie one below the other.
///
/// ```
/// use segkiln_data::volumes::{PatchTransform, ValueChange};
///
/// let noise = PatchTransform::new(32, 0.1, 1.0, ValueChange::GaussianNoise { std: [0.0, 0.1] })?;
/// let all = PatchTransform::nnunet([32, 128, 128]).then(noise);
/// assert_eq!(all.0.len(), 7 + 1);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PatchTransform {
    slices: usize,
    p: f32,
    p_per_channel: f32,
    change: ValueChange,
}

impl PatchTransform {
    /// Changes a share `p` of the patches of `slices` slices, and of each a share `p_per_channel` of the channels.
    ///
    /// # Errors
    /// If `slices` is 0, a share is not in `[0, 1]`, or bounds are out of order or of their range.
    pub fn new(slices: usize, p: f32, p_per_channel: f32, change: ValueChange) -> Result<Self> {
        if slices == 0 {
            return Err(DataError::option("slices", "must be at least 1, is 0"));
        }
        for (name, share) in [("p", p), ("p_per_channel", p_per_channel)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(DataError::option(name, format!("must be from 0 to 1, is {share}")));
            }
        }
        match change {
            ValueChange::GaussianNoise { std } => Bounds::new("std", std, 0.0..=100.0)?,
            ValueChange::GaussianBlur { sigma } => Bounds::new("sigma", sigma, 0.1..=10.0)?,
            ValueChange::Brightness { factor } | ValueChange::Contrast { factor } => {
                Bounds::new("factor", factor, 0.0..=10.0)?
            }
            ValueChange::LowResolution { scale, .. } => Bounds::new("scale", scale, f32::MIN_POSITIVE..=1.0)?,
            ValueChange::Gamma { gamma, .. } => Bounds::new("gamma", gamma, 0.1..=10.0)?,
        };
        Ok(Self { slices, p, p_per_channel, change })
    }

    /// nnU-Net's changes of values, with its bounds and shares, in its order. The slices of a patch with a side more than 3 times
    /// as long as its depth stay as many.
    ///
    /// # Panics
    /// If the depth is 0.
    pub fn nnunet(patch: [usize; 3]) -> Compose {
        let in_plane = super::PatchMotion::nnunet(patch).in_plane;
        let (factor, gamma) = ([0.75, 1.25], [0.7, 1.5]);
        let steps = [
            (0.1, 1.0, ValueChange::GaussianNoise { std: [0.0, 0.1] }),
            (0.2, 0.5, ValueChange::GaussianBlur { sigma: [0.5, 1.0] }),
            (0.15, 1.0, ValueChange::Brightness { factor }),
            (0.15, 1.0, ValueChange::Contrast { factor }),
            (0.25, 0.5, ValueChange::LowResolution { scale: [0.5, 1.0], in_plane }),
            (0.1, 1.0, ValueChange::Gamma { gamma, inverted: true }),
            (0.3, 1.0, ValueChange::Gamma { gamma, inverted: false }),
        ];
        steps.into_iter().fold(Compose::new(), |all, (p, p_per_channel, change)| {
            all.then(Self::new(patch[0], p, p_per_channel, change).expect("shares and bounds are in range"))
        })
    }
}

impl Transform for PatchTransform {
    /// # Errors
    /// If the rows of the image are not those of so many slices.
    fn apply(&self, mut sample: Sample, rng: &mut TransformRng) -> Result<Sample> {
        let (rows, width) = (sample.image.height() as usize, sample.image.width() as usize);
        if !rows.is_multiple_of(self.slices) {
            let reason = format!("are {}, and the image's {rows} rows are not those of so many", self.slices);
            return Err(DataError::option("slices", reason));
        }
        if !rng.chance(self.p) {
            return Ok(sample);
        }
        let size = [self.slices, rows / self.slices, width];
        let channels = sample.image.channels();
        let std = match self.change {
            ValueChange::GaussianNoise { std: [low, high] } => rng.uniform(low, high),
            _ => 0.0,
        };
        for channel in 0..channels {
            if !rng.chance(self.p_per_channel) {
                continue;
            }
            let values = sample.image.as_mut_slice();
            let mut map: Vec<f32> = values.iter().skip(channel).step_by(channels).copied().collect();
            match self.change {
                ValueChange::GaussianNoise { .. } => add_noise(&mut map, std, rng),
                ValueChange::GaussianBlur { sigma: [low, high] } => {
                    let sigma = [(); 3].map(|()| rng.uniform(low, high));
                    map = blurred(map, size, sigma);
                }
                ValueChange::Brightness { factor } => {
                    let factor = either_side(factor, rng);
                    map.iter_mut().for_each(|value| *value *= factor);
                }
                ValueChange::Contrast { factor } => change_contrast(&mut map, either_side(factor, rng)),
                ValueChange::LowResolution { scale: [low, high], in_plane } => {
                    let scale = rng.uniform(low, high);
                    map = coarse(&map, size, [if in_plane { 1.0 } else { scale }, scale, scale]);
                }
                ValueChange::Gamma { gamma, inverted } => raise(&mut map, either_side(gamma, rng), inverted),
            }
            for (value, changed) in values.iter_mut().skip(channel).step_by(channels).zip(map) {
                *value = changed;
            }
        }
        Ok(sample)
    }
}

/// Draws a factor, half of the time below 1 where the bounds allow it.
fn either_side([low, high]: [f32; 2], rng: &mut TransformRng) -> f32 {
    if rng.chance(0.5) && low < 1.0 {
        rng.uniform(low, high.min(1.0))
    } else {
        rng.uniform(low.max(1.0).min(high), high)
    }
}

fn add_noise(values: &mut [f32], std: f32, rng: &mut TransformRng) {
    for pair in values.chunks_mut(2) {
        for (value, noise) in pair.iter_mut().zip(rng.normals()) {
            *value += std * noise;
        }
    }
}

fn mean(values: &[f32]) -> f32 {
    (values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64) as f32
}

/// Standard deviation, unbiased as PyTorch's.
fn deviation(values: &[f32], mean: f32) -> f32 {
    let squares: f64 = values.iter().map(|value| (f64::from(*value) - f64::from(mean)).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64).sqrt() as f32
}

fn range(values: &[f32]) -> [f32; 2] {
    values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], value| [low.min(*value), high.max(*value)])
}

fn change_contrast(values: &mut [f32], factor: f32) {
    let (mean, [low, high]) = (mean(values), range(values));
    // Not `clamp`, which panics where values are no numbers.
    values.iter_mut().for_each(|value| *value = ((*value - mean) * factor + mean).max(low).min(high));
}

fn raise(values: &mut [f32], gamma: f32, inverted: bool) {
    /// Ranges and deviations below this are taken for it.
    const LEAST: f32 = 1e-7;
    let sign = if inverted { -1.0 } else { 1.0 };
    values.iter_mut().for_each(|value| *value *= sign);
    let before = mean(values);
    let std = deviation(values, before);
    let [low, high] = range(values);
    let length = high - low;
    values.iter_mut().for_each(|value| *value = ((*value - low) / length.max(LEAST)).powf(gamma) * length + low);
    let after = mean(values);
    let scale = std / deviation(values, after).max(LEAST);
    values.iter_mut().for_each(|value| *value = ((*value - after) * scale + before) * sign);
}

/// A volume with `scales` of its voxels along each axis, enlarged again.
fn coarse(values: &[f32], size: [usize; 3], scales: [f32; 3]) -> Vec<f32> {
    let few = [0, 1, 2].map(|axis| ((size[axis] as f64 * f64::from(scales[axis])).round_ties_even() as usize).max(1));
    let low = resample(values, 1, size, few, [Interpolation::Nearest; 3]);
    resample(&low, 1, few, size, [Interpolation::Linear; 3])
}

/// Half of a Gaussian's kernel, from the middle, and its sum. Its length is batchgeneratorsv2's: the odd number nearest to 6
/// deviations and a half.
fn kernel(sigma: f32) -> Vec<f32> {
    let length = 6.0 * sigma + 0.5;
    let rounded = length.round_ties_even();
    let odd = match rounded as usize % 2 {
        1 => rounded,
        _ if length >= rounded => rounded + 1.0,
        _ => rounded - 1.0,
    };
    let half: Vec<f32> = (0..=odd as usize / 2).map(|step| (-0.5 * (step as f32 / sigma).powi(2)).exp()).collect();
    let sum = half[0] + 2.0 * half[1..].iter().sum::<f32>();
    half.into_iter().map(|weight| weight / sum).collect()
}

/// Index within `length` values that go on mirrored at both ends, without the end itself twice.
fn mirrored(index: isize, length: usize) -> usize {
    let period = (2 * length - 2).max(1) as isize;
    let index = index.rem_euclid(period) as usize;
    index.min(period as usize - index).min(length - 1)
}

fn blurred(mut values: Vec<f32>, size: [usize; 3], sigma: [f32; 3]) -> Vec<f32> {
    for axis in 0..3 {
        let (length, inner) = (size[axis], size[axis + 1..].iter().product::<usize>());
        let kernel = kernel(sigma[axis]);
        let mut out = vec![0.0; values.len()];
        for (block, target) in values.chunks_exact(length * inner).zip(out.chunks_exact_mut(length * inner)) {
            for (i, line) in target.chunks_exact_mut(inner).enumerate() {
                let reach = kernel.len() as isize - 1;
                for step in -reach..=reach {
                    let from = mirrored(i as isize + step, length) * inner;
                    let weight = kernel[step.unsigned_abs()];
                    for (target, source) in line.iter_mut().zip(&block[from..from + inner]) {
                        *target += weight * source;
                    }
                }
            }
        }
        values = out;
    }
    values
}

#[cfg(test)]
mod tests {
    use segkiln_core::LabelMap;

    use super::*;
    use crate::{
        Image,
        volumes::{Case, Geometry, LabelVolume, Volume, patch_motion::PatchTurn},
    };

    #[derive(Deserialize)]
    struct Expected {
        size: [usize; 3],
        values: Vec<f32>,
        labels: Vec<u32>,
        brightness: (f32, Vec<f32>),
        contrast: (f32, Vec<f32>),
        gamma: (f32, Vec<f32>),
        gamma_inverted: (f32, Vec<f32>),
        blur: ([f32; 3], Vec<f32>),
        low_resolution: ([f32; 3], Vec<f32>),
        turns: Vec<Turned>,
    }

    #[derive(Deserialize)]
    struct Turned {
        angles: [f64; 3],
        scale: f64,
        spacing: [f64; 3],
        start: [usize; 3],
        patch: [usize; 3],
        values: Vec<f32>,
        labels: Vec<u32>,
    }

    /// By `tests/parity/volume_transforms.py`.
    fn expected() -> Expected {
        serde_json::from_str(include_str!("../../tests/fixtures/volumes/transforms.json")).unwrap()
    }

    fn assert_close(found: &[f32], expected: &[f32], name: &str) {
        assert_eq!(found.len(), expected.len());
        let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 2e-5, "{name} is off by {error}");
    }

    #[test]
    fn values_change_as_in_batchgenerators() {
        let expected = expected();
        let changed = |change: &dyn Fn(&mut Vec<f32>), by: &[f32], name: &str| {
            let mut values = expected.values.clone();
            change(&mut values);
            assert_close(&values, by, name);
        };
        let (size, factor) = (expected.size, expected.brightness.0);
        changed(&|values| values.iter_mut().for_each(|value| *value *= factor), &expected.brightness.1, "brightness");
        changed(&|values| change_contrast(values, expected.contrast.0), &expected.contrast.1, "contrast");
        changed(&|values| raise(values, expected.gamma.0, false), &expected.gamma.1, "gamma");
        changed(&|values| raise(values, expected.gamma_inverted.0, true), &expected.gamma_inverted.1, "inverted gamma");
        changed(&|values| *values = blurred(values.clone(), size, expected.blur.0), &expected.blur.1, "blur");
        changed(
            &|values| *values = coarse(values, size, expected.low_resolution.0),
            &expected.low_resolution.1,
            "low resolution",
        );
    }

    #[test]
    fn patches_turn_as_in_batchgenerators_and_in_millimeters_as_by_scipy() {
        let expected = expected();
        for turned in &expected.turns {
            let geometry = Geometry::with_spacing(expected.size, turned.spacing).unwrap();
            let case = Case {
                name: "case".into(),
                image: Volume::new(geometry.clone(), 1, expected.values.clone()).unwrap(),
                labels: LabelVolume::new(geometry, expected.labels.clone()).unwrap(),
            };
            let turn = PatchTurn::new(turned.angles, [turned.scale; 3], turned.spacing);
            let patch = turn.apply(&case, turned.start, turned.patch, 0);
            assert_close(&patch.values, &turned.values, "a turned patch");
            assert_eq!(patch.labels, turned.labels);
        }
    }

    fn sample(channels: usize) -> Sample {
        let values = (0..4 * 6 * 5 * channels).map(|i| ((i * 37) % 101) as f32 / 20.0 - 2.0).collect();
        let image = Image::new(5, 24, channels, values).unwrap();
        Sample { name: "patch".into(), image, target: LabelMap::filled(5, 24, 1) }
    }

    #[test]
    fn channels_are_chosen_and_changed_by_themselves() {
        let changes = [
            ValueChange::GaussianNoise { std: [0.1, 0.2] },
            ValueChange::GaussianBlur { sigma: [0.5, 1.0] },
            ValueChange::Brightness { factor: [0.75, 1.25] },
            ValueChange::Contrast { factor: [0.5, 0.9] },
            ValueChange::LowResolution { scale: [0.5, 0.6], in_plane: false },
            ValueChange::Gamma { gamma: [0.7, 1.5], inverted: false },
        ];
        for change in changes {
            let apply = |p: f32, p_per_channel: f32, seed: u64| {
                let transform = PatchTransform::new(4, p, p_per_channel, change).unwrap();
                transform.apply(sample(2), &mut TransformRng::new(seed, 0, 0)).unwrap()
            };
            assert_eq!(apply(0.0, 1.0, 1), sample(2));
            assert_eq!(apply(1.0, 1.0, 1), apply(1.0, 1.0, 1));
            let (once, again) = (apply(1.0, 1.0, 1), apply(1.0, 1.0, 2));
            assert!(once != again && once.target == sample(2).target, "{change:?}");
            assert!(once.image.as_slice().iter().all(|value| value.is_finite()));
            let changed = |seed: u64| {
                let (found, before) = (apply(1.0, 0.5, seed), sample(2));
                [0, 1].map(|channel| {
                    let values = found.image.as_slice().iter().zip(before.image.as_slice());
                    values.skip(channel).step_by(2).any(|(found, before)| found != before)
                })
            };
            assert!((0..20).any(|seed| changed(seed) == [true, false]), "{change:?}");
        }
    }

    #[test]
    fn one_voxel_and_even_values_stay_numbers() {
        let transform = PatchTransform::nnunet([1, 1, 1]);
        for seed in 0..100 {
            let one = Sample {
                name: "voxel".into(),
                image: Image::new(1, 1, 1, vec![3.0]).unwrap(),
                target: LabelMap::filled(1, 1, 0),
            };
            let changed = transform.apply(one, &mut TransformRng::new(seed, 0, 0)).unwrap();
            assert!(changed.image.as_slice()[0].is_finite());
        }
    }

    #[test]
    fn names_what_is_out_of_range() {
        let refused = |slices, p, change| PatchTransform::new(slices, p, 1.0, change).unwrap_err().to_string();
        let noise = ValueChange::GaussianNoise { std: [0.0, 0.1] };
        assert!(refused(0, 0.5, noise).contains("slices"));
        assert!(refused(1, f32::NAN, noise).contains("from 0 to 1, is NaN"));
        assert!(refused(1, 0.5, ValueChange::GaussianBlur { sigma: [0.0, 1.0] }).contains("sigma"));
        assert!(refused(1, 0.5, ValueChange::Gamma { gamma: [1.5, 0.7], inverted: true }).contains("gamma"));
        let odd = PatchTransform::new(7, 0.5, 1.0, noise).unwrap();
        let error = odd.apply(sample(1), &mut TransformRng::new(0, 0, 0)).unwrap_err().to_string();
        assert!(error.contains("24 rows"), "{error}");
    }
}
