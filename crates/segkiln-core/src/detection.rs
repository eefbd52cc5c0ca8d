use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{BBox, Result, Rle, instance::foreground};

/// An object that a network detected in an image.
///
/// ```
/// use segkiln_core::{BBox, Detection};
///
/// let detection = Detection::new(BBox::new(1.0, 2.0, 5.0, 4.0)?, 3, 0.9)?;
/// assert_eq!((detection.label(), detection.score), (3, 0.9));
/// # Ok::<(), segkiln_core::CoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Bounding box in pixels of the image.
    pub bbox: BBox,
    label: NonZeroU32,
    /// Confidence, from 0 to 1.
    pub score: f32,
    /// Mask of the image's size, if the network predicts masks.
    #[serde(default)]
    pub mask: Option<Rle>,
}

impl Detection {
    /// Creates a detection without a mask. `label` is its class, from 1: 0 is the background.
    ///
    /// # Errors
    /// [`CoreError::BackgroundLabel`](crate::CoreError::BackgroundLabel) if `label` is 0.
    pub fn new(bbox: BBox, label: u32, score: f32) -> Result<Self> {
        Ok(Self { bbox, label: foreground(label)?, score, mask: None })
    }

    /// Adds a mask.
    pub fn with_mask(mut self, mask: Rle) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Its class, at least 1.
    pub fn label(&self) -> u32 {
        self.label.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_keeps_it() {
        let detection = Detection::new(BBox::new(0.0, 0.0, 1.0, 1.0).unwrap(), 2, 0.5).unwrap();
        let detection = detection.with_mask(Rle::new(2, 1, &[1, 1]).unwrap());
        let json = serde_json::to_string(&detection).unwrap();
        assert_eq!(serde_json::from_str::<Detection>(&json).unwrap(), detection);
        assert!(Detection::new(detection.bbox, 0, 0.5).is_err());
    }
}
