//! Precision: which numbers layers multiply, and for inference the layers' weights packed for it.
//!
//! A predictor has an [`InferenceSession`]; while it [runs](InferenceSession::run) a network, the layers of [`crate::layers`] compute
//! in its precision, and no network knows of it. Weights are packed when a layer is first used and kept with the session.
//!
//! Between layers activations are f32, unless a network [keeps](keep_reduced) them reduced where all that it does with them is
//! in [`crate::layers`]. On processors without dot products of bf16, and for layers whose channels do not fit them, the f32
//! kernels compute, which are as fast there.
//!
//! In training a [`TrainingPrecision`] says what convolutions and their gradients multiply; weights, their gradients and all
//! activations that are no factor of a convolution are f32.
//!
//! A session of 8 bits has the ranges of a [`NetworkQuantization`]; layers that it does not name compute in bf16. A session of a
//! [`Calibration`](crate::Calibration) computes in f32 and watches what layers read and write.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    module::{Module, Param, ParamId},
    nn::conv::{Conv2d, ConvTranspose2d},
    tensor::{
        Device, Tensor,
        ops::{ConvOptions, ConvTransposeOptions, MaxPoolOptions},
    },
};
use segkiln_core::Precision;
use segkiln_ops::Joined;
#[cfg(feature = "flex")]
use segkiln_ops::reduced::{self, Affine, PoolWindow, Quantization, QuantizedConv2d, ReducedConv2d};

use crate::{
    fake_quantization,
    quantization::{LayerRanges, NetworkQuantization, Observations},
};

/// A precision that a network cannot be computed in.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PrecisionError {
    /// The device has other kernels only.
    #[error("precision {precision} is for the CPU backend flex, not for {device}; use f32")]
    Device {
        /// The precision.
        precision: Precision,
        /// The device.
        device: String,
    },
    /// Ranges of activations are missing.
    #[error(
        "precision int8 needs the ranges of the network's activations; make a quantized model with the program quantize"
    )]
    NotQuantized,
    /// The ranges are those of another network.
    #[error("the quantization is that of another network, which has a layer {layer:?}")]
    OtherNetwork {
        /// The first layer that is not in the network.
        layer: String,
    },
}

/// Behavior of the layers in a session.
#[derive(Debug)]
enum Mode {
    F32,
    Bf16,
    /// Ranges by the layers' weights.
    Int8(HashMap<ParamId, LayerRanges>),
    Calibration(Mutex<Observations>),
    /// Layers say what their outputs depend on, in place of computing them; see [`reach`](crate::reach()).
    Reach,
}

/// A packed layer.
#[cfg(feature = "flex")]
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one a layer, shared by reference")]
enum Packed {
    Reduced(ReducedConv2d),
    /// And what its inputs and outputs of 8 bits stand for.
    Quantized(QuantizedConv2d, [Quantization; 2]),
}

#[cfg(feature = "flex")]
impl Packed {
    fn options(&self) -> &ConvOptions<2> {
        match self {
            Self::Reduced(layer) => layer.options(),
            Self::Quantized(layer, _) => layer.options(),
        }
    }

    fn forward(&self, x: Joined, keep: bool) -> Tensor<4> {
        match self {
            Self::Reduced(layer) => layer.forward(x, keep),
            Self::Quantized(layer, [input, output]) => layer.forward(x, *input, keep.then_some(*output)),
        }
    }
}

/// A layer's weight, and whether what follows the layer is packed with it: who looks at a network's layers sees them one by one.
#[cfg(feature = "flex")]
type LayerKey = (ParamId, bool);

/// Layers packed for a precision, for one network whose weights do not change.
#[derive(Debug)]
pub struct InferenceSession {
    mode: Mode,
    #[cfg(feature = "flex")]
    layers: Mutex<HashMap<LayerKey, Option<Arc<Packed>>>>,
}

