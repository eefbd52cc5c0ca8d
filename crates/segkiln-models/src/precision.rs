//! Precision of inference: which numbers layers multiply, and the layers' weights packed for it.
//!
//! A predictor has an [`InferenceSession`]; while it [runs](InferenceSession::run) a network, the layers of [`crate::layers`] compute
//! in its precision, and no network knows of it. Weights are packed when a layer is first used and kept with the session.
//!
//! Between layers activations are f32, unless a network [keeps](keep_reduced) them reduced where all that it does with them is
//! in [`crate::layers`]. On processors without dot products of bf16, and for layers whose channels do not fit them, the f32
//! kernels compute, which are as fast there.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    module::{Param, ParamId},
    nn::conv::{Conv2d, ConvTranspose2d},
    tensor::{Device, Tensor, ops::ConvOptions},
};
use segkiln_core::Precision;
use segkiln_ops::Joined;
#[cfg(feature = "flex")]
use segkiln_ops::reduced::{self, Affine, PoolWindow, ReducedConv2d};

/// A precision that a device cannot compute in.
#[derive(Debug, Clone, thiserror::Error)]
#[error("precision {precision} is for the CPU backend flex, not for {device}; use f32")]
pub struct PrecisionError {
    precision: Precision,
    device: String,
}

/// Layers packed for a precision, for one network whose weights do not change.
#[derive(Debug)]
pub struct InferenceSession {
    precision: Precision,
    #[cfg(feature = "flex")]
    layers: Mutex<HashMap<ParamId, Option<Arc<ReducedConv2d>>>>,
}

/// What the layers of this thread are to know.
#[derive(Clone, Default)]
struct Current {
    session: Option<Arc<InferenceSession>>,
    keep: bool,
}

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::default();
}

/// Calls `f` with other settings and puts the old ones back, also when `f` panics.
fn with_current<T>(current: Current, f: impl FnOnce() -> T) -> T {
    struct Restore(Current);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(std::mem::take(&mut self.0));
        }
    }
    let _restore = Restore(CURRENT.replace(current));
    f()
}

impl InferenceSession {
    /// A session for networks on `device`.
    ///
    /// # Errors
    /// [`PrecisionError`] if the device cannot compute in the precision.
    pub fn new(precision: Precision, device: &Device) -> Result<Arc<Self>, PrecisionError> {
        #[cfg(feature = "flex")]
        let on_cpu = device.clone().inner() == Device::flex();
        #[cfg(not(feature = "flex"))]
        let on_cpu = false;
        if precision != Precision::F32 && !on_cpu {
            return Err(PrecisionError { precision, device: format!("{device:?}") });
        }
        Ok(Arc::new(Self {
            precision,
            #[cfg(feature = "flex")]
            layers: Mutex::default(),
        }))
    }

    /// The precision that layers compute in, as far as their kernels and this processor can.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Computes `f`, a forward pass, in this session's precision. Layers that track gradients compute in f32.
    ///
    /// ```
    /// use burn::tensor::{Device, Distribution, Tensor};
    /// use segkiln_core::Precision;
    /// use segkiln_models::{InferenceSession, unet::UNetConfig};
    ///
    /// let device = Device::flex();
    /// let unet = UNetConfig::new(3, 2).with_base(16).with_depth(2).init(&device);
    /// let x = Tensor::random([1, 3, 40, 40], Distribution::Default, &device);
    /// let session = InferenceSession::new(Precision::Bf16, &device)?;
    /// let logits = session.run(|| unet.forward(x));
    /// assert_eq!(logits.dims(), [1, 2, 40, 40]);
    /// # Ok::<(), segkiln_models::PrecisionError>(())
    /// ```
    pub fn run<T>(self: &Arc<Self>, f: impl FnOnce() -> T) -> T {
        if self.precision == Precision::F32 {
            return with_current(Current::default(), f);
        }
        with_current(Current { session: Some(self.clone()), keep: false }, f)
    }
}

/// Computes `f`, part of a network, which may pass activations of reduced precision from layer to layer: everything that it
/// does with them is a function of [`crate::layers`].
pub(crate) fn keep_reduced<T>(f: impl FnOnce() -> T) -> T {
    let current = CURRENT.with_borrow(Current::clone);
    if current.session.is_none() {
        return f();
    }
    with_current(Current { keep: true, ..current }, f)
}

