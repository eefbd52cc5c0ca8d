use burn_cubecl::CubeBackend;

use super::Conv2dOps;

impl Conv2dOps for CubeBackend {}
