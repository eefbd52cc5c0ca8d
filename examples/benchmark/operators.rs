//! Cases of single operators.

use burn::tensor::{Device, Distribution, Tensor, ops::ConvOptions};
use segkiln::ops::{RoiAlignOptions, conv2d, nms, roi_align};

use crate::{Case, uniform};

/// Boxes of 1 to 101 pixels a side on 1000×1000, at an overlap of a half.
pub fn suppression(count: usize, device: &Device) -> Case {
    let (corners, sizes) = (uniform(2 * count, 1000.0, device), uniform(2 * count, 100.0, device));
    let boxes: Vec<[f32; 4]> = (0..2 * count)
        .step_by(2)
        .map(|i| [corners[i], corners[i + 1], corners[i] + sizes[i] + 1.0, corners[i + 1] + sizes[i + 1] + 1.0])
        .collect();
    let scores = uniform(count, 1.0, device);
    Box::new(move || {
        std::hint::black_box(nms(&boxes, &scores, 0.5));
    })
}

/// 1000 boxes of 4 to 184 pixels a side, as 7×7 bins of 2×2 points, of 256 channels at a quarter of an image of 800×1088.
pub fn regions(backward: bool, device: &Device) -> Case {
    let count = 1000;
    let x = Tensor::<4>::random([1, 256, 200, 272], Distribution::Normal(0.0, 1.0), device);
    let uniform = |most: f64| Tensor::<2>::random([count, 1], Distribution::Uniform(0.0, most), device);
    let corner = Tensor::cat(vec![uniform(900.0), uniform(600.0)], 1);
    let size = Tensor::cat(vec![uniform(180.0), uniform(180.0)], 1) + 4.0;
    let rois = Tensor::cat(vec![Tensor::zeros([count, 1], device), corner.clone(), corner + size], 1);
    let options = RoiAlignOptions { size: [7, 7], scale: 0.25, sampling_ratio: Some(2), aligned: false };
    if !backward {
        return Box::new(move || {
            roi_align(x.clone(), rois.clone(), options).into_data();
        });
    }
    let (x, rois) = (x.autodiff(), rois.autodiff());
    Box::new(move || {
        let x = x.clone().require_grad();
        let mut gradients = roi_align(x.clone(), rois.clone(), options).sum().backward();
        x.grad_remove(&mut gradients).expect("it was required").into_data();
    })
}

/// One layer on one square image: channels in and out, kernel, stride, dilation, groups, side; padding is
/// `dilation · (kernel / 2)`.
pub struct Convolution {
    sizes: [usize; 7],
    backward: bool,
}

impl Convolution {
    /// None if the name has another form or its numbers do not fit.
    pub fn parse(name: &str) -> Option<Self> {
        let (name, backward) = match name.strip_suffix("_backward") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let mut fields = name.strip_prefix("conv_")?.split('_');
        let mut sizes = [0usize; 7];
        for (size, letter) in sizes.iter_mut().zip(["i", "o", "k", "s", "d", "g", "n"]) {
            *size = fields.next()?.strip_prefix(letter)?.parse().ok().filter(|size| (1..=1 << 14).contains(size))?;
        }
        let [channels_in, channels_out, kernel, _, dilation, groups, side] = sizes;
        let fits = channels_in.is_multiple_of(groups)
            && channels_out.is_multiple_of(groups)
            && dilation * (kernel - 1) < side + 2 * dilation * (kernel / 2);
        (fields.next().is_none() && fits).then_some(Self { sizes, backward })
    }

    pub fn case(&self, device: &Device) -> Case {
        let [channels_in, channels_out, kernel, stride, dilation, groups, side] = self.sizes;
        let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device);
        let x = random([1, channels_in, side, side]);
        let weight = random([channels_out, channels_in / groups, kernel, kernel]);
        let padding = dilation * (kernel / 2);
        let options = ConvOptions::new([stride; 2], [padding; 2], [dilation; 2], groups);
        if !self.backward {
            return Box::new(move || {
                conv2d(x.clone(), weight.clone(), None, options.clone()).into_data();
            });
        }
        let (x, weight) = (x.autodiff(), weight.autodiff());
        Box::new(move || {
            let (x, weight) = (x.clone().require_grad(), weight.clone().require_grad());
            let mut gradients = conv2d(x.clone(), weight.clone(), None, options.clone()).sum().backward();
            for gradient in [x.grad_remove(&mut gradients), weight.grad_remove(&mut gradients)] {
                gradient.expect("it was required").into_data();
            }
        })
    }
}
