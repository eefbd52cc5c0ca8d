//! The flag that says which numbers a network multiplies while it learns.

use burn::tensor::Device;
use segkiln::{
    core::{Precision, PrecisionChoice},
    models::TrainingPrecision,
};

/// Which numbers a network multiplies.
#[derive(clap::Args)]
pub struct TrainingNumbers {
    /// Numbers that convolutions and their gradients multiply: f32, bf16, or auto, whichever of these this processor multiplies
    /// faster; int8 for a network that will be quantized
    #[arg(long, default_value = "f32")]
    precision: PrecisionChoice,
}

impl TrainingNumbers {
    pub fn precision(&self, device: &Device) -> Precision {
        match self.precision {
            PrecisionChoice::Fixed(precision) => precision,
            PrecisionChoice::Auto => TrainingPrecision::fastest(device),
        }
    }
}
