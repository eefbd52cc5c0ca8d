//! Learning rates that fall towards a backbone's first layers, which have more to lose than to learn: the discriminative
//! fine-tuning of Howard and Ruder, ACL 2018, <https://arxiv.org/abs/1801.06146>.

use std::collections::BTreeSet;

use burn::{
    lr_scheduler::module_lr_scheduler::ModuleLrScheduler,
    module::{Module, ModuleVisitor, Param, ParamGroup},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

use crate::{Result, TrainError, schedule::Schedule};

/// The learning rates of a backbone's groups of layers, as shares of the other layers'. The groups are those that
/// `freeze_backbone` counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerRates {
    /// Share of the last group.
    pub last: f64,
    /// Decay from group to group: each earlier group's rate is multiplied by it once more.
    pub decay: f64,
}

impl LayerRates {
    /// One rate for the whole backbone.
    pub fn backbone(share: f64) -> Self {
        Self { last: share, decay: 1.0 }
    }

    pub(crate) fn check(self) -> Result<()> {
        for (name, share) in [("last", self.last), ("decay", self.decay)] {
            if !(share > 0.0 && share <= 1.0) {
                let reason = format!("{name} must be above 0 and at most 1, is {share}");
                return Err(TrainError::Recipe { field: "layer_rates", reason });
            }
        }
        Ok(())
    }

    /// The schedule `of` a share of the rate, for each of the groups that [`groups`] finds; that of 1 for all other layers.
    pub(crate) fn scheduler(self, groups: Vec<Vec<String>>, of: impl Fn(f64) -> Schedule) -> ModuleLrScheduler {
        let mut share = self.last;
        groups.into_iter().fold(ModuleLrScheduler::new(of(1.0)), |scheduler, paths| {
            let group = of(share);
            share *= self.decay;
            scheduler.with_group(ParamGroup::from_paths(paths), group)
        })
    }
}

/// The paths of the parameters that learn only where `freeze` spares one group, a second, and so on.
pub(crate) fn groups<M: Module>(task: &M, freeze: impl Fn(M, usize) -> M) -> Vec<Vec<String>> {
    let all = learning(task);
    let mut spared = learning(&freeze(task.clone(), 0));
    let mut groups = Vec::new();
    while spared.len() < all.len() {
        let more = learning(&freeze(task.clone(), groups.len() + 1));
        groups.push(more.difference(&spared).cloned().collect());
        spared = more;
    }
    groups
}

/// The paths of the parameters that learn.
fn learning<M: Module>(module: &M) -> BTreeSet<String> {
    #[derive(Default)]
    struct Learning {
        path: Vec<String>,
        found: BTreeSet<String>,
    }

    impl ModuleVisitor for Learning {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.found.insert(self.path.join("."));
            }
        }
    }

    let mut learning = Learning::default();
    module.visit(&mut learning);
    learning.found
}

#[cfg(test)]
mod tests {
    use burn::{module::ParamId, optim::GradientsParams, tensor::Device};
    use segkiln_models::{
        ModelConfig, SegmentationModel, SegmentationNetwork, SegmentationNetworkConfig, backbones::Backbone,
    };

    use super::*;
    use crate::{optimizer::OptimizerConfig, schedule::ScheduleConfig};

    #[test]
    fn rates_fall_from_group_to_group() {
        let device = Device::default().autodiff();
        for (name, count, paths) in [
            ("fpn_resnet18", 5, ["decoder", "layer4", "layer3", "layer2", "layer1", "ResNet.conv1"]),
            (
                "unet_mobilenet_v2",
                6,
                ["decoder", "features.18", "features.17", "features.13", "features.6", "features.2"],
            ),
        ] {
            let model = ModelConfig::by_name(name, 2).unwrap().init(&device);
            let all = learning(&model);
            let groups = groups(&model, |model, trainable| model.freeze_backbone(trainable));
            assert_eq!(groups.len(), count, "{name}");
            let rates = LayerRates { last: 0.5, decay: 0.1 };
            let mut scheduler = rates.scheduler(groups, |share| Schedule::new(ScheduleConfig::Constant, share, 10));
            let rates = scheduler.step();
            for (depth, part) in paths.into_iter().enumerate() {
                let expected = if depth == 0 { 1.0 } else { 0.5 * 0.1f64.powi(depth as i32 - 1) };
                let part = format!(".{part}.");
                let paths: Vec<&String> = all.iter().filter(|path| format!(".{path}").contains(&part)).collect();
                assert!(!paths.is_empty(), "{name} {part}");
                for path in paths {
                    let rate = rates.lr_from_param(ParamId::new(), Some(path));
                    assert!((rate / expected - 1.0).abs() < 1e-9, "{path}: {rate} {expected}");
                }
            }
        }
        // What does not learn is in no group.
        let model = ModelConfig::by_name("fpn_resnet18", 2).unwrap().init(&device).freeze_backbone(2);
        assert_eq!(groups(&model, |model, trainable| model.freeze_backbone(trainable)).len(), 2);
    }

    /// An optimizer's step moves each layer by its rate.
    #[test]
    fn steps_are_of_each_layer_s_rate() {
        let device = Device::default().autodiff();
        let model = ModelConfig::by_name("fpn_resnet18", 2).unwrap().init(&device);
        let gradients =
            GradientsParams::from_grads(model.forward(Tensor::ones([1, 3, 32, 32], &device)).sum().backward(), &model);
        let groups = groups(&model, |model, trainable| model.freeze_backbone(trainable));
        let rates = LayerRates { last: 0.5, decay: 0.1 };
        let mut scheduler = rates.scheduler(groups, |share| Schedule::new(ScheduleConfig::Constant, share, 10));
        let layers = |model: &SegmentationModel| {
            let SegmentationModel::Fpn(model) = model else { panic!("another network") };
            let Backbone::ResNet(encoder) = &model.encoder else { panic!("another backbone") };
            [&encoder.conv1, &model.segmentation_head].map(|conv| conv.weight.clone())
        };
        let before = layers(&model);
        let slopes = before.each_ref().map(|weight| gradients.get::<4>(weight.id).unwrap());
        let mut optimizer = OptimizerConfig::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }.init(&model);
        let after = layers(&optimizer.step(scheduler.step(), model, gradients));
        for (((before, after), slope), rate) in before.iter().zip(&after).zip(slopes).zip([0.5e-4, 1.0]) {
            let expected = slope.mul_scalar(rate);
            let moved = before.val().without_autodiff() - after.val().without_autodiff();
            let most = expected.clone().abs().max().into_scalar::<f32>();
            let error = (moved - expected).abs().max().into_scalar::<f32>();
            assert!(most > 0.0 && error <= 1e-3 * most, "{rate}: {error} of {most}");
        }
    }

    #[test]
    fn shares_out_of_range_are_named() {
        assert!(LayerRates::backbone(0.1).check().is_ok());
        let error = LayerRates { last: 0.1, decay: 1.5 }.check().unwrap_err().to_string();
        assert!(error.contains("layer_rates") && error.contains("decay"), "{error}");
        assert!(LayerRates { last: f64::NAN, decay: 1.0 }.check().is_err());
    }
}
