//! Class activation maps: what a layer puts out, weighed by gradients.

use burn::tensor::Tensor;
use segkiln_ops::{ResizeMode, resize};

use super::{Explanation, Method};
use crate::{Map, Question, Result, subject::values};

/// Activations of a layer for an image, and the gradient of the target with respect to them.
pub(super) struct Layer {
    pub size: [usize; 2],
    /// `[channels][height * width]`
    pub map: Vec<f32>,
    /// Gradient of each value of `map`.
    pub gradient: Vec<f32>,
}

impl Layer {
    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Values and gradients of each channel.
    pub fn channels(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.map.chunks_exact(self.pixels()).zip(self.gradient.chunks_exact(self.pixels()))
    }

    /// Sums the channels, each by a factor.
    pub fn weighed(&self, weights: impl IntoIterator<Item = f64>) -> Vec<f64> {
        let mut sum = vec![0.0; self.pixels()];
        for ((map, _), weight) in self.channels().zip(weights) {
            sum.iter_mut().zip(map).for_each(|(sum, value)| *sum += weight * f64::from(*value));
        }
        sum
    }

    /// Sums a function of value and gradient over the channels.
    pub fn each(&self, f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let mut sum = vec![0.0; self.pixels()];
        for (map, gradient) in self.channels() {
            for ((sum, value), gradient) in sum.iter_mut().zip(map).zip(gradient) {
                *sum += f(f64::from(*value), f64::from(*gradient));
            }
        }
        sum
    }
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}

/// Scales maps as pytorch-grad-cam does: the positive part of each layer's map, from 0 to 1, enlarged (bilinear) to the image; the mean of
/// the layers, from 0 to 1.
pub(super) fn combined(question: &Question<'_>, layers: Vec<([usize; 2], Vec<f64>)>) -> Result<Explanation> {
    let [height, width] = question.size();
    let count = layers.len() as f32;
    let mut mean = vec![0.0; height * width];
    for (size, map) in layers {
        let positive = map.into_iter().map(|value| value.max(0.0) as f32).collect();
        let scaled = Tensor::<1>::from_floats(unit(positive).as_slice(), question.subject.device());
        let large = resize(scaled.reshape([1, 1, size[0], size[1]]), [height, width], ResizeMode::default());
        mean.iter_mut().zip(values(large)?).for_each(|(mean, value)| *mean += value.max(0.0) / count);
    }
    Ok(Map::new([height, width], unit(mean), false)?.into())
}

/// Scales a map to the range from 0 to 1.
fn unit(values: Vec<f32>) -> Vec<f32> {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().map(|value| value - low).fold(0.0, f32::max);
    values.into_iter().map(|value| (value - low) / (high + 1e-7)).collect()
}

fn by_gradients(question: &Question<'_>, map: impl Fn(&Layer) -> Vec<f64>) -> Result<Explanation> {
    let layers = question.activations_and_gradients()?.into_iter().map(|(map, gradient)| {
        let [_, _, height, width] = map.dims();
        Ok(Layer { size: [height, width], map: values(map)?, gradient: values(gradient)? })
    });
    let maps = layers.map(|layer| layer.map(|layer| (layer.size, map(&layer)))).collect::<Result<_>>()?;
    combined(question, maps)
}

macro_rules! cam {
    ($(#[$doc:meta])* $name:ident, $text:literal, $meaning:literal, $map:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub struct $name;

        impl Method for $name {
            fn name(&self) -> &'static str {
                $text
            }

            fn meaning(&self) -> &'static str {
                $meaning
            }

            fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
                by_gradients(question, $map)
            }
        }
    };
}

cam!(
    /// Channels weighed by the means of their gradients: Selvaraju et al., ICCV 2017, <https://arxiv.org/abs/1610.02391>.
    GradCam,
    "gradcam",
    "Where a layer found what raises the score: its channels, weighed by how much they raise it on average. Bright is more, relative \
     to this picture's own maximum. As coarse as the layer.",
    |layer| {
        let mean = |gradient: &[f32]| sum(gradient.iter().map(|value| f64::from(*value))) / layer.pixels() as f64;
        let weights: Vec<f64> = layer.channels().map(|(_, gradient)| mean(gradient)).collect();
        layer.weighed(weights)
    }
);

cam!(
    /// Channels weighed by their positive gradients, with shares that let several places count alike: Chattopadhay et al., WACV 2018,
    /// <https://arxiv.org/abs/1710.11063>.
    GradCamPlusPlus,
    "gradcam_plus_plus",
    "As gradcam, with weights by which several places of one class count alike.",
    |layer| {
        let weights: Vec<f64> = layer
            .channels()
            .map(|(map, gradient)| {
                let total = sum(map.iter().map(|value| f64::from(*value)));
                sum(gradient.iter().filter(|gradient| **gradient > 0.0).map(|gradient| {
                    let gradient = f64::from(*gradient);
                    let square = gradient * gradient;
                    gradient * square / (2.0 * square + total * square * gradient + 1e-6)
                }))
            })
            .collect();
        layer.weighed(weights)
    }
);

