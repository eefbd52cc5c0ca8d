//! Medical volumes, segmented slice by slice.

use std::{fs, path::Path, time::Instant};

use segkiln::{
    SegmentOptions, Segmenter, VolumeOptions,
    data::{
        DecodeOptions, refuse_replacing,
        volumes::{is_nifti, read_volume, write_nifti_labels},
    },
};
use serde_json::json;

use crate::common::{Failure, say};

/// Flags of volumes.
#[derive(clap::Args)]
pub struct Volumes {
    /// JSON file that says how a volume becomes slices: canonical, spacing, intensities, slicing [default: its own
    /// slices, one by one]
    #[arg(long)]
    volume_options: Option<std::path::PathBuf>,
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

    /// Segments a volume and writes its labels.
    pub fn segment(
        &self,
        segmenter: &Segmenter,
        input: &Path,
        output: &Path,
        slices: &SegmentOptions,
        decode: DecodeOptions,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let options = match &self.volume_options {
            None => VolumeOptions::default(),
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
        fs::create_dir_all(output).map_err(|error| format!("cannot create {}: {error}", output.display()))?;
        let (volume, header) = read_volume(input, &decode.limits)?;
        let labels = segmenter.segment_volume(&volume, &options, slices)?;
        write_nifti_labels(&path, &labels, header.as_ref())?;
        let (size, spacing) = (labels.geometry().size(), labels.geometry().spacing());
        say(json!({
            "volumes": 1,
            "output": path.display().to_string(),
            "size": size,
            "spacing": spacing,
            "precision": segmenter.precision().name(),
            "seconds": start.elapsed().as_secs_f64(),
        }))?;
        Ok(())
    }
}
