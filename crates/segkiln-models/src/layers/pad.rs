use burn::tensor::{Int, Tensor};

use crate::precision::full;

/// Pads the last two axes by mirroring without repeating the border pixel, as often as the padding needs; a side of one
/// pixel is repeated.
///
/// # Shapes
/// `[n, c, h, w]` → `[n, c, top + h + bottom, left + w + right]`
pub fn mirror_pad(x: Tensor<4>, [top, bottom]: [usize; 2], [left, right]: [usize; 2]) -> Tensor<4> {
    let x = mirror_axis(x, 2, top, bottom);
    mirror_axis(x, 3, left, right)
}

fn mirror_axis(x: Tensor<4>, axis: usize, before: usize, after: usize) -> Tensor<4> {
    if before + after == 0 {
        return x;
    }
    let length = x.dims()[axis] as i64;
    let period = 2 * (length - 1).max(1);
    let indices: Vec<i64> = (-(before as i64)..length + after as i64)
        .map(|index| {
            let folded = index.rem_euclid(period);
            folded.min(period - folded).min(length - 1)
        })
        .collect();
    let indices = Tensor::<1, Int>::from_ints(indices.as_slice(), &x.device());
    x.select(axis, indices)
}

/// Mirrors the lower and right border so that height and width are multiples of `multiple`. Nothing is copied where they
/// are already.
pub fn pad_to_multiple(x: Tensor<4>, multiple: usize) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let missing = |side: usize| side.next_multiple_of(multiple) - side;
    mirror_pad(x, [0, missing(height)], [0, missing(width)])
}

/// Mirrors the lower and right border so that height and width are at least `side`. Nothing is copied where they are
/// already.
pub fn pad_to_least(x: Tensor<4>, side: usize) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    mirror_pad(x, [0, side.saturating_sub(height)], [0, side.saturating_sub(width)])
}

/// Cuts the last two axes to `size`, the same from both sides; of an odd rest the larger half goes from the far side.
///
/// # Panics
/// If `x` is smaller than `size`.
pub fn center_crop(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [n, c, height, width] = x.dims();
    if [height, width] == size {
        return x;
    }
    assert!(height >= size[0] && width >= size[1], "cannot crop {height}x{width} to {}x{}", size[0], size[1]);
    let (top, left) = ((height - size[0]) / 2, (width - size[1]) / 2);
    full(x).slice([0..n, 0..c, top..top + size[0], left..left + size[1]])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn row(values: &[f32]) -> Tensor<4> {
        Tensor::<1>::from_floats(values, &Device::default()).reshape([1, 1, 1, values.len()])
    }

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn mirroring_goes_on_past_the_image() {
        assert_eq!(values(mirror_pad(row(&[1., 2., 3.]), [0, 0], [2, 1])), [3., 2., 1., 2., 3., 2.]);
        assert_eq!(values(mirror_pad(row(&[1., 2.]), [0, 0], [3, 3])), [2., 1., 2., 1., 2., 1., 2., 1.]);
        assert_eq!(values(mirror_pad(row(&[7.]), [0, 0], [1, 2])), [7.; 4]);
        assert_eq!(mirror_pad(row(&[1., 2.]), [4, 3], [0, 0]).dims(), [1, 1, 8, 2]);
    }

    #[test]
    fn multiples_are_reached_and_kept() {
        assert_eq!(pad_to_multiple(row(&[0.; 17]), 8).dims(), [1, 1, 8, 24]);
        assert_eq!(pad_to_multiple(Tensor::zeros([2, 3, 16, 8], &Device::default()), 8).dims(), [2, 3, 16, 8]);
        assert_eq!(pad_to_least(row(&[0.; 17]), 4).dims(), [1, 1, 4, 17]);
    }

    #[test]
    fn crop_takes_the_center() {
        assert_eq!(values(center_crop(row(&[1., 2., 3., 4., 5.]), [1, 3])), [2., 3., 4.]);
        assert_eq!(values(center_crop(row(&[1., 2., 3., 4.]), [1, 1])), [2.]);
    }
}
