use std::{borrow::Cow, path::Path};

use burn::tensor::{Tensor, TensorData};
use segkiln_core::Precision;
#[cfg(feature = "train")]
use segkiln_data::volumes::{Case, ForegroundStatistics};
use segkiln_data::{
    DataError,
    volumes::{AxisCodes, Geometry, Intensities, Interpolation, LabelInterpolation, LabelVolume, Slicing, Volume},
};
use segkiln_models::{SegmentationNetwork, config_file, volumes::StackedUNet3d};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{PredictError, SegmentOptions, Segmenter, WindowOptions, run, segment_windows};

/// Preparation of a volume for a network: the same as for its training volumes, to be kept beside the network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VolumeOptions {
    /// Bring the axes to canonical directions (RAS) first, so that a plane means the same in every volume.
    pub canonical: bool,
    /// Spacing that the volume is resampled to (depth, height, width in millimeters, after the turn). Default: its own.
    pub spacing: Option<[f64; 3]>,
    /// Normalization of the values before the network's own. Default: none.
    pub intensities: Option<Intensities>,
    /// Direction of the slices, and how many neighbors are channels; for a network of slices.
    pub slicing: Slicing,
    /// Depth, height and width of the windows that a network of three dimensions sees, in voxels after resampling. Default: the
    /// network is one of slices.
    pub patch: Option<[usize; 3]>,
}

impl VolumeOptions {
    /// Reads the options that a training kept in its `config.json`, as `volume` of its `data`; none where it kept none. `path` is a
    /// run's folder or a `.bpk` file in one.
    ///
    /// # Errors
    /// [`PredictError::Weights`] if there is no such path, [`PredictError::Config`] if the file cannot be read or is damaged,
    /// [`PredictError::NewerFormat`] if a later version wrote it.
    pub fn of_run(path: impl AsRef<Path>) -> Result<Option<Self>, PredictError> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(default)]
            data: Value,
        }
        let path = run::weights_file(path.as_ref())?.with_file_name("config.json");
        // A program may describe its data in words of its own, which need not be an object.
        let Config { mut data } = config_file::read(&path)?;
        let volume = data.get_mut("volume").map(Value::take).unwrap_or_default();
        Option::deserialize(volume)
            .map_err(|error| PredictError::Config { path, reason: format!("data.volume: {error}") })
    }

    /// Plans the preparation of a training set, as nnU-Net does: axes to RAS, the median spacing, and normalization as CT or by z-scores.
    /// Where slices are thick, with a median spacing above three times the others' and less than a third of their voxels, the spacing
    /// between them is the tenth percentile, but no finer than the others. The cases are turned to RAS already.
    ///
    /// # Errors
    /// [`DataError`] if there is no case, or, for CT, no foreground or images differ in channels.
    #[cfg(feature = "train")]
    pub fn planned(cases: &[&Case], is_ct: bool, ignore_index: Option<u32>) -> Result<Self, DataError> {
        if cases.is_empty() {
            return Err(DataError::Empty { what: "the list of cases".into() });
        }
        let spacing = planned_spacing(cases);
        let pairs = cases.iter().map(|case| (&case.image, &case.labels));
        let intensities = match is_ct {
            true => Intensities::Ct(ForegroundStatistics::of(pairs, ignore_index)?),
            false => Intensities::ZScore { nonzero: false },
        };
        Ok(Self { canonical: true, spacing: Some(spacing), intensities: Some(intensities), ..Self::default() })
    }

    /// Prepares a volume: turned, resampled, and its values normalized.
    ///
    /// # Errors
    /// [`DataError`] if a spacing or intensities do not fit it.
    pub fn prepare(&self, volume: &Volume) -> Result<Volume, DataError> {
        let turned = match self.canonical {
            true => Cow::Owned(volume.reoriented(AxisCodes::CANONICAL)),
            false => Cow::Borrowed(volume),
        };
        let mut seen = match self.spacing {
            Some(spacing) => {
                let by = Interpolation::for_spacing(turned.geometry().spacing());
                turned.resampled(spacing, by)?
            }
            None => turned.into_owned(),
        };
        if let Some(intensities) = &self.intensities {
            intensities.apply(&mut seen)?;
        }
        Ok(seen)
    }

    /// [`prepare`](Self::prepare) for a case to learn from, with its labels.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    #[cfg(feature = "train")]
    pub fn prepare_case(&self, case: &Case) -> Result<Case, DataError> {
        let image = self.prepare(&case.image)?;
        let turned = match self.canonical {
            true => Cow::Owned(case.labels.reoriented(AxisCodes::CANONICAL)),
            false => Cow::Borrowed(&case.labels),
        };
        let labels = turned.resized_to(image.geometry(), LabelInterpolation::Linear)?;
        Ok(Case { name: case.name.clone(), image, labels })
    }

    /// Brings labels of a prepared volume back to the grid that it had before.
    fn back(&self, labels: LabelVolume, geometry: &Geometry) -> Result<LabelVolume, DataError> {
        let labels = match self.canonical {
            true => {
                let blank = LabelVolume::new(geometry.clone(), vec![0; geometry.voxels()])?;
                let turned = blank.reoriented(AxisCodes::CANONICAL);
                labels.resized_to(turned.geometry(), LabelInterpolation::Linear)?.reoriented(geometry.axis_codes())
            }
            false => labels.resized_to(geometry, LabelInterpolation::Linear)?,
        };
        // Turned there and back, the affine would have lost its last bits.
        LabelVolume::new(geometry.clone(), labels.as_slice().to_vec())
    }
}

