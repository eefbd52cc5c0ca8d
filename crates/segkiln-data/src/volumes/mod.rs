//! Volumes: medical images in three dimensions, with their place in the patient (feature `nifti`).
//!
//! A [`Volume`] has values, a [`LabelVolume`] labels, and both have a [`Geometry`]: size, spacing in millimeters and the affine
//! that takes voxels to the patient's right, anterior and superior (RAS+, as in nibabel). Values lie as NIfTI stores them, with
//! the width running fastest: a size is `[depth, height, width]`, and nibabel's `array[x, y, z]` is the voxel in column `x` of
//! row `y` of slice `z`.
//!
//! file → [`read_volume`] → [`Volume::resampled`] → [`Intensities`] → [`Slicing`] → network → [`LabelVolume`] →
//! [`LabelVolume::resized_to`] → [`write_nifti_labels`], with the header of the file that was read.
//!
//! Networks of three dimensions learn from [`PatchesDataset`]'s patches in place of slices; [`PatchMotion`] turns, scales and mirrors
//! these, and [`PatchTransform`] changes their values.
//!
//! NIfTI-1 and NIfTI-2 are read and written. The feature `dicom` reads DICOM series.

#[cfg(feature = "datasets")]
mod case_folder;
#[cfg(feature = "dicom")]
mod dicom;
mod geometry;
mod grid;
mod intensity;
mod nifti;
#[cfg(feature = "datasets")]
mod patch_motion;
#[cfg(feature = "datasets")]
mod patch_transform;
#[cfg(feature = "datasets")]
mod patches;
mod resample;
#[cfg(feature = "datasets")]
mod slices;
mod slicing;
mod volume;

use std::path::Path;

#[cfg(feature = "datasets")]
pub use case_folder::CaseFolder;
#[cfg(feature = "dicom")]
pub use dicom::{DicomSeries, VoiWindow, WindowFunction, dicom_series, read_dicom};
pub use geometry::{AxisCodes, Geometry};
pub use intensity::{ForegroundStatistics, Intensities};
pub use nifti::{NiftiHeader, is_nifti, read_nifti, read_nifti_labels, write_nifti, write_nifti_labels};
#[cfg(feature = "datasets")]
pub use patch_motion::PatchMotion;
#[cfg(feature = "datasets")]
pub use patch_transform::{PatchTransform, ValueChange};
#[cfg(feature = "datasets")]
pub use patches::{PatchOptions, PatchesDataset};
pub use resample::{Interpolation, LabelInterpolation};
#[cfg(feature = "datasets")]
pub use slices::{Case, SliceOptions, SlicesDataset};
pub use slicing::{Plane, Slicing};
pub use volume::{LabelVolume, Volume};

#[cfg(not(feature = "dicom"))]
use crate::DataError;
use crate::{Limits, Result};

/// Reads a volume: a file that is [NIfTI's by its name](is_nifti), or, with the feature `dicom`, a DICOM file or the folder of
/// a series. Of NIfTI the header comes along, for [`write_nifti_labels`].
///
/// # Errors
/// The errors of [`read_nifti`] and `read_dicom`.
pub fn read_volume(path: impl AsRef<Path>, limits: &Limits) -> Result<(Volume, Option<NiftiHeader>)> {
    let path = path.as_ref();
    if is_nifti(path) && !path.is_dir() {
        return read_nifti(path, limits).map(|(volume, header)| (volume, Some(header)));
    }
    #[cfg(feature = "dicom")]
    return read_dicom(path, limits).map(|volume| (volume, None));
    #[cfg(not(feature = "dicom"))]
    Err(DataError::Decode {
        path: path.into(),
        format: "a volume",
        reason: "it is no NIfTI file by its name, and DICOM needs the feature `dicom`".into(),
    })
}

#[cfg(test)]
mod tests;
