//! Weights of 8 bits, for files of a quarter of the size, in the form of Burn's quantized tensors.
//!
//! Loaded weights are floats again, on any device. A layer that computes in 8 bits (see [`NetworkQuantization`]) finds the same
//! 8-bit numbers in them.

use std::path::Path;

use burn::{
    module::Module,
    store::burn_pack,
    tensor::{
        Bytes, DType, TensorData,
        quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype},
    },
};

use super::{WeightsError, packed, visit, write};
use crate::NetworkQuantization;

/// Writes the weights of `module` to `path` as [`save`](super::save) does, but those of two or four axes as integers of 8 bits,
/// with a scale of 32 bits for each output, with which the largest weight is 127. Biases, norms and running statistics stay as they
/// are. [`load`](super::load) reads either.
///
/// # Errors
/// [`WeightsError::Write`], for example on a full disk.
pub fn save_quantized<M: Module>(module: &M, path: &Path) -> Result<(), WeightsError> {
    save_chosen(module, path, |_| true)
}

/// Writes the weights of `module` to `path` as [`save_quantized`] does, but only those of the layers that compute in 8 bits as
/// such.
///
/// # Errors
/// [`WeightsError::Write`], for example on a full disk.
pub fn save_quantized_layers<M: Module>(
    module: &M,
    quantization: &NetworkQuantization,
    path: &Path,
) -> Result<(), WeightsError> {
    save_chosen(module, path, |name| {
        name.strip_suffix(".weight").is_some_and(|layer| quantization.layers.contains_key(layer))
    })
}

fn save_chosen<M: Module>(module: &M, path: &Path, chosen: impl Fn(&str) -> bool) -> Result<(), WeightsError> {
    let tensors = visit(module, |param, layer| (outputs(layer), param.data())).into_iter();
    let tensor = |(name, (outputs, data)): (String, _)| match chosen(&name) {
        true => quantized(name, data, outputs),
        false => packed(name, data),
    };
    write(tensors.map(tensor).collect(), path)
}

/// The axis of a layer's outputs.
fn outputs(layer: &str) -> usize {
    if ["Linear", "ConvTranspose2d"].contains(&layer) { 1 } else { 0 }
}

fn quantized(name: String, data: TensorData, outputs: usize) -> burn_pack::Tensor {
    let values: Vec<f32> = data.iter::<f32>().collect();
    // Weights that are not finite, of a network that learned nothing, have no scale.
    if ![2, 4].contains(&data.shape().num_dims()) || values.iter().any(|value| !value.is_finite()) {
        return packed(name, data);
    }
    let blocks = Blocks::new(data.shape(), outputs);
    // Blocks of one output have the same scale, so that the output's products can be summed as integers.
    let after: usize = data.shape()[outputs + 1..].iter().product();
    let output = |index: usize| index / after % data.shape()[outputs];
    let mut most = vec![0f32; data.shape()[outputs]];
    for (index, value) in values.iter().enumerate() {
        most[output(index)] = most[output(index)].max(value.abs());
    }
    let mut scales = vec![1f32; blocks.count()];
    for index in 0..values.len() {
        let most = most[output(index)];
        scales[blocks.of(index)] = if most > 0.0 { (most / 127.0).max(f32::MIN_POSITIVE) } else { 1.0 };
    }
    let value = |(index, value): (usize, f32)| (value / scales[blocks.of(index)]).round().clamp(-127.0, 127.0) as i8;
    let bytes = values.into_iter().enumerate().map(|at| value(at).to_ne_bytes()[0]);
    let bytes: Vec<u8> = bytes.chain(scales.iter().flat_map(|scale| scale.to_ne_bytes())).collect();
    let shape = data.shape().to_vec();
    burn_pack::Tensor::new(name, DType::QFloat(blocks.scheme()), shape, None, Bytes::from_bytes_vec(bytes))
}

/// A tensor of a file, with floats in place of what is quantized.
pub(super) fn floats(tensor: burn_pack::Tensor) -> Result<burn_pack::Tensor, String> {
    let DType::QFloat(scheme) = tensor.dtype else { return Ok(tensor) };
    let shape = tensor.shape.to_vec();
    let known = [0, 1]
        .map(|outputs| Blocks::new(&shape, outputs))
        .into_iter()
        .find(|blocks| [2, 4].contains(&shape.len()) && blocks.scheme() == scheme);
    let count: usize = shape.iter().product();
    let unknown = || format!("{} is quantized in a way that is not known here", tensor.name);
    let blocks = known.filter(|blocks| tensor.byte_len() == count + 4 * blocks.count()).ok_or_else(unknown)?;
    let bytes = tensor.to_bytes().map_err(|error| error.to_string())?;
    let (values, scales) = bytes.split_at_checked(count).ok_or_else(unknown)?;
    let (scales, _) = scales.as_chunks::<4>();
    let float = |(index, value): (usize, &u8)| {
        f32::from(i8::from_ne_bytes([*value])) * f32::from_ne_bytes(scales[blocks.of(index)])
    };
    let floats: Vec<f32> = values.iter().enumerate().map(float).collect();
    Ok(packed(tensor.name, TensorData::new(floats, shape)))
}

/// The parts of a tensor that have a scale each.
struct Blocks {
    shape: Vec<usize>,
    /// Values along each axis.
    size: Vec<u8>,
    /// Blocks along each axis.
    counts: Vec<usize>,
}

