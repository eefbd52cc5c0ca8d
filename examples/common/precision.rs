//! The flag that says which numbers a network multiplies.

use segkiln::{PrecisionTrial, core::PrecisionChoice};

use crate::common::{Failure, say};

/// Which numbers a network multiplies.
#[derive(clap::Args)]
pub struct Numbers {
    /// Numbers that the network multiplies: f32, bf16, int8, or auto, the fastest with which the first images come out nearly as in
    /// f32 [default: int8 if the model is quantized, else f32]
    #[arg(long)]
    pub precision: Option<PrecisionChoice>,
}

/// Images that the fastest precision is looked for on.
#[allow(dead_code, reason = "segment has one")]
pub const IMAGES: usize = 3;
/// Largest share of pixels, or of objects, that may come out otherwise.
pub const MAX_LOSS: f64 = 0.005;

/// Says how each precision did.
pub fn tell(trials: &[PrecisionTrial]) -> Result<(), Failure> {
    for PrecisionTrial { precision, seconds, measure } in trials {
        say(format_args!("{precision}: {:.1} ms an image, {:.2} % as in f32", 1e3 * seconds, 100.0 * measure))?;
    }
    Ok(())
}
