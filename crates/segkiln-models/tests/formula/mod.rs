//! Weights and images by the formulas of `tests/parity/rcnn.py`, and parts of results as its neighbors store them.

#![allow(dead_code, reason = "each test takes a part")]

use std::path::Path;

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData},
};
use safetensors::{SafeTensors, tensor::TensorView};
use segkiln_models::weights::torch_shapes;

pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.safetensors"));
    std::fs::read(path).unwrap()
}

pub fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Numbers in [-1, 1): splitmix64 from FNV-1a of the text.
pub fn noise(text: &str) -> impl Iterator<Item = f64> {
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (0u64..).map(move |index| {
        let z = hash.wrapping_add(index).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 40) as f64 / 8_388_608.0 - 1.0
    })
}

/// The values of a tensor by its name.
///
/// `salt` changes the numbers. Each case has one with which no ReLU, matching or rounding is decided by the last bits of
/// a sum, so that two libraries can be compared; the scripts check it by moving the reference's own weights by 1e-5.
pub fn formula(name: &str, shape: &[usize], salt: &str, factors: &[(&str, f64)]) -> Vec<f32> {
    const FACTORS: [(&str, f64); 10] = [
        (".conv3.", 0.4),
        (".downsample.", 0.7),
        (".block.2.0.", 0.7),
        (".block.3.0.", 0.7),
        (".fpn.", 0.4),
        (".cls_logits.", 1.0),
        ("rpn.head.bbox_pred.", 0.3),
        (".cls_score.", 3.0),
        ("box_predictor.bbox_pred.", 1.0),
        (".mask_fcn_logits.", 3.0),
    ];
    let (offset, scale) = if shape.len() > 1 {
        let factor = factors.iter().chain(&FACTORS).find(|(text, _)| name.contains(text)).map_or(1.0, |(_, f)| *f);
        (0.0, factor * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt())
    } else if name.ends_with("running_var") {
        (1.0, 0.2)
    } else if name.ends_with("weight") {
        (1.0, 0.1)
    } else {
        (0.0, 0.1)
    };
    let count = shape.iter().product();
    noise(&format!("{salt}{name}")).take(count).map(|noise| (offset + scale * noise) as f32).collect()
}

/// Writes a file as torchvision would, with the formula's weights.
pub fn write_formula(shapes: &[(String, Vec<usize>)], path: &Path, salt: &str, factors: &[(&str, f64)]) {
    let tensors: Vec<(String, &[usize], Vec<u8>)> = shapes
        .iter()
        .map(|(name, shape)| {
            let bytes = formula(name, shape, salt, factors).iter().flat_map(|value| value.to_le_bytes()).collect();
            (name.clone(), shape.as_slice(), bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A ramp, stripes and noise.
pub fn image(index: usize, [height, width]: [usize; 2], device: &Device) -> Tensor<3> {
    let mut values = Vec::with_capacity(3 * height * width);
    for c in 0..3 {
        for y in 0..height {
            for x in 0..width {
                let block = (x / 24 + 2 * (y / 20) + c + index) % 3 * 60;
                let value = (x * 7 + y * 13 + c * 31 + (x * y) % 17 * 5) % 256 / 2 + block;
                values.push(value as f32 / 255.0);
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [3, height, width]), device)
}

/// Gradients by PyTorch's names, in the layout of its tensors, sorted.
pub fn gradients<M: Module>(model: &M, gradients: &GradientsParams) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    struct Visitor<'a> {
        gradients: &'a GradientsParams,
        found: Vec<Option<(Vec<usize>, Vec<f32>)>>,
    }
    impl ModuleVisitor for Visitor<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push(self.gradients.get::<D>(param.id).map(|gradient| {
                // PyTorch's fully connected weights are the other way round.
                let gradient = if D == 2 { gradient.transpose() } else { gradient };
                (gradient.dims().to_vec(), gradient.into_data().try_to_vec().unwrap())
            }));
        }
    }
    let mut visitor = Visitor { gradients, found: Vec::new() };
    model.visit(&mut visitor);
    let names = torch_shapes(model).into_iter().zip(visitor.found);
    let mut found: Vec<_> =
        names.filter_map(|((name, _), found)| found.map(|(shape, values)| (name, shape, values))).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Every so many values along each axis.
pub fn part(shape: &[usize], values: &[f32], steps: &[usize]) -> Vec<f32> {
    let kept = values.iter().enumerate().filter(|(index, _)| {
        let mut rest = *index;
        shape.iter().enumerate().rev().all(|(axis, size)| {
            let at = rest % size;
            rest /= size;
            at % steps.get(axis).copied().unwrap_or(1) == 0
        })
    });
    kept.map(|(_, value)| *value).collect()
}
