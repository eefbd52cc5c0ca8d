use segkiln_core::{BBox, LabelMap};

/// What an explanation asks about: a number that a network computes from an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Logit of a class of a segmentation network.
    Class {
        /// The class.
        class: usize,
        /// Pixels whose logits count.
        region: Region,
        /// How they become one number.
        reduction: Reduction,
    },
    /// An object of a detector.
    Object {
        /// Which one.
        select: Select,
        /// What of it.
        part: Part,
    },
}

impl Target {
    /// The sum of a class's logits over a region: pytorch-grad-cam's `SemanticSegmentationTarget`.
    pub fn class(class: usize, region: Region) -> Self {
        Self::Class { class, region, reduction: Reduction::Sum }
    }

    /// The score of the object with this index, best score first, from 0.
    pub fn object(index: usize) -> Self {
        Self::Object { select: Select::Index(index), part: Part::Score }
    }
}

/// Pixels of an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Region {
    /// All.
    Image,
    /// Those that the network gives the class of the target.
    Predicted,
    /// Those that are not 0 in a map of the image's size.
    Mask(LabelMap),
    /// One.
    Pixel {
        /// Column.
        x: u32,
        /// Row.
        y: u32,
    },
}

/// How the logits of a region become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// Their sum.
    #[default]
    Sum,
    /// Their mean, with which targets of different sizes can be compared.
    Mean,
}

/// Which object of a detector.
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

/// What of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// Its class's score.
    #[default]
    Score,
    /// Its score and the IoU of its box with the box that was asked for or found first: pytorch-grad-cam's
    /// `FasterRCNNBoxScoreTarget`.
    ScoreAndBox,
    /// Its mask, of a detector with masks: the mean of the logits above 0 over the cells of the box that it was found in. The box stays
    /// where the image is changed.
    Mask,
}
