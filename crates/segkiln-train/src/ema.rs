//! Exponential moving average of weights.

use burn::{
    module::{Module, ParamId},
    optim::GradientsParams,
    tensor::Tensor,
};

use crate::params::{ReadParams, read_params, replace_params};

/// A running average of a module's parameters and running statistics: `average ← d · average + (1 − d) · value` after each
/// step, with `d = min(decay, (1 + step) / (10 + step))` so that the first, random weights are soon forgotten.
///
/// The averaged network is usually a little better than the last one, and is what is validated and kept.
pub struct Ema {
    decay: f64,
    step: usize,
    averages: GradientsParams,
}

impl Ema {
    /// Starts at the weights of `module`. `decay` is in `(0, 1)`, typically 0.999; `step` is the number of updates that they
    /// are the average of already.
    pub fn new<M: Module>(decay: f64, step: usize, module: &M) -> Self {
        let mut copy = Copy(GradientsParams::new());
        read_params(module, &mut copy);
        Self { decay, step, averages: copy.0 }
    }

    /// Takes in the weights of `module` after an optimizer step.
    pub fn update<M: Module>(&mut self, module: &M) {
        self.step += 1;
        let decay = self.decay.min((1 + self.step) as f64 / (10 + self.step) as f64);
        read_params(module, &mut Blend { decay, averages: &mut self.averages });
    }

    /// The number of updates so far.
    pub fn step(&self) -> usize {
        self.step
    }

    /// `module` with the averaged weights.
    pub fn apply<M: Module>(&self, module: M) -> M {
        replace_params(module, &self.averages)
    }
}

struct Copy(GradientsParams);

impl ReadParams for Copy {
    fn read<const D: usize>(&mut self, id: ParamId, value: Tensor<D>) {
        self.0.register(id, value);
    }
}

struct Blend<'a> {
    decay: f64,
    averages: &'a mut GradientsParams,
}

impl ReadParams for Blend<'_> {
    fn read<const D: usize>(&mut self, id: ParamId, value: Tensor<D>) {
        let blended = match self.averages.remove::<D>(id) {
            Some(average) => average.mul_scalar(self.decay) + value.mul_scalar(1.0 - self.decay),
            None => value,
        };
        self.averages.register(id, blended);
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{ModuleVisitor, Param, RunningState},
        nn::{BatchNorm, BatchNormConfig},
        tensor::Device,
    };

    use super::*;

    fn running_mean_id(module: &BatchNorm) -> ParamId {
        struct Last(Option<ParamId>);

        impl ModuleVisitor for Last {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 = Some(param.id);
            }
        }

        let mut last = Last(None);
        module.running_mean.visit(&mut last);
        last.0.expect("a running mean is one parameter")
    }

    #[test]
    fn averages_parameters_and_running_statistics() {
        let device = Device::default();
        let module = BatchNormConfig::new(2).init(&device);
        let mut ema = Ema::new(0.5, 100, &module);
        let id = running_mean_id(&module);
        let mut moved = module.clone();
        moved.gamma = moved.gamma.map(|gamma| gamma * 3.0);
        moved.running_mean = RunningState::with_id(id, Tensor::full([2], 4.0, &device));
        ema.update(&moved);
        let averaged = ema.apply(module.clone());
        let values = |x: Tensor<1>| x.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values(averaged.gamma.val()), [2.0; 2]);
        assert_eq!(values(averaged.running_mean.value()), [2.0; 2]);
        assert_eq!(values(averaged.beta.val()), [0.0; 2]);
        assert_eq!(ema.step(), 101);
    }
}