impl Segmenter<StackedUNet3d> {
    /// Segments a volume window by window, as [`segment_windows`] does. The labels are on the volume's own grid, whatever it was
    /// resampled to in between. In memory are the logits of all its voxels.
    ///
    /// # Errors
    /// [`PredictError::Option`] if the options have no patch or an overlap out of range, the volume other channels than the network
    /// takes, or the precision is not f32, as networks of three dimensions compute in no other; [`PredictError::Data`] if the volume cannot be prepared; [`PredictError::Undefined`] if the network gives no
    /// numbers.
    pub fn segment_volume_windows(
        &self,
        volume: &Volume,
        options: &VolumeOptions,
        overlap: f32,
    ) -> Result<LabelVolume, PredictError> {
        let Some(patch) = options.patch else {
            return Err(PredictError::option("patch", "is needed for a network of three dimensions"));
        };
        if self.precision() != Precision::F32 {
            let reason = format!("is {}, and networks of three dimensions compute in f32", self.precision());
            return Err(PredictError::option("precision", reason));
        }
        let normalize = &self.card().normalize;
        let (needed, channels) = (normalize.mean().len(), volume.channels());
        if needed != channels {
            let reason = format!("has {channels} channels, and the network takes {needed}");
            return Err(PredictError::option("volume", reason));
        }
        let seen = options.prepare(volume)?;
        let [depth, height, width] = seen.geometry().size();
        let voxels = seen.geometry().voxels();
        let mut values = seen.as_slice().to_vec();
        for ((values, mean), std) in values.chunks_exact_mut(voxels).zip(normalize.mean()).zip(normalize.std()) {
            values.iter_mut().for_each(|value| *value = (*value - mean) / std);
        }
        let x = Tensor::from_data(TensorData::new(values, [1, channels, depth, height, width]), &self.device);
        let logits = segment_windows(x, &WindowOptions { patch, overlap }, |x| self.model().unet.forward(x))?;
        let logits = logits.into_data().convert::<f32>();
        let logits = logits.as_slice::<f32>().expect("f32 values");
        let mut labels = Vec::with_capacity(voxels);
        for voxel in 0..voxels {
            let of_voxel = logits[voxel..].iter().step_by(voxels).copied();
            // A single logit is that of the foreground.
            let background = (logits.len() == voxels).then_some(0.0);
            let undefined = PredictError::Undefined { x: voxel % width, y: voxel / width % height };
            labels.push(most_likely(background.into_iter().chain(of_voxel)).ok_or(undefined)?);
        }
        Ok(options.back(LabelVolume::new(seen.geometry().clone(), labels)?, volume.geometry())?)
    }
}