impl Blocks {
    /// One output and as many inputs as a block can have.
    fn new(shape: &[usize], outputs: usize) -> Self {
        /// The largest number that divides `side` and fits into a byte.
        fn divisor(side: usize) -> u8 {
            (1..=u8::MAX).rev().find(|divisor| side.is_multiple_of((*divisor).into())).unwrap_or(1)
        }
        let size = shape.iter().enumerate().map(|(axis, side)| if axis == outputs { 1 } else { divisor(*side) });
        let size: Vec<u8> = size.collect();
        let counts = shape.iter().zip(&size).map(|(side, size)| side / usize::from(*size)).collect();
        Self { shape: shape.to_vec(), size, counts }
    }

    fn count(&self) -> usize {
        self.counts.iter().product()
    }

    /// The block of a value.
    fn of(&self, index: usize) -> usize {
        let (mut rest, mut block, mut stride) = (index, 0, 1);
        for ((side, size), count) in self.shape.iter().zip(&self.size).zip(&self.counts).rev() {
            block += rest % side / usize::from(*size) * stride;
            rest /= side;
            stride *= count;
        }
        block
    }

    fn scheme(&self) -> QuantScheme {
        QuantScheme::default()
            .with_value(QuantValue::Q8S)
            .with_store(QuantStore::Native)
            .per_block(&self.size, ScaleDtype::F32)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tensor};

    use super::*;
    use crate::{
        unet::UNetConfig,
        weights::{load, save},
    };

    #[test]
    fn quantized_weights_are_small_and_near() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, small, again] = ["whole", "small", "again"].map(|name| folder.path().join(format!("{name}.bpk")));
        let device = Device::default();
        let config = UNetConfig::new(3, 2).with_base(16);
        let unet = config.init(&device);
        save(&unet, &whole).unwrap();
        save_quantized(&unet, &small).unwrap();
        let [whole, size] = [&whole, &small].map(|path| std::fs::metadata(path).unwrap().len() as f64);
        assert!(size < 0.3 * whole, "{size} of {whole} bytes");

        let loaded = load(config.init(&device), &small).unwrap();
        let values = |unet: &crate::unet::UNet| -> Vec<f32> {
            unet.encoder.levels[1].first.conv.weight.val().into_data().iter().collect()
        };
        for (before, after) in values(&unet).chunks(16 * 9).zip(values(&loaded).chunks(16 * 9)) {
            let step = before.iter().fold(0f32, |most, value| most.max(value.abs())) / 127.0;
            for (before, after) in before.iter().zip(after) {
                assert!((before - after).abs() <= 0.51 * step, "{before} {after} {step}");
            }
        }
        let x = Tensor::<4>::random([1, 3, 32, 32], Distribution::Default, &device);
        let [before, after] = [&unet, &loaded].map(|unet| unet.forward(x.clone()));
        let error = (before.clone() - after).abs().max().into_scalar::<f32>();
        let range = (before.clone().max() - before.min()).into_scalar::<f32>();
        assert!(error > 0.0 && error < 0.05 * range, "{error} of {range}");
        // As one that learns.
        let learning = load(config.init(&device.clone().autodiff()), &small).unwrap();
        assert!(learning.encoder.levels[1].first.conv.weight.val().is_require_grad());
        // What was quantized once is so for good.
        save_quantized(&loaded, &again).unwrap();
        let quantized = load(config.init(&device), &again).unwrap();
        assert!(values(&quantized).iter().zip(values(&loaded)).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1e-3)));
    }

    /// The outputs of fully connected layers and transposed convolutions are along their second axis.
    #[test]
    fn each_output_has_its_scale() {
        let data = TensorData::new(vec![100.0f32, 0.1, -50.0, 0.2], [2, 2]);
        for (outputs, expected) in [(1, [100.0, 0.1, -50.0, 0.2]), (0, [100.0, 0.0, -50.0, 0.0])] {
            let found = floats(quantized("weight".into(), data.clone(), outputs)).unwrap();
            let bytes = found.to_bytes().unwrap();
            let found = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_ne_bytes(*value));
            for (found, expected) in found.zip(expected) {
                assert!(
                    (found - expected).abs() <= 0.01 * expected.abs().max(40.0 * f32::from(outputs == 0)),
                    "{found} {expected}"
                );
            }
        }
        assert_eq!([outputs("Linear"), outputs("ConvTranspose2d"), outputs("Conv2d")], [1, 1, 0]);
    }

    #[test]
    fn other_ways_of_quantizing_are_errors() {
        let scheme = Blocks::new(&[2, 3, 1, 1], 0).scheme();
        let tensor_of = |scheme, length| {
            let bytes = Bytes::from_bytes_vec(vec![1; length]);
            burn_pack::Tensor::new("conv.weight".into(), DType::QFloat(scheme), vec![2, 3, 1, 1], None, bytes)
        };
        assert!(floats(tensor_of(scheme, 6 + 8)).is_ok());
        for tensor in [
            tensor_of(scheme, 6),
            tensor_of(scheme, 6 + 9),
            tensor_of(scheme.with_value(QuantValue::Q4S), 6 + 8),
            tensor_of(QuantScheme::default(), 6 + 4),
        ] {
            assert!(floats(tensor).err().unwrap().contains("conv.weight"));
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unet.bpk");
        let config = UNetConfig::new(1, 2).with_base(4).with_depth(1);
        let device = Device::default();
        save_quantized(&config.init(&device), &path).unwrap();
        let file = std::fs::read(&path).unwrap();
        for length in (0..file.len()).step_by(file.len() / 40) {
            std::fs::write(&path, &file[..length]).unwrap();
            assert!(load(config.init(&device), &path).unwrap_err().to_string().contains("unet.bpk"), "{length}");
        }
    }
}
