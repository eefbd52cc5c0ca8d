use burn_cubecl::CubeBackend;

use super::AttentionOps;

impl AttentionOps for CubeBackend {}
