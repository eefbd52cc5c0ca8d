use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{CoreError, Palette, Result, Rgb};

/// The classes of a semantic segmentation: names, colors, and the label that losses and metrics ignore.
///
/// Class 0 is the background by convention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Classes {
    names: Vec<String>,
    palette: Palette,
    ignore_index: Option<u32>,
}

/// A class list as read from a file, not validated yet.
#[derive(Deserialize)]
struct Unchecked {
    names: Vec<String>,
    palette: Option<Palette>,
    ignore_index: Option<u32>,
}

impl TryFrom<Unchecked> for Classes {
    type Error = CoreError;

    fn try_from(file: Unchecked) -> Result<Self> {
        let classes = Self::new(file.names)?.with_ignore_index(file.ignore_index);
        match file.palette {
            Some(palette) => classes.with_palette(palette),
            None => Ok(classes),
        }
    }
}

impl Classes {
    /// Creates classes with these names, Pascal VOC's colors and no ignored label.
    ///
    /// # Errors
    /// Fewer than two names, or a name that is used twice.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Result<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        if names.len() < 2 {
            return Err(CoreError::TooFewClasses(names.len()));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(CoreError::DuplicateClass(twice.clone()));
        }
        let palette = Palette::voc(names.len());
        Ok(Self { names, palette, ignore_index: None })
    }

    /// Background and foreground.
    pub fn binary() -> Self {
        Self { names: vec!["background".into(), "foreground".into()], palette: Palette::voc(2), ignore_index: None }
    }

    /// The 20 classes of Pascal VOC and its background; the void border 255 is ignored.
    pub fn voc() -> Self {
        let names = [
            "background",
            "aeroplane",
            "bicycle",
            "bird",
            "boat",
            "bottle",
            "bus",
            "car",
            "cat",
            "chair",
            "cow",
            "diningtable",
            "dog",
            "horse",
            "motorbike",
            "person",
            "pottedplant",
            "sheep",
            "sofa",
            "train",
            "tvmonitor",
        ];
        Self { names: names.map(String::from).to_vec(), palette: Palette::voc(21), ignore_index: Some(255) }
    }

    /// The 80 classes of COCO by its category ids, 1 to 90, and the background; ten ids are unused.
    pub fn coco() -> Self {
        let names = [
            "background",
            "person",
            "bicycle",
            "car",
            "motorcycle",
            "airplane",
            "bus",
            "train",
            "truck",
            "boat",
            "traffic light",
            "fire hydrant",
            "unused 12",
            "stop sign",
            "parking meter",
            "bench",
            "bird",
            "cat",
            "dog",
            "horse",
            "sheep",
            "cow",
            "elephant",
            "bear",
            "zebra",
            "giraffe",
            "unused 26",
            "backpack",
            "umbrella",
            "unused 29",
            "unused 30",
            "handbag",
            "tie",
            "suitcase",
            "frisbee",
            "skis",
            "snowboard",
            "sports ball",
            "kite",
            "baseball bat",
            "baseball glove",
            "skateboard",
            "surfboard",
            "tennis racket",
            "bottle",
            "unused 45",
            "wine glass",
            "cup",
            "fork",
            "knife",
            "spoon",
            "bowl",
            "banana",
            "apple",
            "sandwich",
            "orange",
            "broccoli",
            "carrot",
            "hot dog",
            "pizza",
            "donut",
            "cake",
            "chair",
            "couch",
            "potted plant",
            "bed",
            "unused 66",
            "dining table",
            "unused 68",
            "unused 69",
            "toilet",
            "unused 71",
            "tv",
            "laptop",
            "mouse",
            "remote",
            "keyboard",
            "cell phone",
            "microwave",
            "oven",
            "toaster",
            "sink",
            "refrigerator",
            "unused 83",
            "book",
            "clock",
            "vase",
            "scissors",
            "teddy bear",
            "hair drier",
            "toothbrush",
        ];
        Self { names: names.map(String::from).to_vec(), palette: Palette::voc(91), ignore_index: None }
    }

    /// The 19 evaluated classes of Cityscapes in train-id order, with its colors; 255 is ignored.
    pub fn cityscapes() -> Self {
        let classes: [(&str, Rgb); 19] = [
            ("road", [128, 64, 128]),
            ("sidewalk", [244, 35, 232]),
            ("building", [70, 70, 70]),
            ("wall", [102, 102, 156]),
            ("fence", [190, 153, 153]),
            ("pole", [153, 153, 153]),
            ("traffic light", [250, 170, 30]),
            ("traffic sign", [220, 220, 0]),
            ("vegetation", [107, 142, 35]),
            ("terrain", [152, 251, 152]),
            ("sky", [70, 130, 180]),
            ("person", [220, 20, 60]),
            ("rider", [255, 0, 0]),
            ("car", [0, 0, 142]),
            ("truck", [0, 0, 70]),
            ("bus", [0, 60, 100]),
            ("train", [0, 80, 100]),
            ("motorcycle", [0, 0, 230]),
            ("bicycle", [119, 11, 32]),
        ];
        Self {
            names: classes.iter().map(|(name, _)| (*name).into()).collect(),
            palette: Palette::new(classes.iter().map(|(_, color)| *color).collect()),
            ignore_index: Some(255),
        }
    }

    /// Replaces the colors.
    ///
    /// # Errors
    /// [`CoreError::PaletteTooShort`] if a class would have no color.
    pub fn with_palette(mut self, palette: Palette) -> Result<Self> {
        if palette.colors().len() < self.names.len() {
            return Err(CoreError::PaletteTooShort { classes: self.names.len(), colors: palette.colors().len() });
        }
        self.palette = palette;
        Ok(self)
    }

    /// Sets the label that losses and metrics ignore.
    pub fn with_ignore_index(mut self, ignore_index: Option<u32>) -> Self {
        self.ignore_index = ignore_index;
        self
    }

    /// Number of classes, background included; never less than two.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// Class names, class 0 first.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Color of each class.
    pub fn palette(&self) -> &Palette {
        &self.palette
    }

    /// Label that losses and metrics ignore.
    pub fn ignore_index(&self) -> Option<u32> {
        self.ignore_index
    }

    /// Whether `label` is a class or the ignored label.
    pub fn allows(&self, label: u32) -> bool {
        (label as usize) < self.names.len() || Some(label) == self.ignore_index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(Classes::new(["one"]).unwrap_err(), CoreError::TooFewClasses(1));
        assert_eq!(Classes::new(["a", "b", "a"]).unwrap_err(), CoreError::DuplicateClass("a".into()));
        assert!(Classes::binary().with_palette(Palette::new(vec![[0; 3]])).is_err());
    }

    #[test]
    fn built_in_lists_are_complete() {
        assert_eq!(Classes::voc().count(), 21);
        assert_eq!(Classes::cityscapes().count(), 19);
        assert!(Classes::voc().allows(255) && !Classes::voc().allows(21));
    }
}
