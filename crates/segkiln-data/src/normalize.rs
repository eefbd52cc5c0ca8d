use serde::{Deserialize, Serialize};

use crate::{DataError, Image, Result};

/// Brings each channel to a mean of 0 and a standard deviation of 1: `(value - mean) / std`.
///
/// ```
/// use segkiln_data::{Image, Normalize};
///
/// let mut image = Image::new(1, 1, 3, vec![0.485, 0.456 + 0.224, 0.406])?;
/// Normalize::imagenet().apply(&mut image)?;
/// assert!(image.as_slice().iter().zip([0.0, 1.0, 0.0]).all(|(a, b)| (a - b).abs() < 1e-6));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Normalize {
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// Values as a file has them, before they are checked.
#[derive(Deserialize)]
struct Unchecked {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl TryFrom<Unchecked> for Normalize {
    type Error = DataError;

    fn try_from(file: Unchecked) -> Result<Self> {
        Self::new(file.mean, file.std)
    }
}

impl Normalize {
    /// A mean and a standard deviation for each channel, in the units of the image.
    ///
    /// # Errors
    /// If there is no channel, the numbers of means and deviations differ, one is not finite, or a deviation is not
    /// positive.
    pub fn new(mean: Vec<f32>, std: Vec<f32>) -> Result<Self> {
        let refused = |reason: String| DataError::Option { option: "normalize", reason };
        if mean.is_empty() || mean.len() != std.len() {
            return Err(refused(format!(
                "one mean and one std a channel are needed, got {} means and {} stds",
                mean.len(),
                std.len()
            )));
        }
        if let Some(value) = mean.iter().find(|value| !value.is_finite()) {
            return Err(refused(format!("a mean must be finite, got {value}")));
        }
        if let Some((channel, value)) = std.iter().enumerate().find(|(_, value)| !value.is_finite() || **value <= 0.0) {
            return Err(refused(format!("the std of channel {channel} must be positive and finite, got {value}")));
        }
        Ok(Self { mean, std })
    }

