//! Operators on volumes that are operators on images, slice by slice.

use burn::tensor::{
    Tensor, module,
    ops::{ConvTransposeOptions, MaxPoolOptions},
};

use crate::{conv_transpose2d, max_pool2d};

/// Returns the slices of volumes as images; without a copy where an operator of this crate made the volumes.
///
/// # Shapes
/// `[batch, channels, depth, height, width]` → `[batch · depth, channels, height, width]`
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::{slices, volumes};
///
/// let x = Tensor::<5>::ones([2, 3, 4, 5, 6], &Device::default());
/// assert_eq!(slices(x.clone()).dims(), [8, 3, 5, 6]);
/// assert_eq!(volumes(slices(x), 2).dims(), [2, 3, 4, 5, 6]);
/// ```
pub fn slices(x: Tensor<5>) -> Tensor<4> {
    let [batch, channels, depth, height, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch * depth, channels, height, width])
}

/// Returns the volumes of slices that follow each other: a view.
///
/// # Shapes
/// `[batch · depth, channels, height, width]` → `[batch, channels, depth, height, width]`
///
/// # Panics
/// If `batch` does not divide the number of slices.
pub fn volumes(slices: Tensor<4>, batch: usize) -> Tensor<5> {
    let [all, channels, height, width] = slices.dims();
    assert!(batch > 0 && all.is_multiple_of(batch), "{all} slices are not of {batch} volumes of one depth");
    slices.reshape([batch, all / batch, channels, height, width]).swap_dims(1, 2)
}

/// Returns the largest value of each window, as PyTorch's `max_pool3d`. Of equal values, the first one slice by slice and row by
/// row gets the gradient.
///
/// # Shapes
/// - `x`: `[batch, channels, depth, height, width]`
/// - output: `[batch, channels, depth', height', width']`
///
/// ```
/// use burn::tensor::{Device, Tensor, ops::MaxPoolOptions};
/// use segkiln_ops::max_pool3d;
///
/// let x = Tensor::<5>::from_floats([[[[[1.0, 2.0], [4.0, 3.0]], [[0.0, 7.0], [5.0, 6.0]]]]], &Device::default());
/// let y = max_pool3d(x, MaxPoolOptions::new([2, 2, 2]));
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [7.0]);
/// ```
pub fn max_pool3d(x: Tensor<5>, options: MaxPoolOptions<3>) -> Tensor<5> {
    let [batch, channels, depth, ..] = x.dims();
    let MaxPoolOptions { kernel_size, stride, padding, dilation, ceil_mode } = options;
    let inner = MaxPoolOptions {
        kernel_size: [kernel_size[1], kernel_size[2]],
        stride: [stride[1], stride[2]],
        padding: [padding[1], padding[2]],
        dilation: [dilation[1], dilation[2]],
        ceil_mode,
    };
    // The largest value of the largest values of each slice.
    let pooled = max_pool2d(slices(x), inner);
    let [_, _, height, width] = pooled.dims();
    if kernel_size[0] == 1 && stride[0] == 1 && padding[0] == (0, 0) {
        return volumes(pooled, batch);
    }
    let values = channels * height * width;
    let is_pairs = kernel_size[0] == 2 && stride[0] == 2 && padding[0] == (0, 0) && dilation[0] == 1 && !ceil_mode;
    if is_pairs && depth >= 2 {
        let pairs = pooled.reshape([batch, depth, values]).narrow(1, 0, depth / 2 * 2).reshape([
            batch * (depth / 2),
            2,
            values,
        ]);
        let [first, second] = [0, 1].map(|slice| pairs.clone().narrow(1, slice, 1));
        // Larger, or not a number.
        let is_second = second.clone().greater(first.clone()).bool_or(second.clone().is_nan());
        let largest = first.mask_where(is_second, second);
        return volumes(largest.reshape([batch * (depth / 2), channels, height, width]), batch);
    }
    let outer = MaxPoolOptions {
        kernel_size: [kernel_size[0], 1],
        stride: [stride[0], 1],
        padding: [padding[0], (0, 0)],
        dilation: [dilation[0], 1],
        ceil_mode,
    };
    let pooled = max_pool2d(pooled.reshape([batch, 1, depth, values]), outer);
    let depth = pooled.dims()[2];
    volumes(pooled.reshape([batch * depth, channels, height, width]), batch)
}

