//! Networks of volumes on volumes of any size.

use burn::tensor::{Tensor, TensorData};

use crate::{
    PredictError,
    tiles::{bell, starts},
};

/// Windows that a volume is cut into for a network.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowOptions {
    /// Depth, height and width of what the network sees at once. A volume that is smaller along an axis is filled up with zeros at its end, as
    /// the patches of a training are.
    pub patch: [usize; 3],
    /// Least share of a window that its neighbor along each axis sees too, in `[0, 0.95]`.
    pub overlap: f32,
}

impl Default for WindowOptions {
    /// Cubes of 96 voxels that share half of each axis, as nnU-Net's.
    fn default() -> Self {
        Self { patch: [96; 3], overlap: 0.5 }
    }
}

/// Most voxels of a window, as of a patch in training.
const MOST: usize = 1 << 28;

/// Computes a network's logits of a volume window by window. Where windows overlap, logits are averaged, each weighed by a Gaussian
/// around its window's middle with a standard deviation of an eighth of the window, as nnU-Net and MONAI do (Isensee et al. 2021,
/// <https://doi.org/10.1038/s41592-020-01008-z>). In memory are the volume, the sums of the logits and one window.
///
/// # Shapes
/// - `x`: `[batch, channels, depth, height, width]`
/// - `forward`: `[batch, channels, d, h, w]` → `[batch, classes, d, h, w]`
/// - output: `[batch, classes, depth, height, width]`
///
/// # Errors
/// [`PredictError::Option`] if the options are out of range, or the network's logits do not have the window's size.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln::{WindowOptions, models::volumes::UNet3dConfig, segment_windows};
///
/// # fn main() -> Result<(), segkiln::PredictError> {
/// let device = Device::default();
/// let network = UNet3dConfig::new(1, 2).with_base(4).with_depth(2).init(&device);
/// let options = WindowOptions { patch: [8, 16, 16], ..WindowOptions::default() };
/// let logits = segment_windows(Tensor::ones([1, 1, 10, 30, 20], &device), &options, |x| network.forward(x))?;
/// assert_eq!(logits.dims(), [1, 2, 10, 30, 20]);
/// # Ok(())
/// # }
/// ```
pub fn segment_windows(
    x: Tensor<5>,
    options: &WindowOptions,
    mut forward: impl FnMut(Tensor<5>) -> Tensor<5>,
) -> Result<Tensor<5>, PredictError> {
    let WindowOptions { patch, overlap } = options;
    if patch.contains(&0) {
        return Err(PredictError::option("patch", format!("{patch:?} has no voxels; all sides must be at least 1")));
    }
    if patch.iter().try_fold(1usize, |voxels, side| voxels.checked_mul(*side)).is_none_or(|voxels| voxels > MOST) {
        return Err(PredictError::option("patch", format!("{patch:?} has more than 2^28 voxels")));
    }
    if !(0.0..=0.95).contains(overlap) {
        return Err(PredictError::option("overlap", format!("must be from 0 to 0.95, is {overlap}")));
    }
    let [batch, channels, depth, height, width] = x.dims();
    if x.dims().contains(&0) {
        return Err(PredictError::option("x", format!("{:?} has no voxels", x.dims())));
    }
    let (size, sides) = ([depth, height, width], *patch);
    if (0..3).any(|axis| size[axis] < sides[axis]) {
        let [d, h, w] = [0, 1, 2].map(|axis| size[axis].max(sides[axis]));
        let filled = Tensor::zeros([batch, channels, d, h, w], &x.device());
        let part = [0..batch, 0..channels, 0..depth, 0..height, 0..width];
        let logits = segment_windows(filled.slice_assign(part.clone(), x), options, forward)?;
        let classes = logits.dims()[1];
        let [_, _, depth, height, width] = part;
        return Ok(logits.slice([0..batch, 0..classes, depth, height, width]));
    }
    let places = [0, 1, 2].map(|axis| starts(size[axis], sides[axis], *overlap));
    let bells = sides.map(bell);
    let mut sums: Vec<f32> = Vec::new();
    let mut classes = 0;
    for [z, y, left] in corners(&places) {
        let axes = [0..batch, 0..channels, z..z + sides[0], y..y + sides[1], left..left + sides[2]];
        let logits = forward(x.clone().slice(axes));
        let [found_batch, found_classes, found @ ..] = logits.dims();
        if found_batch != batch || found != sides {
            let reason = format!("returns logits of {found:?} for a window of {sides:?}; they must be of its size");
            return Err(PredictError::option("forward", reason));
        }
        if sums.is_empty() {
            classes = found_classes;
            sums = vec![0.0; batch * classes * depth * height * width];
        }
        let logits = logits.into_data().convert::<f32>();
        let values = logits.as_slice::<f32>().expect("f32 values");
        for (index, row) in values.chunks_exact(sides[2]).enumerate() {
            let (map, slice, line) = (index / sides[1] / sides[0], index / sides[1] % sides[0], index % sides[1]);
            let weight = bells[0][slice] * bells[1][line];
            let start = ((map * depth + z + slice) * height + y + line) * width + left;
            for ((sum, value), bell) in sums[start..start + sides[2]].iter_mut().zip(row).zip(&bells[2]) {
                *sum += value * weight * bell;
            }
        }
    }
    // The sums of the windows' weights are products of those along each axis.
    let weights = [0, 1, 2].map(|axis| {
        let mut total = vec![0.0; size[axis]];
        for start in &places[axis] {
            for (total, weight) in total[*start..].iter_mut().zip(&bells[axis]) {
                *total += weight;
            }
        }
        total
    });
    for (index, row) in sums.chunks_exact_mut(width).enumerate() {
        let weight = weights[0][index / height % depth] * weights[1][index % height];
        for (sum, along) in row.iter_mut().zip(&weights[2]) {
            *sum /= weight * along;
        }
    }
    let shape = [batch, classes, depth, height, width];
    Ok(Tensor::from_data(TensorData::new(sums, shape), &x.device()))
}