    /// The statistics of ImageNet's RGB images in `[0, 1]`, which torchvision's pretrained weights expect.
    pub fn imagenet() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// No change, for images of this many channels.
    ///
    /// # Panics
    /// If `channels` is 0.
    pub fn identity(channels: usize) -> Self {
        assert!(channels > 0, "an image has at least one channel");
        Self { mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// The mean and (population) standard deviation of each channel over all pixels of a data set.
    ///
    /// Summed in `f64`, in the order of the data set: the same data give the same bits. A constant channel is centered and
    /// not scaled (its deviation is taken for 1), with a warning.
    ///
    /// # Errors
    /// If a sample cannot be read, the data set is empty, or its images differ in channels.
    #[cfg(feature = "datasets")]
    pub fn of_dataset<T>(dataset: &dyn burn::data::dataset::Dataset<crate::Sample<T>>) -> Result<Self> {
        let mut channels: Vec<Moments> = Vec::new();
        for index in 0..dataset.len() {
            let image = dataset.get(index)?.image;
            if channels.is_empty() {
                channels = vec![Moments::default(); image.channels()];
            }
            check_channels(&image, channels.len())?;
            for (channel, total) in channels.iter_mut().enumerate() {
                total.add(Moments::of(image.as_slice().iter().skip(channel).step_by(image.channels())));
            }
        }
        if channels.is_empty() {
            return Err(DataError::Empty { what: "the data set to normalize by".into() });
        }
        let mut std = Vec::with_capacity(channels.len());
        for (channel, moments) in channels.iter().enumerate() {
            let deviation = (moments.squares / moments.count).sqrt();
            // Rounding leaves a little of nothing.
            let is_constant = deviation <= 1e-9 * moments.mean.abs();
            if is_constant {
                let mean = moments.mean;
                log::warn!(
                    target: crate::warn::CONSTANT_CHANNEL,
                    "channel {channel} is {mean} in all images: it is centered and not scaled"
                );
            }
            std.push(if is_constant { 1.0 } else { deviation as f32 });
        }
        Self::new(channels.iter().map(|c| c.mean as f32).collect(), std)
    }

    /// Mean of each channel.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Standard deviation of each channel.
    pub fn std(&self) -> &[f32] {
        &self.std
    }

    /// Normalizes in place.
    ///
    /// # Errors
    /// [`DataError::Channels`] if the image has another number of channels.
    pub fn apply(&self, image: &mut Image) -> Result<()> {
        check_channels(image, self.mean.len())?;
        for pixel in image.as_mut_slice().chunks_exact_mut(self.mean.len()) {
            for ((value, mean), std) in pixel.iter_mut().zip(&self.mean).zip(&self.std) {
                *value = (*value - mean) / std;
            }
        }
        Ok(())
    }
}

fn check_channels(image: &Image, expected: usize) -> Result<()> {
    if image.channels() == expected {
        return Ok(());
    }
    Err(DataError::Channels { what: "normalize", expected, actual: image.channels() })
}

/// Count, mean and sum of squared deviations, joined image by image (Chan, Golub & LeVeque 1983), because the difference
/// of two large sums would lose the variance of a dark image.
#[cfg(feature = "datasets")]
#[derive(Clone, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

#[cfg(feature = "datasets")]
impl Moments {
    fn of<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> Self {
        let (count, sum) = values.clone().fold((0.0, 0.0), |(n, sum), v| (n + 1.0, sum + f64::from(*v)));
        let mean = sum / count;
        let squares = values.map(|v| (f64::from(*v) - mean).powi(2)).sum();
        Self { count, mean, squares }
    }

    fn add(&mut self, other: Self) {
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        self.squares += other.squares + delta * delta * self.count * other.count / count;
        self.mean += delta * other.count / count;
        self.count = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        assert!(Normalize::new(vec![], vec![]).is_err());
        assert!(Normalize::new(vec![0.0], vec![1.0, 1.0]).is_err());
        assert!(Normalize::new(vec![f32::NAN], vec![1.0]).is_err());
        let error = Normalize::new(vec![0.0, 0.0], vec![1.0, 0.0]).unwrap_err().to_string();
        assert!(error.contains("channel 1 must be positive"), "{error}");
        assert!(serde_json::from_str::<Normalize>(r#"{"mean":[0.0],"std":[-1.0]}"#).is_err());
    }

    #[test]
    fn serde_keeps_it() {
        let json = serde_json::to_string(&Normalize::imagenet()).unwrap();
        assert_eq!(serde_json::from_str::<Normalize>(&json).unwrap(), Normalize::imagenet());
    }

    #[test]
    fn other_channels_are_an_error() {
        let mut gray = Image::new(1, 1, 1, vec![0.0]).unwrap();
        let error = Normalize::imagenet().apply(&mut gray).unwrap_err().to_string();
        assert_eq!(error, "normalize needs 3 channels, the image has 1");
    }

    #[cfg(feature = "datasets")]
    #[test]
    fn a_data_set_s_statistics_normalize_it() {
        use crate::{Sample, datasets::InMemoryDataset};
        use segkiln_core::LabelMap;

        let sample = |values: Vec<f32>| Sample {
            name: "s".into(),
            image: Image::new(values.len() as u32 / 2, 1, 2, values.clone()).unwrap(),
            target: LabelMap::filled(values.len() as u32 / 2, 1, 0),
        };
        let set = InMemoryDataset::new(vec![sample(vec![1.0, 10.0, 3.0, 10.0]), sample(vec![5.0, 16.0])]);
        let normalize = Normalize::of_dataset(&set).unwrap();
        assert_eq!(normalize.mean(), [3.0, 12.0]);
        assert_eq!(normalize.std(), [(8.0f32 / 3.0).sqrt(), 8.0f32.sqrt()]);

        // Not a number of binary fractions, so that its mean is rounded.
        let constant = InMemoryDataset::new(vec![sample(vec![1.0, 0.1, 3.0, 0.1, 5.0, 0.1])]);
        let normalize = Normalize::of_dataset(&constant).unwrap();
        assert_eq!((normalize.mean()[1], normalize.std()[1]), (0.1, 1.0));
        let zero = InMemoryDataset::new(vec![sample(vec![1.0, 0.0, 3.0, 0.0])]);
        assert_eq!(Normalize::of_dataset(&zero).unwrap().std(), [1.0, 1.0]);
        assert!(matches!(
            Normalize::of_dataset(&InMemoryDataset::<LabelMap>::new(vec![])),
            Err(DataError::Empty { .. })
        ));
    }
}
