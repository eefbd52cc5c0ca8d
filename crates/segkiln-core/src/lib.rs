//! Host-side types shared by the segkiln crates: label maps, class lists, palettes, boxes, masks and objects of an image.
//!
//! This crate does not depend on Burn. Its types are valid by construction: a [`LabelMap`] always has as many values as pixels, a
//! [`Classes`] always has a name and a color for each class.

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
mod size;

pub use bbox::BBox;
pub use classes::Classes;
pub use detection::Detection;
pub use error::{CoreError, Result};
pub use instance::{Instance, Instances};
pub use label_map::LabelMap;
pub use palette::{Palette, Rgb};
pub use precision::{Precision, PrecisionChoice, UnknownPrecision};
pub use rle::Rle;
pub use size::Size;