cam!(
    /// Values times gradients, place by place: Draelos and Carin, 2020, <https://arxiv.org/abs/2011.08891>.
    HiResCam,
    "hirescam",
    "As gradcam, but each place by its own gradient: it shows only places that the network used, where gradcam may show others.",
    |layer| layer.each(|value, gradient| value * gradient)
);

cam!(
    /// Channels weighed by their gradients, each place by its share in the channel: Fu et al., BMVC 2020,
    /// <https://arxiv.org/abs/2008.02312>.
    XGradCam,
    "xgradcam",
    "As gradcam, with the gradient of each place weighed by how active the place is.",
    |layer| {
        let weights: Vec<f64> = layer
            .channels()
            .map(|(map, gradient)| {
                let total = sum(map.iter().map(|value| f64::from(*value))) + 1e-7;
                sum(map.iter().zip(gradient).map(|(value, gradient)| f64::from(*value) * f64::from(*gradient))) / total
            })
            .collect();
        layer.weighed(weights)
    }
);

cam!(
    /// Values times positive gradients, place by place: Jiang et al., IEEE TIP 2021, <https://doi.org/10.1109/TIP.2021.3089943>.
    LayerCam,
    "layercam",
    "As hirescam, with positive gradients only: sharper on early layers.",
    |layer| layer.each(|value, gradient| value * gradient.max(0.0))
);

/// The first principal component of a layer's map, with no regard to the target: Muhammad and Yeasin, IJCNN 2020,
/// <https://arxiv.org/abs/2008.00299>. A component has no sign; here it is the one by which the strongest place is positive.
#[derive(Debug, Clone, Copy, Default)]
pub struct EigenCam;

impl Method for EigenCam {
    fn name(&self) -> &'static str {
        "eigencam"
    }

    fn meaning(&self) -> &'static str {
        "Where a layer's channels are most active together, whatever the class: it shows what stands out for the network, not what \
         speaks for this class."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        let maps = question.activations()?.into_iter().map(|map| {
            let [_, channels, height, width] = map.dims();
            Ok(([height, width], first_component(&values(map)?, channels)))
        });
        combined(question, maps.collect::<Result<_>>()?)
    }
}

/// Projects each place's channels, without their means, on the direction in which they vary most. Power iteration.
fn first_component(map: &[f32], channels: usize) -> Vec<f64> {
    let pixels = map.len() / channels.max(1);
    let mut centered: Vec<f64> = Vec::with_capacity(map.len());
    for channel in map.chunks_exact(pixels.max(1)) {
        let mean = sum(channel.iter().map(|value| f64::from(*value))) / pixels as f64;
        centered.extend(channel.iter().map(|value| f64::from(*value) - mean));
    }
    let rows = || centered.chunks_exact(pixels.max(1));
    let project = |direction: &[f64]| {
        let mut projected = vec![0.0; pixels];
        for (row, factor) in rows().zip(direction) {
            projected.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
        }
        projected
    };
    // Begins with the channel that varies most.
    let strengths: Vec<f64> = rows().map(|row| sum(row.iter().map(|value| value * value))).collect();
    let most = strengths.iter().copied().fold(0.0, f64::max);
    let mut direction: Vec<f64> = strengths.iter().map(|strength| if *strength == most { 1.0 } else { 1e-3 }).collect();
    for _ in 0..500 {
        let projected = project(&direction);
        let next: Vec<f64> = rows().map(|row| sum(row.iter().zip(&projected).map(|(a, b)| a * b))).collect();
        let norm = sum(next.iter().map(|value| value * value)).sqrt();
        if norm == 0.0 {
            return vec![0.0; pixels];
        }
        let next: Vec<f64> = next.into_iter().map(|value| value / norm).collect();
        let change = next.iter().zip(&direction).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        direction = next;
        if change < 1e-10 {
            break;
        }
    }
    let projected = project(&direction);
    let strongest = projected.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a }).unwrap_or(0.0);
    projected.into_iter().map(|value| if strongest < 0.0 { -value } else { value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_component_is_found() {
        // Two channels that move along (3, 4) / 5, and a little across it.
        let along = [-2.0, 5.0, 1.0, -4.0];
        let across = [0.1, 0.1, -0.1, -0.1];
        let channel = |a: f64, b: f64| along.iter().zip(across).map(move |(x, y)| (7.0 + a * x + b * y) as f32);
        let map: Vec<f32> = channel(0.6, -0.8).chain(channel(0.8, 0.6)).collect();
        for (found, expected) in first_component(&map, 2).into_iter().zip(along) {
            assert!((found - expected).abs() < 0.02, "{found}, not {expected}");
        }
        assert_eq!(first_component(&[3.0; 8], 2), [0.0; 4]);
    }
}
