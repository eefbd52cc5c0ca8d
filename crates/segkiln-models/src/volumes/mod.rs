//! Networks for volumes: computed tomography, magnetic resonance, microscopy in depth.
//!
//! Tensors are `[batch, channels, depth, height, width]`, as PyTorch's. On the CPU operators write them slice by slice, in views
//! of that shape, so that each layer reads what the one before wrote without a copy; see [`segkiln_ops::conv3d`](mod@segkiln_ops::conv3d).

mod stacked;
mod unet3d;

pub use stacked::{StackedUNet3d, StackedUNet3dConfig};
pub use unet3d::{DoubleConv3d, UNet3d, UNet3dConfig, Widths};
