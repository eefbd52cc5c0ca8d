//! Copies between the device and the host.

use burn::tensor::{Device, Int, Tensor};

/// Reads the values of a tensor in row-major order.
pub(super) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("floats")
}

/// Uploads indices of rows for `select`.
pub(super) fn indices(indices: &[usize], device: &Device) -> Tensor<1, Int> {
    let indices: Vec<i32> = indices.iter().map(|index| *index as i32).collect();
    Tensor::from_ints(indices.as_slice(), device)
}

/// Uploads boxes or box codes.
///
/// # Shapes
/// `rows` → `[rows, 4]`
pub(super) fn rows(rows: &[[f32; 4]], device: &Device) -> Tensor<2> {
    Tensor::<1>::from_floats(rows.as_flattened(), device).reshape([rows.len(), 4])
}
