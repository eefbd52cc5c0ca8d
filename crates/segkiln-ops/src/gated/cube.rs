use burn_cubecl::CubeBackend;

use super::GatedOps;

impl GatedOps for CubeBackend {}
