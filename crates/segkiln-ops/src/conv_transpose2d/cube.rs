use burn_cubecl::CubeBackend;

use super::ConvTranspose2dOps;

impl ConvTranspose2dOps for CubeBackend {}
