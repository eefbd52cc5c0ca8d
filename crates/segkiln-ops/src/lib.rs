//! Tensor operators for segmentation and detection that Burn lacks, has only on some backends, or computes slowly.
//!
//! Each operator has a folder:
//!
//! - `mod.rs`: the function that users call on `Tensor`s, and the trait over Burn's `Backend` that it dispatches to;
//! - `flex.rs`, `cube.rs`, `ndarray.rs`: one file for each backend (CPU; CUDA, ROCm, Vulkan, Metal and WebGPU from one CubeCL
//!   kernel; the deprecated NdArray);
//! - `autodiff.rs`: the gradient, once for all backends.
//!
//! A new operator is a copy of such a folder; `cpu` has the parts that CPU files are built from. `nms` works on slices and is a
//! single file.

// The backend is deprecated upstream and kept as an option here.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

pub mod add_relu;
pub mod attention;
pub mod batch_norm;
pub mod conv2d;
pub mod conv3d;
pub mod conv_transpose2d;
#[cfg(feature = "flex")]
mod cpu;
pub mod gated;
pub mod layer_norm2d;
pub mod max_pool2d;
mod nms;
#[cfg(feature = "flex")]
pub mod reduced;
pub mod resize;
pub mod roi_align;
mod volumes;

pub use add_relu::add_relu;
pub use attention::attention;
pub use batch_norm::{BatchNormOutput, batch_norm_train};
pub use conv_transpose2d::conv_transpose2d;
pub use conv2d::{Joined, conv2d, conv2d_affine, conv2d_bf16};
pub use conv3d::{conv3d, conv3d_affine};
#[cfg(feature = "flex")]
pub use cpu::{release_memory, set_helper_threads};
pub use gated::{gelu, hard_swish, silu};
pub use layer_norm2d::layer_norm2d;
pub use max_pool2d::max_pool2d;
pub use nms::{batched_nms, nms};
pub use resize::{ResizeMode, resize};
pub use roi_align::{RoiAlignOptions, roi_align};
pub use volumes::{conv_transpose3d, max_pool3d, slices, volumes};

/// From -1 to 1, without a pattern: sums of waves cancel, and what is left is mostly what was rounded.
#[cfg(test)]
fn test_values<const D: usize>(shape: [usize; D], seed: u32, device: &burn::tensor::Device) -> burn::tensor::Tensor<D> {
    let value = |index: usize| {
        let mixed = (index as u32).wrapping_add(seed << 24).wrapping_mul(0x9E37_79B9);
        let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85EB_CA6B);
        (mixed ^ mixed >> 13) as f32 / (1u64 << 31) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}

/// Returns the devices that operators' tests run on: `SEGKILN_TEST_DEVICES`, comma-separated names, or the default CPU device.
#[cfg(test)]
fn test_devices() -> Vec<burn::tensor::Device> {
    use burn::tensor::Device;

    let names = std::env::var("SEGKILN_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    names
        .split(',')
        .map(|name| match name {
            "flex" => Device::flex(),
            #[cfg(feature = "ndarray")]
            "ndarray" => Device::ndarray(),
            #[cfg(feature = "vulkan")]
            "vulkan" => Device::vulkan(Default::default()),
            other => panic!("SEGKILN_TEST_DEVICES: {other:?} is not in this build"),
        })
        .collect()
}
