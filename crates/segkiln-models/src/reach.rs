//! How far a network sees: which pixels of the input an output depends on.

use burn::tensor::{Bool, Device, Tensor, ops::MaxPoolOptions};
use segkiln_ops::Joined;

use crate::{precision::InferenceSession, segmentation::SegmentationNetwork};

/// Sides of the images that a network is probed with; the second where the first is too small.
const LENGTHS: [usize; 2] = [1024, 4096];
/// Their other side: enough for networks that halve it five times.
const BREADTH: usize = 64;

/// Pixels to each side of an output that it depends on: half of the receptive field, rounded up. None if an output depends on the
/// whole image, as with global pooling, attention over all tokens or instance norm, or on more than some 2,000 pixels to a
/// side.
///
/// The network is computed on images that differ from another in one half; where its outputs differ, they depend on that
/// half. Layers of [`crate::layers`] pass on whether anything that they read differs, whatever their weights are. Of other layers the
/// values are compared, which with weights of 0 may show less than the field.
pub fn reach<M: SegmentationNetwork>(network: &M, in_channels: usize, device: &Device) -> Option<usize> {
    let session = InferenceSession::reach();
    let mut most = 0;
    for axis in [2, 3] {
        let found = LENGTHS.iter().find_map(|length| {
            let mut shape = [1, in_channels, BREADTH, BREADTH];
            shape[axis] = *length;
            let zeros = Tensor::<4>::zeros(shape, device);
            // The pixel at the border is the first, or the last, of all blocks that strides make.
            let middle = length / 2;
            let part = |first: usize, count: usize| {
                let mut ranges = shape.map(|side| 0..side);
                ranges[axis] = first..first + count;
                zeros.clone().slice_assign(ranges.clone(), zeros.clone().slice(ranges) + 1.0)
            };
            let batch = Tensor::cat(vec![part(0, middle + 1), part(middle - 1, length - middle + 1), zeros.clone()], 0);
            let output = session.run(|| network.forward(batch));
            let changed = differences(&output);
            let others = [1, if axis == 2 { 3 } else { 2 }];
            let changed = others.into_iter().fold(changed.int(), |changed, axis| changed.max_dim(axis));
            let changed: Vec<i64> = changed.into_data().iter().collect();
            let (before, after) = changed.split_at(*length);
            let last = before.iter().rposition(|changed| *changed > 0)?;
            let first = after.iter().position(|changed| *changed > 0)?;
            // Changes that reach the end of the image may go on.
            (last + 1 < *length && first > 0)
                .then(|| last.saturating_sub(middle).max((middle - 1).saturating_sub(first)))
        })?;
        most = most.max(found);
    }
    Some(most)
}

/// Pixels in which the images of a batch but the last differ from the last.
fn differences(x: &Tensor<4>) -> Tensor<4, Bool> {
    let last = x.dims()[0] - 1;
    let reference = x.clone().narrow(0, last, 1);
    x.clone().narrow(0, 0, last).not_equal(reference.repeat_dim(0, last))
}

/// Stands for a convolution: 1 in all output channels where anything that is read differs from the last image, whose output is 0.
pub(crate) fn convolve(x: &Joined, channels: usize, options: MaxPoolOptions<2>) -> Tensor<4> {
    let changed = x.tensors().map(|x| differences(x).float().max_dim(1)).reduce(|a, b| a.max_pair(b));
    spread(segkiln_ops::max_pool2d(changed.expect("there is a tensor"), options), channels)
}

/// Stands for a transposed convolution whose kernel is its stride.
pub(crate) fn convolve_transposed(x: &Tensor<4>, channels: usize, stride: [usize; 2]) -> Tensor<4> {
    let changed = differences(x).float().max_dim(1);
    let [count, _, height, width] = changed.dims();
    let [rows, columns] = stride;
    let wide = changed.reshape([count, 1, height * width, 1]).repeat_dim(3, columns);
    let rows_of = wide.reshape([count, height, 1, width * columns]).repeat_dim(2, rows);
    spread(rows_of.reshape([count, 1, height * rows, width * columns]), channels)
}

/// All channels alike, and an image of zeros behind the others.
fn spread(changed: Tensor<4>, channels: usize) -> Tensor<4> {
    let changed = changed.repeat_dim(1, channels);
    let zeros = changed.clone().narrow(0, 0, 1).zeros_like();
    Tensor::cat(vec![changed, zeros], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, SegmentationNetworkConfig, unet::UNetConfig};

    #[test]
    fn u_nets_see_as_far_as_their_layers_say() {
        let device = Device::default();
        // Depth 1: two 3×3 on each side of one level, and two at half the size: 2 + 2 + 2 · 2, and a pixel for the pooling.
        for (depth, expected) in [(1, 9), (2, 21)] {
            let unet = UNetConfig::new(1, 2).with_base(2).with_depth(depth).init(&device);
            assert_eq!(reach(&unet, 1, &device), Some(expected), "depth {depth}");
        }
    }

    #[test]
    fn an_image_level_branch_sees_everything() {
        let device = Device::default();
        for name in ["deeplabv3_resnet18", "pspnet_resnet18"] {
            let network = ModelConfig::by_name(name, 3).unwrap().init(&device);
            assert_eq!(reach(&network, 3, &device), None, "{name}");
        }
    }
}
