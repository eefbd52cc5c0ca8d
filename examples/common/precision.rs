//! The flag that says which numbers a network multiplies.

use segkiln::{
    PrecisionTrial,
    core::{Precision, PrecisionChoice},
};

use crate::common::{Failure, say};

/// Which numbers a network multiplies.
#[derive(clap::Args)]
pub struct Numbers {
    /// Numbers that the network multiplies: f32, bf16, int8, or auto, the fastest with which the first images come out nearly as in
    /// f32 [default: int8 if the model is quantized, else f32]
    #[arg(long)]
    precision: Option<PrecisionChoice>,
}

impl Numbers {
    /// Whether fewer bits than those of f32 were asked for.
    #[allow(dead_code, reason = "only unet_predict takes what has no other precision: volumes")]
    pub fn is_reduced(&self) -> bool {
        matches!(self.precision, Some(PrecisionChoice::Fixed(Precision::Bf16 | Precision::Int8)))
    }

    /// The predictor in the precision that was asked for: `fixed` brings it to one, `fastest` looks for the fastest.
    pub fn choose<P, E: Into<Failure>, F: Into<Failure>>(
        &self,
        predictor: P,
        fixed: impl FnOnce(P, Precision) -> Result<P, E>,
        fastest: impl FnOnce(P) -> Result<(P, Vec<PrecisionTrial>), F>,
    ) -> Result<P, Failure> {
        match self.precision {
            None => Ok(predictor),
            Some(PrecisionChoice::Fixed(precision)) => fixed(predictor, precision).map_err(Into::into),
            Some(PrecisionChoice::Auto) => {
                let (predictor, trials) = fastest(predictor).map_err(Into::into)?;
                for PrecisionTrial { precision, seconds, measure } in trials {
                    say(format_args!(
                        "{precision}: {:.1} ms an image, {:.2} % as in f32",
                        1e3 * seconds,
                        100.0 * measure
                    ))?;
                }
                Ok(predictor)
            }
        }
    }
}

/// Images that the fastest precision is looked for on.
#[allow(dead_code, reason = "segment has one")]
pub const IMAGES: usize = 3;
/// Largest share of pixels, or of objects, that may come out otherwise.
pub const MAX_LOSS: f64 = 0.005;