/// Computes `f`, part of a network whose activations any operator may take.
pub(crate) fn keep_full<T>(f: impl FnOnce() -> T) -> T {
    let current = CURRENT.with_borrow(Current::clone);
    if !current.keep { f() } else { with_current(Current { keep: false, ..current }, f) }
}

/// As [`keep_reduced`], for maps that leave it reduced only where the caller keeps them so.
pub(crate) fn keep_reduced_within(f: impl FnOnce() -> Vec<Tensor<4>>) -> Vec<Tensor<4>> {
    let maps = keep_reduced(f);
    if CURRENT.with_borrow(|current| current.keep) { maps } else { maps.into_iter().map(full).collect() }
}

/// A tensor that any operator can take.
pub(crate) fn full(x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    return reduced::to_full_precision(x);
    #[cfg(not(feature = "flex"))]
    x
}

/// As [`full`].
pub(crate) fn full_joined(x: Joined) -> Joined {
    x.map(full)
}

/// The layer of a weight in this thread's session, and whether its output may stay reduced.
#[cfg(feature = "flex")]
fn layer(id: ParamId, pack: impl FnOnce() -> Option<ReducedConv2d>) -> Option<(Arc<ReducedConv2d>, bool)> {
    let Current { session, keep } = CURRENT.with_borrow(Current::clone);
    let session = session?;
    let mut layers = session.layers.lock().unwrap_or_else(PoisonError::into_inner);
    let layer = layers.entry(id).or_insert_with(|| pack().map(Arc::new)).clone();
    layer.map(|layer| (layer, keep))
}

/// A convolution and what follows it, `affine` (scale and shift) and `range`, where a session computes it. The output stays
/// reduced only if `keep`.
pub(crate) fn convolve(
    conv: &Conv2d,
    x: &Joined,
    options: &ConvOptions<2>,
    range: Option<[f32; 2]>,
    keep: bool,
    affine: impl FnOnce() -> [Tensor<1>; 2],
) -> Option<Tensor<4>> {
    #[cfg(feature = "flex")]
    if !x.is_autodiff() {
        let (layer, kept) = layer(conv.weight.id, || {
            let [scale, shift] = affine();
            ReducedConv2d::pack(&conv.weight.val(), &Affine { scale, shift, range }, options.clone())
        })?;
        // Padding that depends on the image's size may differ from that which the layer was packed with.
        return (layer.options() == options).then(|| layer.forward(x.clone(), keep && kept));
    }
    None
}

/// A transposed convolution, where a session computes it.
pub(crate) fn convolve_transposed(conv: &ConvTranspose2d, x: &Tensor<4>) -> Option<Tensor<4>> {
    #[cfg(feature = "flex")]
    {
        let ConvTranspose2d { stride, kernel_size, padding, padding_out, dilation, groups, .. } = conv;
        let spreads = stride == kernel_size && *padding == [0, 0] && *padding_out == [0, 0];
        if spreads && *dilation == [1, 1] && *groups == 1 && !x.is_autodiff() {
            let (layer, kept) = layer(conv.weight.id, || {
                ReducedConv2d::pack_transposed(&conv.weight.val(), conv.bias.as_ref().map(Param::val).as_ref())
            })?;
            return Some(layer.forward(x.clone(), kept));
        }
    }
    None
}

/// Max pooling of a map that was kept reduced.
pub(crate) fn max_pool2d(x: &Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Option<Tensor<4>> {
    #[cfg(feature = "flex")]
    return reduced::max_pool2d(x, PoolWindow { kernel, stride, padding });
    #[cfg(not(feature = "flex"))]
    None
}

/// Sum and ReLU of maps that were kept reduced.
pub(crate) fn add_relu(x: &Tensor<4>, y: &Tensor<4>) -> Option<Tensor<4>> {
    #[cfg(feature = "flex")]
    return reduced::add_relu(x, y);
    #[cfg(not(feature = "flex"))]
    None
}

/// Nearest-neighbor enlargement of a map that was kept reduced, by whole numbers.
pub(crate) fn upsample_nearest(x: &Tensor<4>, size: [usize; 2]) -> Option<Tensor<4>> {
    #[cfg(feature = "flex")]
    return reduced::upsample_nearest(x, size);
    #[cfg(not(feature = "flex"))]
    None
}

/// The channels of several maps one after the other.
pub(crate) fn cat(maps: Vec<Tensor<4>>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(joined) = reduced::cat(&maps) {
        return joined;
    }
    Tensor::cat(maps.into_iter().map(full).collect(), 1)
}
