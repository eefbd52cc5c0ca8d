use burn_cubecl::CubeBackend;

use super::Conv3dOps;

impl Conv3dOps for CubeBackend {}
