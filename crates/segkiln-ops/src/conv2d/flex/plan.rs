//! The decision which method computes a convolution or one of its gradients.
//!
//! [`Plan::new`] is the only place that decides; methods tell it what they can do (`has_…`, `fits_…`) and how many products they
//! need. With `SEGKILN_EXPLAIN_PLAN=1` in the environment each distinct plan is printed once on stderr.

use std::{
    collections::HashSet,
    fmt,
    sync::{LazyLock, Mutex, PoisonError},
};

use super::{
    depthwise,
    geometry::{Channels, Geometry},
    in_place, padded_copy, winograd,
};
use crate::cpu::{matrix::RegisterSizes, simd::MOST_LANES};

/// Fewest input and output channels for Winograd's transforms: of fewer, the products saved do not pay for the transforms. By
/// counts of both; not measured anew since kernels are transformed in registers.
const WINOGRAD_CHANNELS: usize = 8;

/// A convolution or one of its gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::conv2d) enum Pass {
    Forward,
    InputGradient,
    WeightGradient,
}

/// Algorithm of a pass; the [guide](super) has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::conv2d) enum Method {
    /// Winograd's minimal filtering by tiles of 4×4 outputs, or 2×2 with stride 2.
    Winograd(Order),
    /// Winograd's filtering where each grid of a large dilation is one tile.
    WinogradGrids,
    /// The adjoint of Winograd's filtering, for the gradient of the weight.
    WinogradAdjoint,
    /// Each channel by itself.
    Depthwise,
    /// A product that reads pixels in bands of padded rows.
    InPlace,
    /// A product whose matrix is copied from padded planes.
    PaddedCopy,
    /// A product whose matrix is gathered from the tensor, a block of pixels at a time.
    ImplicitGemm,
}

/// Tasks of Winograd's method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::conv2d) enum Order {
    /// Blocks of tiles, each with all channels; all kernels are transformed before.
    Tiles,
    /// Output channels, each with its kernels; all tiles are transformed before.
    Channels,
    /// Points of the transforms, each with all tiles that fit the memory.
    Points,
}

/// A method, and why it was chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub geometry: Geometry,
    pub pass: Pass,
    pub method: Method,
    pub reason: &'static str,
}

impl Plan {
    /// Decides how a pass of a convolution is computed.
    pub fn new(geometry: &Geometry, pass: Pass) -> Self {
        let (method, reason) = match pass {
            Pass::Forward => forward(geometry),
            Pass::InputGradient => input_gradient(geometry),
            Pass::WeightGradient => weight_gradient(geometry),
        };
        let plan = Self { geometry: *geometry, pass, method, reason };
        plan.explain();
        plan
    }

    /// Prints the plan on stderr if the environment asks for it and it was not printed yet.
    fn explain(&self) {
        static ASKED: LazyLock<bool> =
            LazyLock::new(|| std::env::var("SEGKILN_EXPLAIN_PLAN").is_ok_and(|value| !matches!(&*value, "" | "0")));
        static PRINTED: LazyLock<Mutex<HashSet<(Geometry, Pass)>>> = LazyLock::new(Mutex::default);
        if *ASKED && PRINTED.lock().unwrap_or_else(PoisonError::into_inner).insert((self.geometry, self.pass)) {
            eprintln!("{self}");
        }
    }
}

fn forward(geometry: &Geometry) -> (Method, &'static str) {
    let Channels { output: written, .. } = geometry.group_channels();
    if winograd_pays(geometry) {
        return winograd_order(geometry);
    }
    if is_depthwise(geometry) {
        return (Method::Depthwise, "each channel is a group");
    }
    if geometry.taps() > 1
        && written <= most_in_place(1)
        && in_place::fits_bands(geometry, geometry.group_channels(), 1, geometry.taps())
    {
        return (
            Method::InPlace,
            "few output channels of a group: copying a matrix would take longer than the product",
        );
    }
    if geometry.groups == 1 && padded_copy::fits(geometry) {
        return (Method::PaddedCopy, "few input channels: a padded copy spares the search for borders at each tap");
    }
    (Method::ImplicitGemm, "no special method fits the shape")
}

fn input_gradient(geometry: &Geometry) -> (Method, &'static str) {
    if winograd_pays(geometry)
        && let Some(adjoint) = geometry.adjoint()
    {
        return winograd_order(&adjoint);
    }
    if is_depthwise(geometry) {
        return (Method::Depthwise, "each channel is a group");
    }
    let channels = geometry.group_channels().swapped();
    let phases = geometry.stride[0].saturating_mul(geometry.stride[1]);
    if geometry.taps() > 1
        && channels.output <= most_in_place(phases)
        && phases <= geometry.taps()
        && in_place::fits_bands(&geometry.gradient_reader().0, channels, phases, geometry.taps())
    {
        return (Method::InPlace, "few input channels of a group: copying a matrix would take longer than the product");
    }
    (Method::ImplicitGemm, "no special method fits the shape")
}

