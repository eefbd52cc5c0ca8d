use burn_cubecl::CubeBackend;

use super::MaxPool2dOps;

impl MaxPool2dOps for CubeBackend {}
