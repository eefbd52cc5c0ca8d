use burn::backend::NdArray;

use super::MaxPool2dOps;

impl MaxPool2dOps for NdArray {}
