use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{BBox, CoreError, LabelMap, Result, Rle, Size};

/// Checks that a label is not the background's.
pub(crate) fn foreground(label: u32) -> Result<NonZeroU32> {
    NonZeroU32::new(label).ok_or(CoreError::BackgroundLabel)
}

/// An annotated object of an image: what a detector is trained on.
///
/// ```
/// use segkiln_core::{BBox, Instance};
///
/// let instance = Instance::new(BBox::new(1.0, 2.0, 5.0, 4.0)?, 3)?;
/// assert_eq!((instance.label(), &instance.mask), (3, &None));
/// assert!(Instance::new(instance.bbox, 0).is_err());
/// # Ok::<(), segkiln_core::CoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Bounding box in pixels of the image.
    pub bbox: BBox,
    label: NonZeroU32,
    /// Mask of the image's size, if known.
    #[serde(default)]
    pub mask: Option<Rle>,
    /// Whether it is a group of objects annotated as one: COCO's `iscrowd`.
    #[serde(default)]
    pub crowd: bool,
    /// Whether it is hard to recognize, so that missing it is no error: Pascal VOC's `difficult`.
    #[serde(default)]
    pub difficult: bool,
}

impl Instance {
    /// Creates an object without a mask, neither a crowd nor difficult. `label` is its class, from 1: 0 is the background.
    ///
    /// # Errors
    /// [`CoreError::BackgroundLabel`] if `label` is 0.
    pub fn new(bbox: BBox, label: u32) -> Result<Self> {
        Ok(Self { bbox, label: foreground(label)?, mask: None, crowd: false, difficult: false })
    }

    /// Adds a mask.
    pub fn with_mask(mut self, mask: Rle) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Class, at least 1.
    pub fn label(&self) -> u32 {
        self.label.get()
    }
}

/// The objects of one image; there may be none.
///
/// Every mask has the image's size. Boxes may reach beyond the image, and need not be those of the masks.
///
/// ```
/// use segkiln_core::{Instances, LabelMap};
///
/// // 0 7 7
/// // 2 2 0
/// let map = LabelMap::new(3, 2, vec![0, 7, 7, 2, 2, 0])?;
/// let instances = Instances::from_labels(&map, |_| 1)?;
/// let boxes: Vec<[f64; 4]> = instances.as_slice().iter().map(|instance| instance.bbox.xyxy()).collect();
/// assert_eq!(boxes, [[0.0, 1.0, 2.0, 2.0], [1.0, 0.0, 3.0, 1.0]]);
/// # Ok::<(), segkiln_core::CoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Instances {
    width: u32,
    height: u32,
    instances: Vec<Instance>,
}

impl Instances {
    /// Creates the list of objects of an image of `width` x `height` pixels.
    ///
    /// # Errors
    /// [`CoreError::InstanceMask`] if a mask has another size.
    pub fn new(width: u32, height: u32, instances: Vec<Instance>) -> Result<Self> {
        let image = Size { width, height };
        for (index, instance) in instances.iter().enumerate() {
            if let Some(mask) = instance.mask.as_ref().map(Rle::size)
                && mask != image
            {
                return Err(CoreError::InstanceMask { index, mask, image });
            }
        }
        Ok(Self { width, height, instances })
    }

    /// Creates the list from a map of instance ids: an object for each id except 0, by ascending id, with class `class(id)`, the id's
    /// pixels as mask and their bounding box. Ids of class 0 are left out.
    ///
    /// # Errors
    /// [`CoreError::MaskSize`] if the map has no pixel, or more than 2³² - 1.
    pub fn from_labels(map: &LabelMap, class: impl Fn(u32) -> u32) -> Result<Self> {
        let instance = |(id, mask): (u32, Rle)| {
            let label = NonZeroU32::new(class(id))?;
            Some(Instance { bbox: mask.bbox()?, label, mask: Some(mask), crowd: false, difficult: false })
        };
        let instances = Rle::of_labels(map)?.into_iter().filter_map(instance).collect();
        Ok(Self { width: map.width(), height: map.height(), instances })
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        Size { width: self.width(), height: self.height() }
    }

    /// Width of the image in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height of the image in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// The objects.
    pub fn as_slice(&self) -> &[Instance] {
        &self.instances
    }

    /// Takes the objects out.
    pub fn into_vec(self) -> Vec<Instance> {
        self.instances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance::new(BBox::new(0.5, 0.0, 2.0, 2.0).unwrap(), 3).unwrap()
    }

    #[test]
    fn background_is_rejected() {
        let error = Instance::new(instance().bbox, 0).unwrap_err().to_string();
        assert_eq!(error, "an object's label must be at least 1, as 0 is the background; number the classes from 1");
        assert!(serde_json::from_str::<Instance>(r#"{"bbox": [0, 0, 1, 1], "label": 0}"#).is_err());
    }

    #[test]
    fn serde_round_trips_and_fills_in_defaults() {
        let mut whole = instance().with_mask(Rle::new(2, 1, &[1, 1]).unwrap());
        (whole.crowd, whole.difficult) = (true, true);
        for instance in [instance(), whole] {
            let json = serde_json::to_string(&instance).unwrap();
            assert_eq!(serde_json::from_str::<Instance>(&json).unwrap(), instance);
        }
        let short = serde_json::from_str::<Instance>(r#"{"bbox": [0.5, 0, 2, 2], "label": 3}"#);
        assert_eq!(short.unwrap(), instance());
    }

    #[test]
    fn masks_must_have_the_image_size() {
        assert!(Instances::new(2, 3, vec![]).unwrap().is_empty());
        let other = instance().with_mask(Rle::new(3, 2, &[6]).unwrap());
        let error = Instances::new(2, 3, vec![instance(), other]).unwrap_err().to_string();
        assert_eq!(error, "the mask of object 1 has 3x2 pixels, its image 2x3; they must be equal");
    }

    #[test]
    fn each_id_is_an_object() {
        // 5 5 0 9
        // 5 0 0 9
        // 0 0 5 1
        let map = LabelMap::new(4, 3, vec![5, 5, 0, 9, 5, 0, 0, 9, 0, 0, 5, 1]).unwrap();
        let instances = Instances::from_labels(&map, |id| if id == 1 { 0 } else { id + 1 }).unwrap();
        assert_eq!((instances.width(), instances.height(), instances.len()), (4, 3, 2));
        let [five, nine] = instances.as_slice() else { unreachable!() };
        assert_eq!((five.label(), nine.label()), (6, 10));
        assert_eq!(five.bbox.xyxy(), [0.0, 0.0, 3.0, 3.0]);
        for (instance, id) in [(five, 5), (nine, 9)] {
            let expected = Rle::from_fn(4, 3, |x, y| map.get(x, y) == Some(id)).unwrap();
            assert_eq!(instance.mask.as_ref(), Some(&expected));
            assert_eq!(Some(instance.bbox), expected.bbox());
        }
        assert!(Instances::from_labels(&LabelMap::filled(3, 2, 0), |_| 1).unwrap().is_empty());
        assert!(Instances::from_labels(&LabelMap::filled(0, 2, 0), |_| 1).is_err());
    }
}
