use segkiln_core::{BBox, LabelMap};

/// Target of an explanation: a number that a network computes from an image.
#[derive(Debug, Clone, PartialEq)]
pub enum ExplanationTarget {
    /// Logit of a class of a segmentation network.
    Class {
        /// The class.
        class: usize,
        /// Pixels whose logits count.
        pixels: Pixels,
        /// Reduction of these logits to one number.
        reduction: PixelReduction,
    },
    /// An object of a detector.
    Object {
        /// Choice of the object.
        select: Select,
        /// Part of the object.
        part: ObjectPart,
    },
}

impl ExplanationTarget {
    /// The sum of a class's logits over pixels: pytorch-grad-cam's `SemanticSegmentationTarget`.
    pub fn class(class: usize, pixels: Pixels) -> Self {
        Self::Class { class, pixels, reduction: PixelReduction::Sum }
    }

    /// The score of the object with this index, best score first, from 0.
    pub fn object(index: usize) -> Self {
        Self::Object { select: Select::Index(index), part: ObjectPart::Score }
    }
}

/// Pixels of an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// All.
    Image,
    /// Pixels that the network gives the class of the target.
    Predicted,
    /// Pixels that are not 0 in a map of the image's size.
    Mask(LabelMap),
    /// One.
    Pixel {
        /// Column.
        x: u32,
        /// Row.
        y: u32,
    },
}

/// Reduction of the logits of pixels to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PixelReduction {
    /// Their sum.
    #[default]
    Sum,
    /// Their mean, with which targets of different sizes can be compared.
    Mean,
}

/// Choice of an object of a detector.
#[derive(Debug, Clone, PartialEq)]
pub enum Select {
    /// The one with this index among the detections, best score first, from 0. It is found again by its box and class where the
    /// image is changed.
    Index(usize),
    /// The one of a class that best meets a box, with an IoU above 0.5.
    Best {
        /// The box, in pixels.
        bbox: BBox,
        /// The class.
        class: u32,
    },
}

/// Part of an object that is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ObjectPart {
    /// Its class's score.
    #[default]
    Score,
    /// Its score and the IoU of its box with the box that was asked for or found first: pytorch-grad-cam's
    /// `FasterRCNNBoxScoreTarget`.
    ScoreAndBox,
    /// Its mask, of a detector with masks: the mean of its logits, negative ones counted as 0, over the cells of the box that it was found in.
    /// The box stays where the image is changed.
    Mask,
}
