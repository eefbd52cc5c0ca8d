use burn_cubecl::CubeBackend;

use super::HardSwishOps;

impl HardSwishOps for CubeBackend {}
