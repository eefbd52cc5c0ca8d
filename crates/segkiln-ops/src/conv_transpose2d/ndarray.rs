use burn::backend::NdArray;

use super::ConvTranspose2dOps;

impl ConvTranspose2dOps for NdArray {}