/// Computes the transposed convolution of `x` with `weight`, plus `bias`, as PyTorch's `conv_transpose3d`. Where kernels are as deep
/// as the stride, as in a U-Net, the slices of the output are channels of [`conv_transpose2d()`]'s; others are Burn's.
///
/// # Shapes
/// - `x`: `[batch, channels_in, depth, height, width]`
/// - `weight`: `[channels_in, channels_out / groups, kernel_depth, kernel_height, kernel_width]`
/// - `bias`: `[channels_out]`
/// - output: `[batch, channels_out, depth', height', width']`
///
/// # Panics
/// If the shapes do not fit.
///
/// ```
/// use burn::tensor::{Device, Tensor, ops::ConvTransposeOptions};
/// use segkiln_ops::conv_transpose3d;
///
/// let device = Device::default();
/// let x = Tensor::<5>::full([1, 1, 1, 1, 1], 2.0, &device);
/// let weight = Tensor::<5>::from_floats([[[[[1.0]], [[10.0]]]]], &device);
/// let y = conv_transpose3d(x, weight, None, ConvTransposeOptions::new([2, 1, 1], [0; 3], [0; 3], [1; 3], 1));
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [2.0, 20.0]);
/// ```
pub fn conv_transpose3d(
    x: Tensor<5>,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    options: ConvTransposeOptions<3>,
) -> Tensor<5> {
    let [channels_in, per_group, kernel_depth, kernel_height, kernel_width] = weight.dims();
    let ConvTransposeOptions { stride, padding, padding_out, dilation, groups } = options;
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [per_group * groups], "bias of {} channels", per_group * groups);
    }
    let side_by_side = stride[0] == kernel_depth && padding[0] == 0 && padding_out[0] == 0;
    if !side_by_side || (dilation[0] != 1 && kernel_depth > 1) {
        return module::conv_transpose3d(x, weight, bias, options);
    }
    let batch = x.dims()[0];
    let x = slices(x);
    // Channels of a group: for each slice of the kernel the group's.
    let weight = weight.swap_dims(1, 2).reshape([channels_in, kernel_depth * per_group, kernel_height, kernel_width]);
    let bias = bias.map(|bias| {
        let bias = bias.reshape([groups, 1, per_group]).expand([groups, kernel_depth, per_group]);
        bias.reshape([groups * kernel_depth * per_group])
    });
    let rest = |values: [usize; 3]| [values[1], values[2]];
    let inner = ConvTransposeOptions::new(rest(stride), rest(padding), rest(padding_out), rest(dilation), groups);
    let y = conv_transpose2d(x, weight, bias, inner);
    let [count, _, height, width] = y.dims();
    let channels = groups * per_group;
    if groups == 1 || kernel_depth == 1 {
        return volumes(y.reshape([count * kernel_depth, channels, height, width]), batch);
    }
    let y = y.reshape([count, groups, kernel_depth, per_group * height * width]).swap_dims(1, 2);
    volumes(y.reshape([count * kernel_depth, channels, height, width]), batch)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    fn random(shape: [usize; 5], device: &Device) -> Tensor<5> {
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
    }

    #[test]
    fn transposed_convolution_equals_burn() {
        let device = Device::flex().autodiff();
        device.seed(1);
        for (x, weight, stride, groups) in [
            ([1, 16, 3, 6, 9], [16, 8, 2, 2, 2], [2, 2, 2], 1),
            ([2, 3, 2, 5, 4], [3, 2, 2, 3, 3], [2, 1, 2], 1),
            ([1, 6, 3, 5, 4], [6, 1, 2, 2, 2], [2, 2, 2], 6),
            ([1, 6, 3, 5, 4], [6, 1, 1, 2, 2], [1, 2, 2], 6),
            ([2, 4, 3, 5, 4], [4, 2, 2, 2, 2], [2, 2, 2], 2),
            ([1, 4, 3, 5, 4], [4, 2, 3, 2, 2], [2, 2, 2], 1),
        ] {
            let channels = weight[1] * groups;
            let options = ConvTransposeOptions::new(stride, [0; 3], [0; 3], [1; 3], groups);
            let parameters = (
                random(x, &device).require_grad(),
                random(weight, &device).require_grad(),
                Tensor::<1>::random([channels], Distribution::Default, &device).require_grad(),
            );
            let factors = random(
                module::conv_transpose3d(parameters.0.clone(), parameters.1.clone(), None, options.clone()).dims(),
                &device,
            );
            let run = |ours: bool| {
                let (x, weight, bias) = parameters.clone();
                let y = match ours {
                    true => conv_transpose3d(x.clone(), weight.clone(), Some(bias.clone()), options.clone()),
                    false => module::conv_transpose3d(x.clone(), weight.clone(), Some(bias.clone()), options.clone()),
                };
                let gradients = (y.clone() * factors.clone()).backward();
                let [x, weight] = [x, weight].map(|tensor| tensor.grad(&gradients).unwrap().into_data());
                [y.inner().into_data(), x, weight, bias.grad(&gradients).unwrap().into_data()]
            };
            for (ours, burn) in run(true).iter().zip(run(false)) {
                ours.assert_approx_eq::<f32>(&burn, Tolerance::rel_abs(1e-4, 1e-3));
            }
        }
    }

    /// Against the definition, with many equal values.
    #[test]
    fn pooling_takes_the_first_of_the_largest() {
        let device = Device::flex().autodiff();
        device.seed(2);
        for (shape, options) in [
            ([2, 3, 4, 6, 8], MaxPoolOptions::new([2, 2, 2])),
            ([1, 2, 5, 7, 5], MaxPoolOptions::new([2, 2, 2])),
            ([2, 2, 3, 6, 6], MaxPoolOptions::new([1, 2, 2])),
            ([1, 2, 6, 6, 6], MaxPoolOptions::new([3, 2, 1]).with_stride([2, 1, 2])),
        ] {
            let x = random(shape, &device).mul_scalar(2.0).round().require_grad();
            let y = max_pool3d(x.clone(), options.clone());
            let factors = random(y.dims(), &device);
            let gradients = (y.clone() * factors.clone()).backward();
            let gradient = x.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();

            let [_, _, depth, height, width] = shape;
            let values = x.inner().into_data().try_to_vec::<f32>().unwrap();
            let factors = factors.inner().into_data().try_to_vec::<f32>().unwrap();
            let [batch, channels, out_depth, out_height, out_width] = y.dims();
            let (mut expected, mut expected_gradient) = (Vec::new(), vec![0.0; values.len()]);
            for plane in 0..batch * channels {
                for (d, h, w) in (0..out_depth)
                    .flat_map(|d| (0..out_height).flat_map(move |h| (0..out_width).map(move |w| (d, h, w))))
                {
                    let mut best = None;
                    let [kd, kh, kw] = options.kernel_size;
                    for (a, b, c) in (0..kd).flat_map(|a| (0..kh).flat_map(move |b| (0..kw).map(move |c| (a, b, c)))) {
                        let [d, h, w] =
                            [d * options.stride[0] + a, h * options.stride[1] + b, w * options.stride[2] + c];
                        let index = ((plane * depth + d) * height + h) * width + w;
                        if best.is_none_or(|best: usize| values[index] > values[best]) {
                            best = Some(index);
                        }
                    }
                    expected_gradient[best.unwrap()] += factors[expected.len()];
                    expected.push(values[best.unwrap()]);
                }
            }
            assert_eq!(y.inner().into_data().try_to_vec::<f32>().unwrap(), expected);
            for (found, expected) in gradient.iter().zip(expected_gradient) {
                assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
            }
        }
    }

    #[test]
    fn pooling_keeps_what_is_not_a_number() {
        let device = Device::flex();
        for at in 0..2 {
            let mut values = [1.0; 2];
            values[at] = f32::NAN;
            let x = Tensor::<1>::from_floats(values, &device).reshape([1, 1, 2, 1, 1]);
            let y = max_pool3d(x, MaxPoolOptions::new([2, 1, 1]));
            assert!(y.into_scalar::<f32>().is_nan());
        }
    }
}