/// Session of this thread, and whether maps may stay reduced.
#[derive(Clone, Default)]
struct Current {
    session: Option<Arc<InferenceSession>>,
    keep: bool,
    training: TrainingPrecision,
}

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::default();
    /// The weight of the convolution that this thread computed last: a sum has no parameter by which it could be known.
    static LAST: Cell<Option<ParamId>> = const { Cell::new(None) };
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
    /// [`PrecisionError::Device`] if the device cannot compute in the precision, [`PrecisionError::NotQuantized`] for
    /// int8, which [`quantized`](Self::quantized) is for.
    pub fn new(precision: Precision, device: &Device) -> Result<Arc<Self>, PrecisionError> {
        Self::with_mode(
            match precision {
                Precision::F32 => Mode::F32,
                Precision::Bf16 => Mode::Bf16,
                Precision::Int8 => return Err(PrecisionError::NotQuantized),
            },
            device,
        )
    }

    /// A session in which `network`, on `device`, computes the layers of `quantization` in 8 bits, and others in bf16.
    ///
    /// # Errors
    /// [`PrecisionError::Device`] if the device cannot compute in 8 bits, [`PrecisionError::OtherNetwork`] if the network has not
    /// all of the layers.
    pub fn quantized<M: Module>(
        network: &M,
        quantization: &NetworkQuantization,
        device: &Device,
    ) -> Result<Arc<Self>, PrecisionError> {
        let weights = crate::quantization::weights(network);
        let ranges = quantization.layers.iter().map(|(layer, ranges)| match weights.get(layer) {
            Some(weight) => Ok((*weight, *ranges)),
            None => Err(PrecisionError::OtherNetwork { layer: layer.clone() }),
        });
        Self::with_mode(Mode::Int8(ranges.collect::<Result<_, _>>()?), device)
    }

    /// A session that watches.
    pub(crate) fn calibration(device: &Device) -> Result<Arc<Self>, PrecisionError> {
        Self::with_mode(Mode::Calibration(Mutex::default()), device)
    }

    /// A session in which layers say what their outputs depend on.
    pub(crate) fn reach() -> Arc<Self> {
        Arc::new(Self {
            mode: Mode::Reach,
            #[cfg(feature = "flex")]
            layers: Mutex::default(),
        })
    }

    fn with_mode(mode: Mode, device: &Device) -> Result<Arc<Self>, PrecisionError> {
        let session = Self {
            mode,
            #[cfg(feature = "flex")]
            layers: Mutex::default(),
        };
        has_kernels(session.precision(), device).map(|()| Arc::new(session))
    }

    /// The precision that layers compute in, as far as their kernels and this processor can.
    pub fn precision(&self) -> Precision {
        match self.mode {
            Mode::F32 | Mode::Calibration(_) | Mode::Reach => Precision::F32,
            Mode::Bf16 => Precision::Bf16,
            Mode::Int8(_) => Precision::Int8,
        }
    }

    /// Takes out the values that were seen.
    pub(crate) fn observations(&self) -> Observations {
        match &self.mode {
            Mode::Calibration(seen) => std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner)),
            _ => Observations::default(),
        }
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
        LAST.set(None);
        match self.mode {
            Mode::F32 => with_current(Current::default(), f),
            _ => with_current(Current { session: Some(self.clone()), ..Current::default() }, f),
        }
    }

    /// The packed layer of a weight, made when it is first used; none where the layer computes in f32.
    #[cfg(feature = "flex")]
    fn layer(
        &self,
        (id, is_fused): LayerKey,
        reduced: impl FnOnce() -> Option<ReducedConv2d>,
        quantized: impl FnOnce() -> Option<QuantizedConv2d>,
    ) -> Option<Arc<Packed>> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let pack = || {
            if let Mode::Int8(ranges) = &self.mode
                && let Some(LayerRanges { input, output, .. }) = ranges.get(&id)
                && let Some(layer) = quantized()
            {
                let formats = [input, output].map(|[low, high]| Quantization::of_range(*low, *high));
                return Some(Packed::Quantized(layer, formats));
            }
            reduced().map(Packed::Reduced)
        };
        layers.entry((id, is_fused)).or_insert_with(|| pack().map(Arc::new)).clone()
    }
}

/// Refuses a precision that a device has no kernels for.
fn has_kernels(precision: Precision, device: &Device) -> Result<(), PrecisionError> {
    #[cfg(feature = "flex")]
    let on_cpu = device.clone().inner() == Device::flex();
    #[cfg(not(feature = "flex"))]
    let on_cpu = false;
    match precision {
        Precision::F32 => Ok(()),
        _ if on_cpu => Ok(()),
        _ => Err(PrecisionError::Device { precision, device: format!("{device:?}") }),
    }
}

