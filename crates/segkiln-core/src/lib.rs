//! Host-side vocabulary shared by the segkiln crates: what a label map, a class list, a palette, a box, a
//! mask and an object of an image are.
//!
//! Nothing here knows of tensors or of Burn. The types carry meaning: a [`LabelMap`] always has as many values as
//! pixels, a [`Classes`] always has a name and a colour for each class.

mod bbox;
mod classes;
mod detection;
mod error;
mod instance;
mod label_map;
mod palette;
mod polygon;
mod precision;
mod rle;

pub use bbox::BBox;
pub use classes::Classes;
pub use detection::Detection;
pub use error::{CoreError, Result};
pub use instance::{Instance, Instances};
pub use label_map::LabelMap;
pub use palette::{Palette, Rgb};
pub use precision::{Precision, PrecisionChoice, UnknownPrecision};
pub use rle::Rle;