fn weight_gradient(geometry: &Geometry) -> (Method, &'static str) {
    // By grids the transforms of the forward pass can pay where those by tiles, which the adjoint has, do not.
    if winograd_pays(geometry) && geometry.stride == [1, 1] && winograd::tile_products(geometry) <= geometry.products()
    {
        return (Method::WinogradAdjoint, "3x3, stride 1, 8 channels or more: a quarter of the products");
    }
    if is_depthwise(geometry) {
        return (Method::Depthwise, "each channel is a group");
    }
    (Method::ImplicitGemm, "no special method fits the shape")
}

/// Returns whether Winograd's transforms exist for a convolution and save products. A dilation near the image's size leaves tiles
/// half empty, so that they may save none.
fn winograd_pays(geometry: &Geometry) -> bool {
    winograd::has_transforms(geometry)
        && geometry.channels.input >= WINOGRAD_CHANNELS
        && geometry.channels.output >= WINOGRAD_CHANNELS
        && winograd::products(geometry) <= geometry.products()
}

/// Chooses by what is large: tiles, kernels or both.
fn winograd_order(geometry: &Geometry) -> (Method, &'static str) {
    if winograd::is_by_grids(geometry) {
        return (Method::WinogradGrids, "3x3 with a large dilation: each grid is one tile, and none is half empty");
    }
    match winograd::order(geometry) {
        Order::Channels => {
            (Method::Winograd(Order::Channels), "3x3, few tiles: they are transformed once for all channels")
        }
        Order::Points => (
            Method::Winograd(Order::Points),
            "3x3, transformed kernels beyond any cache: they are read once for many tiles",
        ),
        Order::Tiles => {
            (Method::Winograd(Order::Tiles), "3x3, many tiles: the transforms of a block stay in the cache")
        }
    }
}

fn is_depthwise(geometry: &Geometry) -> bool {
    let Channels { input, output } = geometry.channels;
    geometry.groups > 1 && geometry.groups == input && geometry.groups == output && depthwise::fits_band(geometry)
}

/// Returns the most channels of a group that products in place write, in one phase or several.
///
/// With registers of eight values (Zen 3) products in place were faster up to 64 channels: 64 → 64, 5×5, 32² took 2.21 ms and
/// 2.79 by the implicit GEMM, and for more channels both were alike. A register of 16 values touches two cache lines wherever
/// it begins; on Zen 4 the matrix paid from 16 channels on.
fn most_in_place(phases: usize) -> usize {
    let (one, several) = if RegisterSizes::native().lanes == MOST_LANES { (16, 8) } else { (64, 32) };
    if phases > 1 { several } else { one }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::InputGradient => "input gradient",
            Self::WeightGradient => "weight gradient",
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Winograd(Order::Tiles) => "Winograd, tasks by tiles",
            Self::Winograd(Order::Channels) => "Winograd, tasks by output channels",
            Self::Winograd(Order::Points) => "Winograd, tasks by points",
            Self::WinogradGrids => "Winograd, a tile for each grid",
            Self::WinogradAdjoint => "Winograd's adjoint",
            Self::Depthwise => "depthwise",
            Self::InPlace => "product in place",
            Self::PaddedCopy => "product from a padded copy",
            Self::ImplicitGemm => "implicit GEMM",
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { geometry, pass, method, reason } = self;
        let Geometry { stride, padding, dilation, groups, .. } = geometry;
        write!(
            f,
            "conv2d {pass}: {:?} * {:?} -> {:?}, stride {stride:?}, padding {padding:?}, dilation {dilation:?}, groups {groups}: \
             {method} ({reason})",
            geometry.input_shape(),
            geometry.weight_shape(),
            geometry.output_shape(),
        )
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::ops::ConvOptions;

    use super::*;

    #[test]
    fn plans_say_what_and_why() {
        let options = ConvOptions::new([2, 2], [1, 1], [1, 1], 1);
        let geometry = Geometry::of_shapes([1, 16, 9, 8], [24, 16, 3, 3], &options).expect("there are values");
        assert_eq!(
            Plan::new(&geometry, Pass::WeightGradient).to_string(),
            "conv2d weight gradient: [1, 16, 9, 8] * [24, 16, 3, 3] -> [1, 24, 5, 4], stride [2, 2], padding [1, 1], dilation \
             [1, 1], groups 1: implicit GEMM (no special method fits the shape)"
        );
    }
}
