use burn_cubecl::CubeBackend;

use super::LayerNorm2dOps;

impl LayerNorm2dOps for CubeBackend {}
