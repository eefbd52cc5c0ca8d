use std::borrow::Cow;

use segkiln_data::volumes::{AxisCodes, Intensities, Interpolation, LabelInterpolation, LabelVolume, Slicing, Volume};
use segkiln_models::SegmentationNetwork;
use serde::{Deserialize, Serialize};

use crate::{PredictError, SegmentOptions, Segmenter};

/// Preparation of a volume for a network of slices: the same as for its training volumes, to be kept beside the network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VolumeOptions {
    /// Bring the axes to canonical directions (RAS) first, so that a plane means the same in every volume.
    pub canonical: bool,
    /// Spacing that the volume is resampled to (depth, height, width in millimeters, after the turn). Default: its own.
    pub spacing: Option<[f64; 3]>,
    /// Normalization of the values before the network's own. Default: none.
    pub intensities: Option<Intensities>,
    /// Direction of the slices, and how many neighbors are channels.
    pub slicing: Slicing,
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
        let turned = match options.canonical {
            true => Cow::Owned(volume.reoriented(AxisCodes::CANONICAL)),
            false => Cow::Borrowed(volume),
        };
        let grid = turned.geometry().clone();
        let mut seen = match options.spacing {
            Some(spacing) => Cow::Owned(turned.resampled(spacing, Interpolation::for_spacing(grid.spacing()))?),
            None => turned,
        };
        if let Some(intensities) = &options.intensities {
            intensities.apply(seen.to_mut())?;
        }
        let slices = SegmentOptions { probabilities: false, logits: false, ..slices.clone() };
        let size = seen.geometry().size();
        let mut labels = vec![0; seen.geometry().voxels()];
        for slice in 0..slicing.count(size) {
            let segmentation = self.segment_values(&slicing.image(&seen, slice)?, &slices)?;
            slicing.put(segmentation.map(), slice, &mut labels, size);
        }
        let labels = LabelVolume::new(seen.geometry().clone(), labels)?;
        let labels = labels.resized_to(&grid, LabelInterpolation::Linear)?;
        let back = labels.reoriented(volume.geometry().axis_codes());
        // Turned there and back, the affine would have lost its last bits.
        Ok(LabelVolume::new(volume.geometry().clone(), back.as_slice().to_vec())?)
    }
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
}
