//! Medical volumes, segmented slice by slice, or window by window by a network of three dimensions.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use burn::tensor::Device;
use segkiln::{
    SegmentOptions, Segmenter, VolumeOptions,
    data::{
        DecodeOptions, refuse_replacing,
        volumes::{is_nifti, read_volume, write_nifti_labels},
    },
    models::volumes::StackedUNet3d,
    train::checkpoint::prepare_for,
};
use serde_json::json;

use crate::common::{Failure, say};

/// Flags of volumes.
#[derive(clap::Args)]
pub struct Volumes {
    /// JSON file that says how a volume is prepared: canonical, spacing, intensities, slicing, patch [default: what the training
    /// kept, or its own slices, one by one]
    #[arg(long)]
    volume_options: Option<PathBuf>,
}

impl Volumes {
    /// Recognizes volumes by name: NIfTI, DICOM, or a folder with a DICOM file.
    pub fn are(input: &Path) -> bool {
        let is_dicom = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("dcm"));
        match fs::read_dir(input) {
            Ok(entries) => entries.flatten().any(|entry| is_dicom(&entry.path())),
            Err(_) => is_nifti(input) || is_dicom(input),
        }
    }

    /// Refuses to give pictures to a network of volumes.
    pub fn refuse_pictures(model: &Path) -> Result<(), Failure> {
        match VolumeOptions::of_run(model) {
            Ok(Some(VolumeOptions { patch: Some(_), .. })) => {
                Err("the model is a network of volumes; --input takes a .nii.gz, or a DICOM file or series".into())
            }
            // What is wrong with its config is told where the model is loaded.
            _ => Ok(()),
        }
    }

    /// Segments a volume and writes its labels.
    pub fn segment(
        &self,
        model: &Path,
        device: &Device,
        input: &Path,
        output: &Path,
        slices: &SegmentOptions,
        decode: DecodeOptions,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let options = match &self.volume_options {
            None => VolumeOptions::of_run(model)?.unwrap_or_default(),
            Some(path) => {
                let unreadable = |error: &dyn std::fmt::Display| format!("cannot use {}: {error}", path.display());
                let text = fs::read_to_string(path).map_err(|error| unreadable(&error))?;
                serde_json::from_str(&text).map_err(|error| unreadable(&error))?
            }
        };
        let name = input.file_name().unwrap_or_default().to_string_lossy();
        let ends = [".gz", ".nii", ".hdr", ".img", ".dcm"];
        // Folders of a series are called by numbers with points between them.
        let stem = ends.iter().fold(&*name, |stem, end| if input.is_dir() { stem } else { stem.trim_end_matches(end) });
        // The folders `.` and `/` have no name.
        let stem = if stem.is_empty() { "labels" } else { stem };
        let path = output.join(format!("{stem}.nii.gz"));
        refuse_replacing([input], [&path])?;
        prepare_for([&path])?;
        let (volume, header) = read_volume(input, &decode.limits)?;
        let (labels, precision) = if options.patch.is_some() {
            let segmenter = Segmenter::<StackedUNet3d>::load_network(model, device)?;
            (segmenter.segment_volume_windows(&volume, &options, WINDOWS_OVERLAP)?, segmenter.precision())
        } else {
            let segmenter = Segmenter::load(model, device)?;
            (segmenter.segment_volume(&volume, &options, slices)?, segmenter.precision())
        };
        write_nifti_labels(&path, &labels, header.as_ref())?;
        let (size, spacing) = (labels.geometry().size(), labels.geometry().spacing());
        say(json!({
            "volumes": 1,
            "output": path.display().to_string(),
            "size": size,
            "spacing": spacing,
            "precision": precision.name(),
            "seconds": start.elapsed().as_secs_f64(),
        }))?;
        Ok(())
    }
}

/// Share that windows of a volume have in common, as nnU-Net's.
const WINDOWS_OVERLAP: f32 = 0.5;
