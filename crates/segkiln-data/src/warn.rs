//! Conditions that stop nothing but may make results wrong. They go through `log`; its target says which kind it is, so that
//! programs can count them.

use std::{fmt::Display, path::Path};

/// Masks with soft edges, cut at half of their range.
pub(crate) const SOFT_MASK: &str = "segkiln::soft_mask";
/// TIFFs with more pages than the one that is read.
pub(crate) const PAGES: &str = "segkiln::pages";
/// Files among those of a DICOM series that are something else.
#[cfg(feature = "dicom")]
pub(crate) const NO_DICOM: &str = "segkiln::no_dicom";

/// Images that an orientation tag turns.
#[cfg(feature = "datasets")]
pub(crate) const ORIENTATION: &str = "segkiln::orientation";
/// Channels without variation in a data set.
#[cfg(feature = "datasets")]
pub(crate) const CONSTANT_CHANNEL: &str = "segkiln::constant_channel";
/// Integer images whose values reach very different shares of their ranges.
#[cfg(feature = "datasets")]
pub(crate) const MIXED_RANGES: &str = "segkiln::mixed_ranges";
/// Images that two data sets have in common.
#[cfg(feature = "datasets")]
pub(crate) const SHARED_IMAGES: &str = "segkiln::shared_images";
/// Data sets whose masks are all background.
#[cfg(feature = "datasets")]
pub(crate) const NO_FOREGROUND: &str = "segkiln::no_foreground";
/// Samples without a partner that were left out.
#[cfg(feature = "datasets")]
pub(crate) const UNPAIRED: &str = "segkiln::unpaired";
/// Categories that another file knows under another id.
#[cfg(feature = "datasets")]
pub(crate) const CATEGORIES: &str = "segkiln::categories";
/// Parts of polygons that enclose nothing.
#[cfg(feature = "datasets")]
pub(crate) const POLYGON_PARTS: &str = "segkiln::polygon_parts";

pub(crate) fn warn(kind: &str, path: &Path, text: impl Display) {
    log::warn!(target: kind, "{}: {text}", path.display());
}