/// Returns the first voxels of all windows.
fn corners(places: &[Vec<usize>; 3]) -> Vec<[usize; 3]> {
    let [slices, rows, columns] = places;
    let mut corners = Vec::with_capacity(slices.len() * rows.len() * columns.len());
    for slice in slices {
        for row in rows {
            corners.extend(columns.iter().map(|column| [*slice, *row, *column]));
        }
    }
    corners
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    /// Outputs that do not depend on neighboring voxels are the same in each window.
    #[test]
    fn windows_join_without_seams() {
        let device = Device::default();
        for (size, patch, overlap) in
            [([9, 20, 13], [4, 8, 8], 0.5), ([3, 7, 7], [8, 8, 8], 0.5), ([8, 8, 9], [4, 4, 4], 0.0)]
        {
            let x = Tensor::<5>::random([2, 3, size[0], size[1], size[2]], Distribution::Default, &device);
            let network = |x: Tensor<5>| Tensor::cat(vec![x.clone().mul_scalar(2.0), x.sum_dim(1)], 1);
            let whole = network(x.clone());
            let options = WindowOptions { patch, overlap };
            let mut count = 0;
            let joined = segment_windows(x, &options, |x| {
                count += 1;
                network(x)
            });
            assert!(count > 1 || patch[0] >= size[0]);
            joined.unwrap().into_data().assert_approx_eq::<f32>(&whole.into_data(), Tolerance::absolute(1e-5));
        }
    }

    /// By the definition, along one axis: two windows of 4 that share 2.
    #[test]
    fn overlapping_windows_are_weighed() {
        let device = Device::default();
        let options = WindowOptions { patch: [1, 1, 4], overlap: 0.5 };
        let mut values = [1.0, 3.0].into_iter();
        let joined = segment_windows(Tensor::zeros([1, 1, 1, 1, 6], &device), &options, |x| {
            x.add_scalar(values.next().unwrap())
        });
        let bell = [-1.5f32, -0.5, 0.5, 1.5].map(|x| (-0.5 * (x / 0.5).powi(2)).exp());
        let between = |a: f32, b: f32| (a + 3.0 * b) / (a + b);
        let expected = [1.0, 1.0, between(bell[2], bell[0]), between(bell[3], bell[1]), 3.0, 3.0];
        let expected = TensorData::new(expected.to_vec(), [1, 1, 1, 1, 6]);
        joined.unwrap().into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    }

    /// The network sees the window that it learned from, of zeros behind the volume.
    #[test]
    fn small_volumes_are_filled_up() {
        let device = Device::default();
        let x = Tensor::<5>::random([1, 2, 3, 9, 5], Distribution::Default, &device);
        let options = WindowOptions { patch: [4, 6, 8], overlap: 0.5 };
        let joined = segment_windows(x.clone(), &options, |x| {
            assert_eq!(x.dims(), [1, 2, 4, 6, 8]);
            let behind = x.clone().narrow(2, 3, 1).abs().sum() + x.clone().narrow(4, 5, 3).abs().sum();
            assert_eq!(behind.into_scalar::<f32>(), 0.0);
            x
        });
        joined.unwrap().into_data().assert_approx_eq::<f32>(&x.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn names_what_is_out_of_range() {
        let x = || Tensor::<5>::zeros([1, 1, 4, 4, 4], &Device::default());
        let error = |patch, overlap, side: usize| {
            let forward = |x: Tensor<5>| x.narrow(4, 0, side);
            segment_windows(x(), &WindowOptions { patch, overlap }, forward).unwrap_err().to_string()
        };
        assert!(error([4, 0, 4], 0.5, 4).contains("patch"));
        assert!(
            error([usize::MAX, 2, 2], 0.5, 4).contains("2^28") && error([1 << 20, 1 << 20, 1], 0.5, 4).contains("2^28")
        );
        assert!(error([4; 3], 1.0, 4).contains("overlap"));
        let empty =
            segment_windows(Tensor::zeros([1, 1, 0, 4, 4], &Device::default()), &WindowOptions::default(), |x| x);
        assert!(empty.unwrap_err().to_string().contains("no voxels"));
        assert!(error([4; 3], 0.5, 3).contains("[4, 4, 3]"));
    }
}
