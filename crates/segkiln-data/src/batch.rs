use burn::tensor::{Device, Int, Tensor, TensorData};
use segkiln_core::{Instances, LabelMap};

use crate::{DataError, Result, Sample, transforms::Target};

/// Batch in main memory; called with the device, it makes the tensors there.
pub type Collated<B> = Box<dyn FnOnce(&Device) -> B + Send>;

/// A target whose samples a [`Loader`](crate::Loader) can join.
pub trait Collate: Target {
    /// Batch type: [`Batch`] for label maps, [`DetectionBatch`] for objects.
    type Batch: Send + 'static;

    /// Joins samples in order. This is done on the loader's threads; the tensors are made on the thread that iterates.
    ///
    /// # Errors
    /// If there are no samples, or they do not fit each other or a tensor.
    fn collate(samples: Vec<Sample<Self>>) -> Result<Collated<Self::Batch>>;
}

impl Collate for LabelMap {
    type Batch = Batch;

    fn collate(samples: Vec<Sample>) -> Result<Collated<Batch>> {
        let host = HostBatch::collate(samples)?;
        Ok(Box::new(|device| host.into_tensors(device)))
    }
}

impl Collate for Instances {
    type Batch = DetectionBatch;

    fn collate(samples: Vec<Sample<Self>>) -> Result<Collated<DetectionBatch>> {
        first(&samples)?;
        let mut images = Vec::with_capacity(samples.len());
        let (mut targets, mut names) = (Vec::new(), Vec::new());
        for sample in samples {
            sample.check()?;
            let Sample { name, image, target } = sample;
            let mut planes = vec![0.0; image.as_slice().len()];
            planar(image.as_slice(), image.channels(), &mut planes);
            images.push(TensorData::new(planes, [image.channels(), image.height() as usize, image.width() as usize]));
            targets.push(target);
            names.push(name);
        }
        Ok(Box::new(|device| DetectionBatch {
            images: images.into_iter().map(|image| Tensor::from_data(image, device)).collect(),
            targets,
            names,
        }))
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
struct HostBatch {
    images: Vec<f32>,
    masks: Vec<i32>,
    names: Vec<String>,
    channels: usize,
    height: usize,
    width: usize,
}

impl HostBatch {
    fn collate(samples: Vec<Sample>) -> Result<Self> {
        let first = first(&samples)?;
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
            for label in sample.target.as_slice() {
                masks.push(i32::try_from(*label).map_err(|_| DataError::MaskValue {
                    path: sample.name.clone().into(),
                    reason: format!("label {label} does not fit a tensor's 31 bits; number the labels anew"),
                })?);
            }
        }
        let names = samples.into_iter().map(|sample| sample.name).collect();
        Ok(Self { images, masks, names, channels, height, width })
    }

    fn into_tensors(self, device: &Device) -> Batch {
        let Self { images, masks, names, channels, height, width } = self;
        let n = names.len();
        Batch {
            images: Tensor::from_data(TensorData::new(images, [n, channels, height, width]), device),
            masks: Tensor::from_data(TensorData::new(masks, [n, height, width]), device),
            names,
        }
    }
}

/// Samples of any sizes, with their objects.
#[derive(Debug, Clone)]
pub struct DetectionBatch {
    /// `[channels, height, width]` each, floats.
    pub images: Vec<Tensor<3>>,
    /// The objects of each image, in its pixels.
    pub targets: Vec<Instances>,
    /// Name of each sample.
    pub names: Vec<String>,
}

impl DetectionBatch {
    /// Joins samples, their images as tensors on `device`, in order.
    ///
    /// # Errors
    /// If there are no samples, or an image is of another size than its objects say.
    pub fn collate(samples: Vec<Sample<Instances>>, device: &Device) -> Result<Self> {
        Ok(Instances::collate(samples)?(device))
    }
}

fn first<T>(samples: &[Sample<T>]) -> Result<&Sample<T>> {
    samples.first().ok_or_else(|| DataError::Empty { what: "the batch".into() })
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
    use crate::Image;

    fn sample(name: &str, width: u32, height: u32, first: f32) -> Sample {
        let values = width * height * 2;
        Sample {
            name: name.into(),
            image: Image::new(width, height, 2, (0..values).map(|i| first + i as f32).collect()).unwrap(),
            target: LabelMap::new(width, height, (0..width * height).collect()).unwrap(),
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
        wild.target = LabelMap::filled(1, 1, u32::MAX);
        let error = Batch::collate(vec![wild], &Device::default()).unwrap_err().to_string();
        assert!(error.contains("wild: label 4294967295"), "{error}");
    }

    #[test]
    fn objects_must_be_those_of_their_images() {
        let with = |target: Instances| {
            let Sample { name, image, .. } = sample("a", 3, 2, 0.0);
            DetectionBatch::collate(vec![Sample { name, image, target }], &Device::default())
        };
        let batch = with(Instances::new(3, 2, vec![]).unwrap()).unwrap();
        assert_eq!((batch.images[0].dims(), batch.targets[0].len()), ([2, 2, 3], 0));
        let values = batch.images[0].to_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values[..6], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let error = with(Instances::new(2, 3, vec![]).unwrap()).unwrap_err().to_string();
        assert_eq!(error, "a has 3x2 pixels, its target or annotation 2x3; they must be equal");
        assert!(DetectionBatch::collate(vec![], &Device::default()).is_err());
    }
}
