//! Composed from matrix products: `rows · x · columnsᵀ`. The backend is deprecated upstream; this is for compatibility.

use burn::{
    backend::{NdArray, TensorMetadata, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::TensorData,
};

use super::{ResizeMode, ResizeOps, taps};

impl ResizeOps for NdArray {
    fn resize(x: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self> {
        let [_, _, height, width] = x.shape().dims();
        let rows = weights(height, size[0], mode, &x);
        let columns = NdArray::float_transpose(weights(width, size[1], mode, &x));
        NdArray::float_matmul(NdArray::float_matmul(rows, x), columns)
    }

    fn resize_backward(grad: FloatTensor<Self>, size: [usize; 2], mode: ResizeMode) -> FloatTensor<Self> {
        let [_, _, height, width] = grad.shape().dims();
        let rows = NdArray::float_transpose(weights(size[0], height, mode, &grad));
        let columns = weights(size[1], width, mode, &grad);
        NdArray::float_matmul(NdArray::float_matmul(rows, grad), columns)
    }
}

/// `[1, 1, output, input]`, of the type and on the device of `like`: row `i` holds the weights of output `i`.
fn weights(input: usize, output: usize, mode: ResizeMode, like: &FloatTensor<NdArray>) -> FloatTensor<NdArray> {
    let mut matrix = vec![0.0f32; output * input];
    for (tap, row) in taps(input, output, mode).iter().zip(matrix.chunks_exact_mut(input)) {
        row[tap.first] += 1.0 - tap.share;
        row[tap.second] += tap.share;
    }
    let matrix = TensorData::new(matrix, [1, 1, output, input]).convert_dtype(like.dtype());
    NdArray::float_from_data(matrix, &like.device())
}
