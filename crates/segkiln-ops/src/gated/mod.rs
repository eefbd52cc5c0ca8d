//! Activations `x · g(x)` in one pass: hard swish of MobileNetV3, SiLU of EfficientNet, GELU of ConvNeXt.
//!
//! Burn computes them on one thread of the CPU, some in several passes, which took half of EfficientNet's time and a third of
//! LR-ASPP's.

use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        ops::{ActivationOps, FloatTensorOps},
        tensor::FloatTensor,
    },
    tensor::{Shape, Tensor},
};

mod autodiff;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

/// `x · min(max(x + 3, 0), 6) / 6`: Howard et al., "Searching for MobileNetV3", ICCV 2019, <https://arxiv.org/abs/1905.02244>.
///
/// # Shapes
/// Any → the same
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use segkiln_ops::hard_swish;
///
/// let x = Tensor::<1>::from_floats([-4.0, -1.5, 0.0, 3.0, 5.0], &Device::default());
/// assert_eq!(hard_swish(x).into_data().try_to_vec::<f32>().unwrap(), [0.0, -0.375, 0.0, 3.0, 5.0]);
/// ```
pub fn hard_swish<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gated(x, Gate::HardSwish)
}

/// `x · σ(x)`, also called swish: Elfwing et al., <https://arxiv.org/abs/1702.03118>.
///
/// # Shapes
/// Any → the same
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gated(x, Gate::Silu)
}

/// `x · Φ(x)` with the normal distribution's Φ, on the CPU to 2e-7: Hendrycks and Gimpel, <https://arxiv.org/abs/1606.08415>.
///
/// # Shapes
/// Any → the same
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gated(x, Gate::Gelu)
}

fn gated<const D: usize>(x: Tensor<D>, gate: Gate) -> Tensor<D> {
    let shape: Shape = x.shape();
    // Burn reads a 0 in a reshape as "the same size".
    if shape.num_elements() == 0 {
        return x;
    }
    let values = x.reshape([1, 1, 1, shape.num_elements()]);
    let y: Tensor<4> = Tensor::from_dispatch(<Dispatch as GatedOps>::gated(values.into_dispatch(), gate));
    y.reshape(shape)
}

/// The gate `g(x)` that `x` is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `min(max(x + 3, 0), 6) / 6`
    HardSwish,
    /// `σ(x)`
    Silu,
    /// `Φ(x)`
    Gelu,
}

/// Backend operators behind [`hard_swish`], [`silu`] and [`gelu`]; the defaults are Burn's.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cubecl"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "cubecl"),
    Autodiff,
)]
pub trait GatedOps: Backend {
    /// `x · g(x)`
    #[fusion(default)]
    fn gated(x: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self> {
        forward::<Self>(x, gate)
    }

    /// Gradient of `x`: `grad` times `g(x) + x · g'(x)`.
    #[fusion(default)]
    fn gated_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self> {
        backward::<Self>(x, grad, gate)
    }
}

/// Returns the gate of hard swish or SiLU.
fn gate_of<B: Backend>(x: FloatTensor<B>, gate: Gate) -> FloatTensor<B> {
    if gate == Gate::Silu {
        return <B as ActivationOps<B>>::sigmoid(x);
    }
    let gate = <B as FloatTensorOps<B>>::float_add_scalar(x, 3.0.into());
    let gate = <B as FloatTensorOps<B>>::float_clamp(gate, 0.0.into(), 6.0.into());
    <B as FloatTensorOps<B>>::float_div_scalar(gate, 6.0.into())
}

/// [`GatedOps::gated`] with Burn's operators.
fn forward<B: Backend>(x: FloatTensor<B>, gate: Gate) -> FloatTensor<B> {
    match gate {
        Gate::Gelu => <B as ActivationOps<B>>::gelu(x),
        gate => <B as FloatTensorOps<B>>::float_mul(x.clone(), gate_of::<B>(x, gate)),
    }
}

/// [`GatedOps::gated_backward`] with Burn's operators, by the product rule.
fn backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>, gate: Gate) -> FloatTensor<B> {
    if gate == Gate::Gelu {
        return <B as ActivationOps<B>>::gelu_backward(x, grad);
    }
    let value = gate_of::<B>(x.clone(), gate);
    let of_factor = <B as FloatTensorOps<B>>::float_mul(grad.clone(), value.clone());
    let slope = if gate == Gate::Silu {
        <B as ActivationOps<B>>::sigmoid_backward(value, grad)
    } else {
        // Where -3 < x < 3, the gate has a slope.
        let above = <B as FloatTensorOps<B>>::float_add_scalar(x.clone(), 3.0.into());
        let below =
            <B as FloatTensorOps<B>>::float_neg(<B as FloatTensorOps<B>>::float_sub_scalar(x.clone(), 3.0.into()));
        let inside = <B as ActivationOps<B>>::relu_backward(below, <B as ActivationOps<B>>::relu_backward(above, grad));
        <B as FloatTensorOps<B>>::float_div_scalar(inside, 6.0.into())
    };
    <B as FloatTensorOps<B>>::float_add(of_factor, <B as FloatTensorOps<B>>::float_mul(slope, x))
}

#[cfg(test)]
mod tests;
