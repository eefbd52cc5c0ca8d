//! Sanity check of explanations: comparison with those of networks with random weights.

use burn::{
    module::{ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{Tensor, TensorData},
};
use segkiln_data::Image;
use segkiln_models::{ModelCard, SegmentationNetwork};

use crate::{
    ExplainError, ExplanationTarget, Map, Method, Question, Result, SegmentationSubject, Subject, methods::normal,
    subject::values,
};

/// Likeness of a map and the map of a network with random weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomizedWeights {
    /// Number of tensors of weights, counted from the network's end, that are random.
    pub tensors: usize,
    /// Rank correlation (Spearman) of the amounts of both maps, from -1 to 1.
    pub correlation: f64,
}

/// Compares an explanation with those of copies of the network in which more and more tensors of weights, from the end of the network, are
/// random: cascading randomization, Adebayo et al., NeurIPS 2018, <https://arxiv.org/abs/1810.03292>. An explanation whose map hardly changes
/// (a correlation that stays near 1) does not depend on what the network has learned.
///
/// Random weights have the mean and the deviation of the tensor that they replace; running statistics of norms stay as they are. There is
/// a result for each of `steps` equal shares of the tensors, the last one all of them. The end is that of the network's module, which lists
/// layers in the order of its fields.
///
/// # Errors
/// If the target does not fit, the method fails, or `steps` is 0.
#[expect(clippy::too_many_arguments, reason = "a question, which holds a network of its own, and how it is varied")]
pub fn randomized_weights<M: SegmentationNetwork>(
    subject: &SegmentationSubject<M>,
    card: &ModelCard<M::Config>,
    image: &Image,
    target: &ExplanationTarget,
    layers: &[String],
    method: &dyn Method,
    steps: usize,
    seed: u64,
) -> Result<Vec<RandomizedWeights>> {
    if steps == 0 {
        return Err(ExplainError::Option { option: "steps", reason: "must be at least 1".into() });
    }
    // The pixels that the network itself gives the class stay the same ones.
    let question = Question::new(subject, image, target)?;
    let target = question.target().clone();
    let explained = |subject: &SegmentationSubject<M>| -> Result<Map> {
        let question = Question::new(subject, image, &target)?.with_seed(seed);
        let question = if layers.is_empty() { question } else { question.with_layers(layers)? };
        Ok(question.explain(method)?.map)
    };
    let original = explained(subject)?;
    let mut weights = Weights::default();
    subject.network().visit(&mut weights);
    let count = weights.ids.len();
    let mut found = Vec::new();
    for step in 1..=steps {
        let tensors = count * step / steps;
        let mut randomize = Randomize { weights: &weights.ids, first: count - tensors, seed, error: None };
        // A clone shares its running statistics with the network, and mapping writes them.
        let network = subject.network().valid().map(&mut randomize);
        if let Some(error) = randomize.error {
            return Err(error);
        }
        let random = explained(&SegmentationSubject::new(&network, card, subject.device())?)?;
        found
            .push(RandomizedWeights { tensors, correlation: rank_correlation(original.as_slice(), random.as_slice()) });
    }
    Ok(found)
}

/// Weights of a network in its order, without the running statistics of norms: a random variance may be below 0.
#[derive(Default)]
struct Weights {
    /// Names of the fields that the visitor is in.
    path: Vec<String>,
    ids: Vec<ParamId>,
}

impl ModuleVisitor for Weights {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let is_statistic = self.path.last().is_some_and(|name| name == "running_mean" || name == "running_var");
        if !is_statistic {
            self.ids.push(param.id);
        }
    }
}

struct Randomize<'a> {
    weights: &'a [ParamId],
    /// Index of the first tensor that is replaced.
    first: usize,
    seed: u64,
    error: Option<ExplainError>,
}

impl Randomize<'_> {
    fn random<const D: usize>(&self, index: usize, weights: Tensor<D>) -> Result<Tensor<D>> {
        let (dims, device) = (weights.dims(), weights.device());
        let found = values(weights)?;
        let count = found.len().max(1) as f64;
        let mean = found.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let variance = found.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
        let noise = normal(self.seed, index as u64 + 1, found.len(), variance.sqrt());
        let random: Vec<f32> = noise.into_iter().map(|noise| (f64::from(noise) + mean) as f32).collect();
        Ok(Tensor::from_data(TensorData::new(random, dims), &device))
    }
}

impl ModuleMapper for Randomize<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.weights.iter().position(|id| *id == param.id);
        let Some(index) = index.filter(|index| *index >= self.first && self.error.is_none()) else { return param };
        param.map(|weights| match self.random(index, weights.clone()) {
            Ok(random) => random,
            Err(error) => {
                self.error = Some(error);
                weights
            }
        })
    }
}

/// Spearman's rank correlation of the amounts of two maps; equal ones share the mean of their ranks. 0 where a map is constant.
fn rank_correlation(a: &[f32], b: &[f32]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len().max(1) - 1) as f64 / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let length = (product(&a, &a) * product(&b, &b)).sqrt();
    if length == 0.0 { 0.0 } else { product(&a, &b) / length }
}

fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs()));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    for equal in order.chunk_by(|a, b| values[*a].abs() == values[*b].abs()) {
        let rank = from as f64 + (equal.len() - 1) as f64 / 2.0;
        equal.iter().for_each(|index| ranks[*index] = rank);
        from += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, RunningState},
        nn::BatchNormConfig,
        tensor::Device,
    };

    use super::*;

    #[test]
    fn running_statistics_are_no_weights() {
        let device = Device::default();
        let mut norm = BatchNormConfig::new(2).init(&device);
        norm.gamma = Param::from_data([0.5f32, 2.0], &device);
        norm.running_var = RunningState::new(Tensor::from_floats([0.01f32, 4.0], &device));
        let mut weights = Weights::default();
        norm.visit(&mut weights);
        assert_eq!(weights.ids, [norm.gamma.id, norm.beta.id]);
        let mut randomize = Randomize { weights: &weights.ids, first: 0, seed: 1, error: None };
        let random = norm.valid().map(&mut randomize);
        assert_ne!(values(random.gamma.val()).unwrap(), [0.5, 2.0]);
        for norm in [&norm, &random] {
            assert_eq!(values(norm.running_var.value()).unwrap(), [0.01, 4.0]);
        }
    }

    #[test]
    fn ranks_are_compared() {
        assert_eq!(ranks(&[3.0, -1.0, 1.0, 0.0]), [3.0, 1.5, 1.5, 0.0]);
        let near = |a: &[f32], b: &[f32], expected: f64| {
            let found = rank_correlation(a, b);
            assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        };
        near(&[0.1, 0.2, 0.9, 5.0], &[1.0, 2.0, 3.0, -4.0], 1.0);
        near(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0], -1.0);
        near(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 1.0, 4.0, 3.0, 5.0], 0.8);
        near(&[1.0, 1.0, 1.0], &[3.0, 2.0, 1.0], 0.0);
    }
}