/// Numbers that convolutions and their gradients multiply while a network is trained: f32, or bf16 with sums of f32. In bf16 autodiff
/// keeps the inputs of these convolutions in half the memory. The loss needs no scaling, as bf16 has the range of f32.
///
/// int8 is quantization-aware training: f32 numbers are multiplied, but the factors of layers that can compute in 8 bits are rounded
/// to them (Jacob et al., CVPR 2018, <https://arxiv.org/abs/1712.05877>), so that the network loses less when it is
/// [quantized](crate::Calibration). A batch's activations have the range of their own values.
///
/// In bf16, layers that [`segkiln_ops::conv2d_bf16`] has no kernels for compute in f32, and all of them on processors without dot
/// products of bf16. Transposed convolutions, linear layers after a pooling, norms and losses are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainingPrecision(Precision);

impl TrainingPrecision {
    /// The precision of a training on `device`.
    ///
    /// # Errors
    /// [`PrecisionError::Device`] if the device cannot compute in bf16.
    pub fn new(precision: Precision, device: &Device) -> Result<Self, PrecisionError> {
        // Training for int8 multiplies f32.
        if precision == Precision::Bf16 {
            has_kernels(precision, device)?;
        }
        Ok(Self(precision))
    }

    /// The faster precision of a training on `device`: bf16 on the CPU where the processor has dot products of bf16, else f32.
    pub fn fastest(device: &Device) -> Precision {
        #[cfg(feature = "flex")]
        if has_kernels(Precision::Bf16, device).is_ok() && reduced::is_supported() {
            return Precision::Bf16;
        }
        let _ = device;
        Precision::F32
    }

    /// Computes `f`, a forward pass whose gradients are tracked, in this precision. The backward pass computes in it too,
    /// wherever it runs.
    ///
    /// ```
    /// use burn::tensor::{Device, Distribution, Tensor};
    /// use segkiln_core::Precision;
    /// use segkiln_models::{TrainingPrecision, unet::UNetConfig};
    ///
    /// let device = Device::flex().autodiff();
    /// let unet = UNetConfig::new(3, 2).with_base(16).with_depth(2).init(&device);
    /// let x = Tensor::random([1, 3, 40, 40], Distribution::Default, &device);
    /// let precision = TrainingPrecision::new(Precision::Bf16, &device)?;
    /// let gradients = precision.run(|| unet.forward(x)).sum().backward();
    /// # Ok::<(), segkiln_models::PrecisionError>(())
    /// ```
    pub fn run<T>(self, f: impl FnOnce() -> T) -> T {
        with_current(Current { training: self, ..Current::default() }, f)
    }
}

/// Whether convolutions whose gradients are tracked multiply bf16.
pub(crate) fn trains_in_bf16() -> bool {
    CURRENT.with_borrow(|current| current.training.0 == Precision::Bf16)
}