impl<M: SegmentationNetwork> Segmenter<M> {
    /// Segments a volume slice by slice, with the slices beside each as channels (2.5D). The labels are on the volume's own grid,
    /// whatever it was resampled to in between.
    ///
    /// `slices` are the options of each slice; their `probabilities` and `logits` are ignored.
    ///
    /// ```no_run
    /// use segkiln::{VolumeOptions, data::{Limits, volumes::{read_volume, write_nifti_labels}}, prelude::*};
    ///
    /// let segmenter = Segmenter::load("runs/liver", &Device::default())?;
    /// let (volume, header) = read_volume("ct.nii.gz", &Limits::default())?;
    /// let labels = segmenter.segment_volume(&volume, &VolumeOptions::default(), &SegmentOptions::default())?;
    /// write_nifti_labels("liver.nii.gz", &labels, header.as_ref())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`segment_values`](Self::segment_values); [`PredictError::Option`] if the slices have other channels than the
    /// network takes.
    pub fn segment_volume(
        &self,
        volume: &Volume,
        options: &VolumeOptions,
        slices: &SegmentOptions,
    ) -> Result<LabelVolume, PredictError> {
        let slicing = options.slicing;
        let (needed, given) = (self.card().normalize.mean().len(), slicing.channels(volume));
        if needed != given {
            let reason = format!("give slices of {given} channels, and the network takes {needed}; set its neighbors");
            return Err(PredictError::option("slicing", reason));
        }
        let seen = options.prepare(volume)?;
        let slices = SegmentOptions { probabilities: false, logits: false, ..slices.clone() };
        let size = seen.geometry().size();
        let mut labels = vec![0; seen.geometry().voxels()];
        for slice in 0..slicing.count(size) {
            let segmentation = self.segment_values(&slicing.image(&seen, slice)?, &slices)?;
            slicing.put(segmentation.map(), slice, &mut labels, size);
        }
        Ok(options.back(LabelVolume::new(seen.geometry().clone(), labels)?, volume.geometry())?)
    }
}

