use std::path::PathBuf;

use segkiln_core::Size;
use segkiln_data::DataError;
use segkiln_models::{UnknownLayer, detection::DetectionError};

/// Why something cannot be explained, attacked or measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The network has no such layer.
    #[error(transparent)]
    Layer(#[from] UnknownLayer),
    /// A layer was not computed again, although it was a moment ago.
    #[error(
        "layer {0:?} did not compute the second time; a network that computes otherwise at each call cannot be followed"
    )]
    LayerNotReached(String),
    /// No gradient comes back from the score.
    #[error(
        "the score has no gradient for {0}: the network computes it from something else, or on the host; take a method without \
         gradients, such as occlusion or rise"
    )]
    NoGradient(String),
    /// The network has no such class.
    #[error("there is no class {class}; the network has {}", listed(names))]
    Class {
        /// The class that was asked for.
        class: usize,
        /// Names of the classes, class 0 first.
        names: Vec<String>,
    },
    /// The network found no such object.
    #[error("there is no object {object}; the network found {found} in this image{}", if *found == 0 { ", try a lower score threshold" } else { ", counted from 0, best first" })]
    Object {
        /// The object that was asked for.
        object: usize,
        /// Number of objects.
        found: usize,
    },
    /// No object meets the box.
    #[error("no object of class {class} meets the box with an IoU above {threshold}; give another box or class")]
    NoMatch {
        /// Class of the object.
        class: u32,
        /// IoU that must be exceeded.
        threshold: f64,
    },
    /// A target of a detector was asked of a segmentation network, or the other way round.
    #[error("{0}")]
    Kind(&'static str),
    /// The mask has no pixel.
    #[error("the mask has no pixel; ask about another mask, or about the whole image")]
    EmptyMask,
    /// The network gives no pixel the class.
    #[error("the network gives no pixel of the image class {0}; ask about the whole image, a mask or a pixel")]
    NothingPredicted(usize),
    /// A mask or a map is not of the image's size.
    #[error("{what} is {found}, the image {expected}; both need the same size")]
    Size {
        /// The thing.
        what: &'static str,
        /// Its width and height.
        found: Size,
        /// The image's width and height.
        expected: Size,
    },
    /// A pixel is not in the image.
    #[error("pixel (x {x}, y {y}) is outside of the image of {width}x{height}")]
    Pixel {
        /// Column.
        x: u32,
        /// Row.
        y: u32,
        /// The image's width.
        width: u32,
        /// The image's height.
        height: u32,
    },
    /// The budget of an attack is out of range.
    #[error(
        "the budget of an attack, in 255ths of the range from black to white, must be above 0 and at most {most}; it is {epsilon}"
    )]
    Budget {
        /// The budget.
        epsilon: f64,
        /// The largest one.
        most: f64,
    },
    /// An option is out of range.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Allowed values.
        reason: String,
    },
    /// The calibration split is too small for the guarantee.
    #[error(
        "{images} calibration images cannot guarantee a risk of at most {alpha}; take at least {least} images, or a larger risk"
    )]
    Calibration {
        /// Number of images.
        images: usize,
        /// The risk.
        alpha: f64,
        /// The smallest number of images.
        least: usize,
    },
    /// No threshold keeps the risk.
    #[error("no threshold keeps the risk at {alpha} on these images; even the largest sets have a risk of {risk:.4}")]
    Risk {
        /// The risk that was asked for.
        alpha: f64,
        /// The smallest bound.
        risk: f64,
    },
    /// The image cannot be brought to what the network takes.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A sample cannot be read.
    #[error("{0}")]
    Sample(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The detector refuses the image.
    #[error(transparent)]
    Detection(#[from] DetectionError),
    /// The device could not compute or give back the result.
    #[error("the device failed: {0}")]
    Device(String),
    /// The network gives NaN or infinity.
    #[error("the score is {0}; the network's weights or the image's values are too large or not finite")]
    Undefined(f32),
    /// A file could not be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
}

/// Writes at most some names, because a data set may have thousands.
fn listed(names: &[String]) -> String {
    const MOST: usize = 24;
    let shown = names.iter().take(MOST).enumerate().map(|(class, name)| format!("{class} ({name})"));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text += &format!(" and {} more up to {}", names.len() - MOST, names.len() - 1);
    }
    text
}

/// Result of this crate's functions.
pub type Result<T, E = ExplainError> = std::result::Result<T, E>;
