use segkiln_core::LabelMap;

use crate::{DataError, Image, Result, transforms::Target};

/// An image and its annotation, of equal width and height: a label for each pixel, or the
/// [`Instances`](segkiln_core::Instances) in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<T = LabelMap> {
    /// Name in errors and results; the stem of its files, where it has any.
    pub name: String,
    /// The image.
    pub image: Image,
    /// The label of each of its pixels, or its objects.
    pub target: T,
}

impl<T: Target> Sample<T> {
    /// Refuses an image and a target of different sizes, which no transform can move together.
    pub(crate) fn check(&self) -> Result<()> {
        let (image_size, target_size) = (self.image.size(), self.target.size());
        if image_size == target_size {
            return Ok(());
        }
        let cure = "they must be equal".into();
        Err(DataError::TargetSize { image: (&self.name).into(), image_size, target_size, cure })
    }
}