/// The factors of a convolution as they are multiplied: rounded to 8 bits while a network is trained for them. `out` is the weight's
/// dimension of output channels.
pub(crate) fn factors(x: Joined, weight: Tensor<4>, out: usize, groups: usize) -> (Joined, Tensor<4>) {
    let rounds = CURRENT.with_borrow(|current| current.training.0 == Precision::Int8);
    if rounds { fake_quantization::factors(x, weight, out, groups) } else { (x, weight) }
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

/// A convolution and what follows it, `affine` (scale and shift) and `range`, where a session computes it; `is_fused` if that is more
/// than its bias. The output stays reduced only if `keep`.
pub(crate) fn convolve(
    conv: &Conv2d,
    x: &Joined,
    options: &ConvOptions<2>,
    range: Option<[f32; 2]>,
    [is_fused, keep]: [bool; 2],
    affine: impl Fn() -> [Tensor<1>; 2],
) -> Option<Tensor<4>> {
    if reaches() {
        let [height, width] = conv.kernel_size;
        let mut pooling = MaxPoolOptions::new([height, width]);
        (pooling.stride, pooling.padding, pooling.dilation) = (options.stride, options.padding, options.dilation);
        return Some(crate::reach::convolve(x, conv.weight.dims()[0], pooling));
    }
    #[cfg(feature = "flex")]
    if !x.is_autodiff() {
        let Current { session, keep: kept, .. } = CURRENT.with_borrow(Current::clone);
        let (session, id) = (session?, conv.weight.id);
        LAST.set(Some(id));
        let [scale, shift] = affine();
        if let Mode::Calibration(seen) = &session.mode {
            let weight = conv.weight.val();
            let y = segkiln_ops::conv2d_affine(x.clone(), weight, scale, shift, range, options.clone());
            if conv.groups == 1 {
                seen.lock().unwrap_or_else(PoisonError::into_inner).layer(id, x, &y);
            }
            return Some(y);
        }
        let affine = Affine { scale, shift, range };
        let layer = session.layer(
            (id, is_fused),
            || ReducedConv2d::pack(&conv.weight.val(), &affine, options.clone()),
            || QuantizedConv2d::pack(&conv.weight.val(), &affine, options.clone()),
        )?;
        // Padding that depends on the image's size may differ from that which the layer was packed with.
        return (layer.options() == options).then(|| layer.forward(x.clone(), keep && kept));
    }
    None
}

/// Whether layers may be computed otherwise than one by one: no session has ranges for them or watches them.
pub(crate) fn may_reorder() -> bool {
    CURRENT.with_borrow(|current| {
        current.session.as_ref().is_none_or(|session| matches!(session.mode, Mode::F32 | Mode::Bf16))
    })
}

/// Whether layers say what their outputs depend on.
pub(crate) fn reaches() -> bool {
    CURRENT.with_borrow(|current| current.session.as_ref().is_some_and(|session| matches!(session.mode, Mode::Reach)))
}

/// A transposed convolution, where a session computes it.
pub(crate) fn convolve_transposed(conv: &ConvTranspose2d, x: &Tensor<4>) -> Option<Tensor<4>> {
    let ConvTranspose2d { stride, kernel_size, padding, padding_out, dilation, groups, .. } = conv;
    let spreads = stride == kernel_size && *padding == [0, 0] && *padding_out == [0, 0];
    if spreads && *dilation == [1, 1] && reaches() {
        return Some(crate::reach::convolve_transposed(x, conv.weight.dims()[1] * groups, *stride));
    }
    #[cfg(feature = "flex")]
    {
        if spreads && *dilation == [1, 1] && *groups == 1 && !x.is_autodiff() {
            let Current { session, keep, .. } = CURRENT.with_borrow(Current::clone);
            let (session, id) = (session?, conv.weight.id);
            LAST.set(Some(id));
            let bias = conv.bias.as_ref().map(Param::val);
            if let Mode::Calibration(seen) = &session.mode {
                let options = ConvTransposeOptions::new(*stride, *padding, *padding_out, *dilation, *groups);
                let y = segkiln_ops::conv_transpose2d(x.clone(), conv.weight.val(), bias, options);
                seen.lock().unwrap_or_else(PoisonError::into_inner).layer(id, &x.clone().into(), &y);
                return Some(y);
            }
            let layer = session.layer(
                (id, false),
                || ReducedConv2d::pack_transposed(&conv.weight.val(), bias.as_ref()),
                || QuantizedConv2d::pack_transposed(&conv.weight.val(), bias.as_ref()),
            )?;
            return Some(layer.forward(x.clone().into(), keep));
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
    {
        let session = CURRENT.with_borrow(|current| current.session.clone());
        let format = match (session.as_deref().map(|session| &session.mode), LAST.get()) {
            (Some(Mode::Calibration(seen)), Some(last)) => {
                let sum = segkiln_ops::add_relu(x.clone(), y.clone());
                seen.lock().unwrap_or_else(PoisonError::into_inner).sum(last, &sum);
                return Some(sum);
            }
            (Some(Mode::Int8(ranges)), Some(last)) => ranges.get(&last).and_then(|ranges| ranges.sum),
            _ => None,
        };
        reduced::add_relu(x, y, format.map(|[low, high]| Quantization::of_range(low, high)))
    }
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