/// Spacing that the cases of a training set are resampled to; nnU-Net's `determine_fullres_target_spacing`.
#[cfg(feature = "train")]
fn planned_spacing(cases: &[&Case]) -> [f64; 3] {
    const ANISOTROPIC: f64 = 3.0;
    let sorted = |of_case: &dyn Fn(&Case) -> f64| {
        let mut values: Vec<f64> = cases.iter().map(|case| of_case(case)).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    // Of an even number the lower of the two in the middle, which some case has.
    let median = |values: &[f64]| values[(values.len() - 1) / 2];
    let spacings = [0, 1, 2].map(|axis| sorted(&|case| case.image.geometry().spacing()[axis]));
    let mut spacing = [0, 1, 2].map(|axis| median(&spacings[axis]));
    let size = [0, 1, 2].map(|axis| median(&sorted(&|case| case.image.geometry().size()[axis] as f64)));
    let worst = (1..3).fold(0, |worst, axis| if spacing[axis] > spacing[worst] { axis } else { worst });
    let others = || (0..3).filter(|axis| *axis != worst);
    let coarsest = others().map(|axis| spacing[axis]).fold(0.0, f64::max);
    let fewest = others().map(|axis| size[axis]).fold(f64::INFINITY, f64::min);
    if spacing[worst] > ANISOTROPIC * coarsest && size[worst] * ANISOTROPIC < fewest {
        let place = 0.1 * (cases.len() - 1) as f64;
        let (low, share) = (place as usize, place.fract());
        let next = spacings[worst][(low + 1).min(cases.len() - 1)];
        let tenth = spacings[worst][low] * (1.0 - share) + next * share;
        spacing[worst] = if tenth < coarsest { coarsest + 1e-5 } else { tenth };
    }
    spacing
}

/// The class with the highest value, the first of several; none if a value is NaN.
fn most_likely(values: impl Iterator<Item = f32>) -> Option<u32> {
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (class, value) in values.enumerate() {
        if value.is_nan() {
            return None;
        }
        if value > highest {
            (best, highest) = (class as u32, value);
        }
    }
    Some(best)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use segkiln_core::Classes;
    use segkiln_data::{
        Limits, Normalize,
        volumes::{Geometry, Plane, read_nifti_labels, write_nifti_labels},
    };
    use segkiln_models::{ModelCard, ModelConfig, SegmentationNetworkConfig, unet::UNetConfig};

    use super::*;

    fn segmenter() -> Segmenter {
        let device = Device::default();
        let model = ModelConfig::UNet(UNetConfig::new(3, 1).with_base(2).with_depth(1));
        let card = ModelCard {
            classes: Classes::binary(),
            color: None,
            normalize: Normalize::identity(3),
            model: model.clone(),
        };
        Segmenter::new(model.init(&device), card, &device).unwrap()
    }

    #[test]
    fn data_that_are_described_in_other_words_have_no_volume() {
        let folder = tempfile::tempdir().unwrap();
        let of_run = |data: &str| {
            std::fs::write(folder.path().join("config.json"), format!("{{\"data\": {data}}}")).unwrap();
            VolumeOptions::of_run(folder.path())
        };
        for data in ["null", "\"nuclei\"", "[1, 2]", "7", "{}", "{\"volume\": null}"] {
            assert_eq!(of_run(data).unwrap(), None, "{data}");
        }
        let kept = of_run("{\"volume\": {\"canonical\": true}}").unwrap();
        assert_eq!(kept, Some(VolumeOptions { canonical: true, ..VolumeOptions::default() }));
        let error = of_run("{\"volume\": {\"cannonical\": true}}").unwrap_err().to_string();
        assert!(error.contains("config.json: data.volume") && error.contains("cannonical"), "{error}");
    }

    #[test]
    fn labels_come_back_on_the_grid_of_the_volume() {
        let segmenter = segmenter();
        // Columns run to the left, rows to the back: as in most CT.
        let affine = [[-0.8, 0.0, 0.1, 20.0], [0.0, -0.8, 0.0, 30.0], [0.08, 0.0, 3.0, -7.0], [0.0, 0.0, 0.0, 1.0]];
        let geometry = Geometry::new([5, 12, 10], affine).unwrap();
        let values = (0..600).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let volume = Volume::new(geometry.clone(), 1, values).unwrap();
        let slicing = Slicing { plane: Plane::Depth, neighbors: 1 };
        let plain = VolumeOptions { slicing, ..Default::default() };
        let labels = segmenter.segment_volume(&volume, &plain, &SegmentOptions::default()).unwrap();
        assert_eq!(labels.geometry(), &geometry);
        for slice in 0..5 {
            let image = slicing.image(&volume, slice).unwrap();
            let alone = segmenter.segment_values(&image, &SegmentOptions::default()).unwrap();
            assert_eq!(&slicing.labels(&labels, slice), alone.map());
        }
        let all = VolumeOptions {
            canonical: true,
            spacing: Some([2.0, 1.0, 1.0]),
            intensities: Some(Intensities::ZScore { nonzero: false }),
            slicing: Slicing { plane: Plane::Height, neighbors: 1 },
            patch: None,
        };
        let there = segmenter.segment_volume(&volume, &all, &SegmentOptions::default()).unwrap();
        assert_eq!(there.geometry(), &geometry);
        // Turned before, the volume has the same labels, turned.
        let turned = volume.reoriented("PSR".parse().unwrap());
        let of_turned = segmenter.segment_volume(&turned, &all, &SegmentOptions::default()).unwrap();
        assert_eq!(of_turned.geometry(), turned.geometry());
        assert_eq!(of_turned.reoriented(geometry.axis_codes()).as_slice(), there.as_slice());
        // Written and read.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.nii.gz");
        write_nifti_labels(&path, &labels, None).unwrap();
        assert_eq!(read_nifti_labels(&path, &Limits::default()).unwrap().0.as_slice(), labels.as_slice());
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<VolumeOptions>(&text).unwrap(), all);
        // One slice alone has one channel.
        let refused = segmenter.segment_volume(&volume, &VolumeOptions::default(), &SegmentOptions::default());
        assert!(refused.unwrap_err().to_string().contains("1 channels, and the network takes 3"));
    }

    /// By the formulas of nnU-Net 2.5, whose median interpolates only where the number of cases is even.
    #[cfg(feature = "train")]
    #[test]
    fn thick_slices_get_the_spacing_of_the_finer_cases() {
        let spacing = |cases: &[([usize; 3], f64)]| {
            let case = |(size, depth): &([usize; 3], f64)| {
                let geometry = Geometry::with_spacing(*size, [*depth, 0.8, 0.7]).unwrap();
                let voxels = geometry.voxels();
                Case {
                    name: depth.to_string(),
                    image: Volume::new(geometry.clone(), 1, vec![0.0; voxels]).unwrap(),
                    labels: LabelVolume::new(geometry, vec![0; voxels]).unwrap(),
                }
            };
            let cases: Vec<Case> = cases.iter().map(case).collect();
            let planned = VolumeOptions::planned(&cases.iter().collect::<Vec<_>>(), false, None).unwrap();
            planned.spacing.unwrap()
        };
        let flat = [4, 20, 24];
        let near = |found: [f64; 3], depth: f64| {
            let expected = [depth, 0.8, 0.7];
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}, not {expected:?}");
        };
        near(spacing(&[(flat, 5.0), (flat, 2.0), (flat, 3.0), (flat, 4.0), (flat, 3.5)]), 2.4);
        // No finer than the other axes.
        near(spacing(&[(flat, 5.0), (flat, 0.1), (flat, 3.0)]), 0.80001);
        // Not thick enough, and not few enough.
        near(spacing(&[(flat, 2.0), (flat, 1.0), (flat, 3.0)]), 2.0);
        near(spacing(&[([9, 20, 24], 5.0), ([9, 20, 24], 2.0), ([9, 20, 24], 3.0)]), 3.0);
    }
}
