//! On the host, a value at a time. The backend is deprecated upstream; this is for compatibility.

use burn::{
    backend::{
        NdArray, TensorMetadata,
        ops::FloatTensorOps,
        tensor::{Device, FloatTensor},
    },
    tensor::{DType, TensorData, read_sync},
};

use super::{
    RoiAlignOps, RoiAlignOptions,
    taps::{Roi, regions},
};

impl RoiAlignOps for NdArray {
    fn roi_align(x: FloatTensor<Self>, rois: FloatTensor<Self>, options: RoiAlignOptions) -> FloatTensor<Self> {
        let (dtype, device, shape) = (x.dtype(), x.device(), x.shape().dims());
        let rois = regions(&values(rois), shape, &options);
        let (x, area, bins) = (values(x), shape[2] * shape[3], options.size[0] * options.size[1]);
        let mut output = vec![0.0; rois.len() * shape[1] * bins];
        for roi in &rois {
            for channel in 0..shape[1] {
                let plane = &x[(roi.image * shape[1] + channel) * area..][..area];
                let target = &mut output[(roi.index * shape[1] + channel) * bins..][..bins];
                for_each_tap(roi, shape[3], |bin, pixel, weight| target[bin] += weight * plane[pixel]);
            }
        }
        tensor(output, [rois.len(), shape[1], options.size[0], options.size[1]], dtype, &device)
    }

    fn roi_align_backward(
        grad: FloatTensor<Self>,
        rois: FloatTensor<Self>,
        shape: [usize; 4],
        options: RoiAlignOptions,
    ) -> FloatTensor<Self> {
        let (dtype, device) = (grad.dtype(), grad.device());
        let rois = regions(&values(rois), shape, &options);
        let (grad, area, bins) = (values(grad), shape[2] * shape[3], options.size[0] * options.size[1]);
        let mut output = vec![0.0; shape[0] * shape[1] * area];
        for roi in &rois {
            for channel in 0..shape[1] {
                let plane = &mut output[(roi.image * shape[1] + channel) * area..][..area];
                let grad = &grad[(roi.index * shape[1] + channel) * bins..][..bins];
                for_each_tap(roi, shape[3], |bin, pixel, weight| plane[pixel] += weight * grad[bin]);
            }
        }
        tensor(output, shape, dtype, &device)
    }
}

/// Calls `f` with each bin, each pixel of a plane of rows of `width` that the bin reads, and its weight.
fn for_each_tap(roi: &Roi, width: usize, mut f: impl FnMut(usize, usize, f32)) {
    let mut bin = 0;
    for rows in roi.rows.bins() {
        for columns in roi.columns.bins() {
            for row in rows {
                for column in columns {
                    f(bin, row.pixel as usize * width + column.pixel as usize, row.weight * column.weight);
                }
            }
            bin += 1;
        }
    }
}

fn values(x: FloatTensor<NdArray>) -> Vec<f32> {
    let data = read_sync(NdArray::float_into_data(x)).expect("the values are in memory");
    data.iter::<f32>().collect()
}

fn tensor(values: Vec<f32>, shape: [usize; 4], dtype: DType, device: &Device<NdArray>) -> FloatTensor<NdArray> {
    NdArray::float_from_data(TensorData::new(values, shape).convert_dtype(dtype), device)
}
