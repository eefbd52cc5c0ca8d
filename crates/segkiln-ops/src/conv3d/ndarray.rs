use burn::backend::NdArray;

use super::Conv3dOps;

impl Conv3dOps for NdArray {}
