use burn::tensor::{Device, Int, Tensor, TensorData};
use segkiln_core::LabelMap;

use crate::{DataError, Image, Result};

/// An image and its mask, of equal width and height.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What errors and results call it; the stem of its files, where it has any.
    pub name: String,
    /// The image.
    pub image: Image,
    /// The label of each of its pixels.
    pub mask: LabelMap,
}

impl Sample {
    /// Refuses an image and a mask of different sizes, which no transform can move together.
    pub(crate) fn check(&self) -> Result<()> {
        let image_size = (self.image.width(), self.image.height());
        let mask_size = (self.mask.width(), self.mask.height());
        if image_size == mask_size {
            return Ok(());
        }
        let name = &self.name;
        Err(DataError::SizeMismatch { image: name.into(), image_size, mask: format!("of {name}").into(), mask_size })
    }
}

/// Samples of one size as tensors.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[batch, channels, height, width]`, floats.
    pub images: Tensor<4>,
    /// `[batch, height, width]`, class indices (or instance ids, as the data set has them).
    pub masks: Tensor<3, Int>,
    /// Name of each sample.
    pub names: Vec<String>,
}

impl Batch {
    /// Joins samples into tensors on `device`, in order.
    ///
    /// # Errors
    /// If there are no samples, their sizes or channels differ, or a label is over 2^31 - 1.
    pub fn collate(samples: Vec<Sample>, device: &Device) -> Result<Self> {
        Ok(HostBatch::collate(samples)?.into_tensors(device))
    }
}

/// A batch before it is moved to a device: plain memory, which any thread may make.
pub(crate) struct HostBatch {
    images: Vec<f32>,
    masks: Vec<i32>,
    names: Vec<String>,
    channels: usize,
    height: usize,
    width: usize,
}

impl HostBatch {
    pub fn collate(samples: Vec<Sample>) -> Result<Self> {
        let first = samples.first().ok_or_else(|| DataError::Empty { what: "the batch".into() })?;
        let size = |sample: &Sample| (sample.image.width(), sample.image.height(), sample.image.channels());
        for sample in &samples {
            sample.check()?;
            if size(sample) != size(first) {
                return Err(DataError::BatchSizes {
                    first: first.name.clone(),
                    first_size: size(first),
                    second: sample.name.clone(),
                    second_size: size(sample),
                });
            }
        }
        let (width, height, channels) = size(first);
        let (width, height) = (width as usize, height as usize);
        let pixels = width * height;
        let mut images = vec![0.0; samples.len() * channels * pixels];
        let mut masks = Vec::with_capacity(samples.len() * pixels);
        for (planes, sample) in images.chunks_exact_mut(channels * pixels).zip(&samples) {
            planar(sample.image.as_slice(), channels, planes);
            for label in sample.mask.as_slice() {
                masks.push(i32::try_from(*label).map_err(|_| DataError::MaskValue {
                    path: sample.name.clone().into(),
                    reason: format!("label {label} does not fit a tensor's 31 bits; number the labels anew"),
                })?);
            }
        }
        let names = samples.into_iter().map(|sample| sample.name).collect();
        Ok(Self { images, masks, names, channels, height, width })
    }

    pub fn into_tensors(self, device: &Device) -> Batch {
        let Self { images, masks, names, channels, height, width } = self;
        let n = names.len();
        Batch {
            images: Tensor::from_data(TensorData::new(images, [n, channels, height, width]), device),
            masks: Tensor::from_data(TensorData::new(masks, [n, height, width]), device),
            names,
        }
    }
}

/// `[pixels, channels]` to `[channels, pixels]`.
fn planar(interleaved: &[f32], channels: usize, planes: &mut [f32]) {
    match channels {
        1 => planes.copy_from_slice(interleaved),
        _ => {
            let pixels = interleaved.len() / channels;
            for (channel, plane) in planes.chunks_exact_mut(pixels).enumerate() {
                let values = interleaved[channel..].iter().step_by(channels);
                plane.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, width: u32, height: u32, first: f32) -> Sample {
        let values = width * height * 2;
        Sample {
            name: name.into(),
            image: Image::new(width, height, 2, (0..values).map(|i| first + i as f32).collect()).unwrap(),
            mask: LabelMap::new(width, height, (0..width * height).collect()).unwrap(),
        }
    }

    #[test]
    fn channels_become_planes() {
        let batch = Batch::collate(vec![sample("a", 3, 2, 0.0), sample("b", 3, 2, 100.0)], &Device::default()).unwrap();
        assert_eq!(batch.images.dims(), [2, 2, 2, 3]);
        let values = batch.images.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values[..6], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(values[6..12], [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]);
        assert_eq!(values[12], 100.0);
        assert_eq!(batch.masks.dims(), [2, 2, 3]);
        let labels: Vec<i64> = batch.masks.into_data().iter::<i64>().collect();
        assert_eq!(labels, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]);
        assert_eq!(batch.names, ["a", "b"]);
    }

    #[test]
    fn sizes_must_agree() {
        let error = Batch::collate(vec![sample("a", 3, 2, 0.0), sample("b", 2, 3, 0.0)], &Device::default());
        let error = error.unwrap_err().to_string();
        for part in ["a is 3x2x2", "b is 2x3x2", "crop or resize"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(Batch::collate(vec![], &Device::default()).is_err());
    }

    #[test]
    fn labels_must_fit() {
        let mut wild = sample("wild", 1, 1, 0.0);
        wild.mask = LabelMap::filled(1, 1, u32::MAX);
        let error = Batch::collate(vec![wild], &Device::default()).unwrap_err().to_string();
        assert!(error.contains("wild: label 4294967295"), "{error}");
    }
}
