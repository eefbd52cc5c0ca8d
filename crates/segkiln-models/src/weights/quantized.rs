//! Weights of 8 bits, for files of a quarter of the size.
//!
//! Burn quantises tensors, but its convolutions compute in floats, so a network is quantised in its file alone: what is loaded
//! is as fast and as large as before.

use std::path::Path;

use burn::{
    module::{Module, ModuleMapper, Param},
    store::burn_pack,
    tensor::{
        DType, Device, Tensor, TensorData,
        quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype, quantized_data_len},
    },
};

use super::{WeightsError, visit, write};

/// Writes the weights of `module` to `path` as [`save`](super::save) does, but those of two or four axes as integers of 8 bits: for at
/// most 255 channels of each output a scale of 32 bits, with which the largest weight is 127. Biases, norms and running statistics stay as they
/// are. [`load`](super::load) reads either.
///
/// # Errors
/// [`WeightsError::Write`], for example on a full disk.
pub fn save_quantized<M: Module>(module: &M, path: &Path) -> Result<(), WeightsError> {
    let tensors = visit(module, |param| param.data()).into_iter().map(|(name, data)| {
        let data = match data.shape().num_dims() {
            2 => quantize::<2>(data),
            4 => quantize::<4>(data),
            _ => data,
        };
        (name, data)
    });
    write(tensors.collect(), path)
}

fn quantize<const D: usize>(data: TensorData) -> TensorData {
    let scheme = scheme(data.shape());
    // A weight that is not finite, of a network that learned nothing, has no scale.
    if data.iter::<f32>().any(|value| !value.is_finite()) {
        return data;
    }
    Tensor::<D>::from_data(data, &Device::default().inner()).quantize_dynamic(&scheme).into_data()
}

/// A scale for each output (the first axis), of at most as many channels as a block can have.
fn scheme(shape: &[usize]) -> QuantScheme {
    let mut block: Vec<u8> = shape.iter().map(|side| largest_divisor(*side)).collect();
    block[0] = 1;
    QuantScheme::default().with_value(QuantValue::Q8S).with_store(QuantStore::Native).per_block(block, ScaleDtype::F32)
}

/// The largest number that divides `side` and fits into a byte.
fn largest_divisor(side: usize) -> u8 {
    (1..=u8::MAX).rev().find(|divisor| side.is_multiple_of((*divisor).into())).unwrap_or(1)
}

/// Whether a tensor of a file, if it is quantised, is so as here.
pub(super) fn check(tensor: &burn_pack::Tensor) -> Result<(), String> {
    let DType::QFloat(found) = tensor.dtype else { return Ok(()) };
    let is_ours = [2, 4].contains(&tensor.shape.num_dims()) && found == scheme(&tensor.shape);
    if is_ours && tensor.byte_len() == quantized_data_len(&found, &tensor.shape) {
        return Ok(());
    }
    Err(format!("{} is quantised in a way that is not known here", tensor.name))
}

/// The module with floats in place of what is quantised.
pub(super) fn dequantize<M: Module>(module: M) -> M {
    struct Dequantize;
    impl ModuleMapper for Dequantize {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| match tensor.dtype() {
                DType::QFloat(_) => tensor.dequantize(),
                _ => tensor,
            })
        }
    }
    module.map(&mut Dequantize)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::{
        unet::UNetConfig,
        weights::{load, save},
    };

    #[test]
    fn quantised_weights_are_small_and_near() {
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
        // What was quantised once is so for good.
        save_quantized(&loaded, &again).unwrap();
        let quantised = load(config.init(&device), &again).unwrap();
        assert!(values(&quantised).iter().zip(values(&loaded)).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1e-3)));
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
