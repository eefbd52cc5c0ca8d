//! Layers of all shapes, with the methods that compute them.

use burn::tensor::ops::ConvOptions;

use super::options;
use crate::conv2d::flex::plan::{
    Method::{self, *},
    Order::*,
};

/// A layer, and the methods that compute it.
#[derive(Debug)]
pub(super) struct Layer {
    pub name: &'static str,
    pub x: [usize; 4],
    pub weight: [usize; 4],
    pub options: ConvOptions<2>,
    /// Methods of the forward pass and of the gradients of input and weight, with registers of 16 values.
    pub methods: [Method; 3],
    /// Methods with narrower registers.
    pub narrow: [Method; 3],
}

fn layer(
    name: &'static str,
    x: [usize; 4],
    weight: [usize; 4],
    options: ConvOptions<2>,
    methods: [Method; 3],
) -> Layer {
    Layer { name, x, weight, options, methods, narrow: methods }
}

impl Layer {
    fn narrow(self, narrow: [Method; 3]) -> Self {
        Self { narrow, ..self }
    }

    /// Multiplications of the forward pass.
    pub fn products(&self) -> usize {
        self.x[0] * self.x[2] * self.x[3] * self.weight.iter().product::<usize>()
    }
}

/// Layers that reach every method by every pass: kernels of one to seven, odd and one-pixel sizes, batches, strides, dilations,
/// groups, padding beyond the kernel, more channels than a task has.
pub(super) fn layers() -> Vec<Layer> {
    vec![
        layer(
            "3x3, few channels, two images",
            [2, 3, 9, 11],
            [4, 3, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, seven output channels",
            [1, 40, 6, 5],
            [7, 40, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "1x1, three small images",
            [3, 5, 7, 6],
            [4, 5, 1, 1],
            options([1, 1], [0, 0], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "7x7, stride 2, an image",
            [1, 2, 12, 13],
            [3, 2, 7, 7],
            options([2, 2], [3, 3], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, dilation 2, few channels",
            [1, 3, 10, 9],
            [2, 3, 3, 3],
            options([1, 1], [2, 2], [2, 2], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, unequal strides and dilations",
            [1, 3, 10, 9],
            [2, 3, 3, 3],
            options([3, 2], [0, 1], [1, 2], 1),
            [ImplicitGemm; 3],
        ),
        layer("3x3, two groups", [2, 4, 5, 5], [6, 2, 3, 3], options([1, 1], [1, 1], [1, 1], 2), [ImplicitGemm; 3]),
        layer("3x3 on one pixel", [1, 1, 1, 1], [2, 1, 3, 3], options([1, 1], [1, 1], [1, 1], 1), [ImplicitGemm; 3]),
        layer(
            "3x5, long rows",
            [1, 2, 4, 300],
            [3, 2, 3, 5],
            options([1, 1], [1, 2], [1, 1], 1),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "padding beyond the kernel",
            [1, 2, 3, 4],
            [2, 2, 2, 3],
            options([1, 1], [4, 5], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer("1x1, stride 2", [2, 2, 8, 8], [2, 2, 1, 1], options([2, 2], [0, 0], [1, 1], 1), [ImplicitGemm; 3]),
        layer(
            "3x3, three groups, unequal strides",
            [2, 12, 9, 20],
            [18, 4, 3, 3],
            options([2, 1], [1, 1], [1, 1], 3),
            [ImplicitGemm; 3],
        ),
        layer(
            "depthwise 3x3",
            [1, 5, 11, 38],
            [5, 1, 3, 3],
            options([1, 1], [1, 1], [1, 1], 5),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer(
            "depthwise 5x5, stride 2",
            [2, 6, 23, 71],
            [6, 1, 5, 5],
            options([2, 2], [2, 2], [1, 1], 6),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer(
            "two filters a channel, unequal strides",
            [1, 4, 9, 10],
            [8, 1, 3, 3],
            options([1, 2], [2, 0], [2, 1], 4),
            [ImplicitGemm; 3],
        ),
        layer(
            "1x1, strides 3 and 2",
            [1, 9, 17, 33],
            [10, 9, 1, 1],
            options([3, 2], [0, 0], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, channels that fill no panel",
            [2, 10, 15, 37],
            [9, 10, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [Winograd(Tiles), Winograd(Tiles), WinogradAdjoint],
        ),
        layer(
            "3x3, dilations 4 and 3",
            [1, 10, 26, 30],
            [9, 10, 3, 3],
            options([1, 1], [4, 3], [4, 3], 1),
            [Winograd(Tiles), Winograd(Tiles), WinogradAdjoint],
        ),
        layer(
            "3x3, stride 2, channels that fill no panel",
            [1, 70, 13, 21],
            [66, 70, 3, 3],
            options([2, 2], [1, 1], [1, 1], 1),
            [Winograd(Channels), ImplicitGemm, ImplicitGemm],
        ),
        layer(
            "3x3, dilation beyond the image",
            [1, 8, 6, 5],
            [9, 8, 3, 3],
            options([1, 1], [7, 9], [7, 9], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "depthwise 3x3 on nine pixels",
            [1, 2, 3, 3],
            [2, 1, 3, 3],
            options([1, 1], [1, 1], [1, 1], 2),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer(
            "3x3 without padding, a large image",
            [1, 3, 200, 180],
            [5, 3, 3, 3],
            options([1, 1], [0, 0], [1, 1], 1),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "3x3, few tiles",
            [1, 24, 7, 9],
            [40, 24, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [Winograd(Channels), Winograd(Channels), WinogradAdjoint],
        ),
        layer(
            "3x3, kernels beyond any cache",
            [1, 350, 45, 47],
            [345, 350, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [Winograd(Points), Winograd(Points), WinogradAdjoint],
        ),
        layer(
            "depthwise 5x5",
            [1, 6, 13, 37],
            [6, 1, 5, 5],
            options([1, 1], [2, 2], [1, 1], 6),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer(
            "depthwise 7x7",
            [2, 4, 20, 18],
            [4, 1, 7, 7],
            options([1, 1], [3, 3], [1, 1], 4),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer(
            "depthwise 3x3, dilation 12",
            [1, 4, 30, 29],
            [4, 1, 3, 3],
            options([1, 1], [12, 12], [12, 12], 4),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer(
            "depthwise 3x3, stride 2",
            [1, 3, 40, 53],
            [3, 1, 3, 3],
            options([2, 2], [1, 1], [1, 1], 3),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer(
            "depthwise 3x3, strides 3 and 4",
            [1, 3, 8, 9],
            [3, 1, 3, 3],
            options([3, 4], [0, 2], [2, 1], 3),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer("3x3, 32 groups", [2, 64, 9, 70], [64, 2, 3, 3], options([1, 1], [1, 1], [1, 1], 32), [ImplicitGemm; 3]),
        layer(
            "4x4, stride 4, patches",
            [1, 3, 33, 40],
            [9, 3, 4, 4],
            options([4, 4], [0, 0], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer("1x1 with padding", [1, 4, 6, 21], [9, 4, 1, 1], options([1, 1], [2, 1], [1, 1], 1), [ImplicitGemm; 3]),
        layer(
            "3x3, several chunks of output channels",
            [1, 64, 50, 50],
            [100, 64, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [Winograd(Tiles), Winograd(Tiles), WinogradAdjoint],
        ),
        layer(
            "3x3, dilations 5 and 8",
            [2, 9, 23, 31],
            [10, 9, 3, 3],
            options([1, 1], [5, 8], [5, 8], 1),
            [WinogradGrids, WinogradGrids, WinogradAdjoint],
        ),
        layer(
            "3x3, large dilations, two chunks of input channels",
            [1, 260, 13, 14],
            [130, 260, 3, 3],
            options([1, 1], [5, 6], [5, 6], 1),
            [WinogradGrids, WinogradGrids, WinogradAdjoint],
        ),
        layer(
            "3x3, large dilations, two images",
            [2, 16, 9, 12],
            [12, 16, 3, 3],
            options([1, 1], [5, 7], [5, 7], 1),
            [WinogradGrids, WinogradGrids, ImplicitGemm],
        ),
        layer(
            "3x3, large dilations, little padding",
            [1, 16, 19, 22],
            [12, 16, 3, 3],
            options([1, 1], [1, 2], [7, 6], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, dilation 4, unequal padding",
            [1, 8, 24, 22],
            [9, 8, 3, 3],
            ConvOptions::new_with_padding([1, 1], [(4, 4), (3, 5)], [4, 4], 1),
            [WinogradGrids, WinogradGrids, WinogradAdjoint],
        ),
        layer(
            "7x7, stride 2, many output channels",
            [2, 3, 21, 63],
            [70, 3, 7, 7],
            options([2, 2], [3, 3], [1, 1], 1),
            [PaddedCopy, InPlace, ImplicitGemm],
        ),
        layer(
            "3x3, rows of several blocks",
            [1, 2, 6, 600],
            [9, 2, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "2x3, all options unequal",
            [2, 2, 9, 200],
            [3, 2, 2, 3],
            options([2, 3], [1, 4], [3, 2], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, forty rows of padding",
            [1, 1, 3, 32],
            [2, 1, 3, 3],
            options([1, 1], [40, 1], [1, 1], 1),
            [InPlace, ImplicitGemm, ImplicitGemm],
        ),
        layer(
            "3x3, unequal padding",
            [1, 9, 11, 20],
            [8, 9, 3, 3],
            ConvOptions::new_with_padding([1, 1], [(0, 2), (3, 1)], [1, 1], 1),
            [Winograd(Tiles), ImplicitGemm, WinogradAdjoint],
        ),
        layer(
            "3x2, stride and unequal padding",
            [2, 3, 12, 9],
            [5, 3, 3, 2],
            ConvOptions::new_with_padding([2, 3], [(1, 0), (0, 4)], [1, 2], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "depthwise 3x3, unequal stride and padding",
            [1, 4, 13, 22],
            [4, 1, 3, 3],
            ConvOptions::new_with_padding([2, 1], [(0, 1), (2, 0)], [1, 1], 4),
            [Depthwise, Depthwise, Depthwise],
        ),
        layer(
            "depthwise 3x3, dilation 400",
            [1, 2, 9, 9],
            [2, 1, 3, 3],
            options([1, 1], [400, 400], [400, 400], 2),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, dilations 300 and 500",
            [1, 2, 16, 16],
            [3, 2, 3, 3],
            options([1, 1], [300, 500], [300, 500], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, strides 9 and 5, large padding",
            [1, 2, 7, 32],
            [3, 2, 3, 3],
            options([9, 5], [40, 70], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, stride 2, wide rows",
            [2, 9, 20, 150],
            [10, 9, 3, 3],
            options([2, 2], [1, 1], [1, 1], 1),
            [Winograd(Tiles), ImplicitGemm, ImplicitGemm],
        )
        .narrow([Winograd(Tiles), InPlace, ImplicitGemm]),
        layer(
            "3x3, stride 2, unequal padding",
            [3, 8, 9, 10],
            [9, 8, 3, 3],
            ConvOptions::new_with_padding([2, 2], [(0, 1), (2, 3)], [1, 1], 1),
            [Winograd(Tiles), ImplicitGemm, ImplicitGemm],
        ),
        layer(
            "3x3, stride 2, kernels beyond any cache",
            [1, 420, 46, 47],
            [410, 420, 3, 3],
            options([2, 2], [1, 0], [1, 1], 1),
            [Winograd(Points), ImplicitGemm, ImplicitGemm],
        ),
        layer(
            "3x3, stride 2, few tiles",
            [1, 40, 18, 19],
            [150, 40, 3, 3],
            options([2, 2], [1, 1], [1, 1], 1),
            [Winograd(Channels), ImplicitGemm, ImplicitGemm],
        ),
        layer(
            "3x3, stride 2, on two pixels",
            [1, 8, 1, 2],
            [9, 8, 3, 3],
            options([2, 2], [1, 1], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "3x3, two groups, several bands",
            [2, 8, 70, 64],
            [20, 4, 3, 3],
            options([1, 1], [1, 1], [1, 1], 2),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "5x5, stride 2, two groups",
            [1, 6, 41, 60],
            [4, 3, 5, 5],
            options([2, 2], [2, 2], [1, 1], 2),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "3x2, two groups, all options unequal",
            [2, 4, 20, 46],
            [6, 2, 3, 2],
            ConvOptions::new_with_padding([1, 3], [(1, 0), (2, 1)], [2, 1], 2),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "two filters a channel, wide padding",
            [1, 4, 9, 16],
            [8, 1, 3, 3],
            options([1, 1], [2, 3], [1, 1], 4),
            [ImplicitGemm, InPlace, ImplicitGemm],
        ),
        layer(
            "3x3, three output channels of seventy",
            [1, 70, 9, 250],
            [3, 70, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [InPlace, ImplicitGemm, ImplicitGemm],
        ),
        layer(
            "3x3, stride 2, two input channels",
            [1, 2, 30, 250],
            [70, 2, 3, 3],
            options([2, 2], [1, 1], [1, 1], 1),
            [PaddedCopy, InPlace, ImplicitGemm],
        ),
        layer(
            "3x4, stride 3, two groups",
            [2, 6, 20, 46],
            [10, 3, 3, 4],
            options([3, 3], [1, 2], [1, 1], 2),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "3x3, stride along rows only, dilations",
            [1, 3, 33, 62],
            [9, 3, 3, 3],
            options([1, 2], [2, 3], [2, 3], 1),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "5x5, wide rows",
            [1, 5, 24, 63],
            [40, 5, 5, 5],
            options([1, 1], [2, 2], [1, 1], 1),
            [PaddedCopy, InPlace, ImplicitGemm],
        )
        .narrow([InPlace, InPlace, ImplicitGemm]),
        layer(
            "4x3, stride 2, few output channels",
            [2, 20, 14, 62],
            [6, 20, 4, 3],
            options([2, 2], [1, 1], [1, 1], 1),
            [InPlace, ImplicitGemm, ImplicitGemm],
        )
        .narrow([InPlace, InPlace, ImplicitGemm]),
        layer(
            "1x1, planes that fill no register",
            [2, 3, 91, 97],
            [5, 3, 1, 1],
            options([1, 1], [0, 0], [1, 1], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "small: Winograd",
            [1, 8, 2, 2],
            [8, 8, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [Winograd(Tiles), Winograd(Tiles), WinogradAdjoint],
        )
        .narrow([Winograd(Channels), Winograd(Channels), WinogradAdjoint]),
        layer(
            "small: large dilation",
            [1, 8, 2, 3],
            [8, 8, 3, 3],
            options([1, 1], [3, 3], [3, 3], 1),
            [ImplicitGemm; 3],
        ),
        layer(
            "small: one output channel",
            [1, 2, 2, 15],
            [1, 2, 3, 3],
            options([1, 1], [1, 1], [1, 1], 1),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "small: stride 2, one input channel",
            [1, 1, 3, 30],
            [2, 1, 3, 3],
            options([2, 2], [1, 1], [1, 1], 1),
            [InPlace, InPlace, ImplicitGemm],
        ),
        layer(
            "small: one row",
            [1, 1, 1, 16],
            [65, 1, 1, 2],
            options([1, 1], [0, 0], [1, 1], 1),
            [PaddedCopy, InPlace, ImplicitGemm],
        ),
    ]
}
