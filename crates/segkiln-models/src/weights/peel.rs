//! Names of tensors without what checkpoints and wrappers have put before them.

use std::collections::{BTreeSet, HashSet};

/// Names under which programs keep a network in a checkpoint, the likeliest first.
const WRAPPERS: [&str; 16] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "_orig_mod",
    "params",
    "weights",
    "params_ema",
    "model_ema",
    "ema_model",
    "ema",
    "ema_state_dict",
    "averaged_model",
];

/// Names under which checkpoints keep what is no network.
const BESIDE: [&str; 12] = [
    "optimizer",
    "optimizers",
    "optimizer_state",
    "optimizer_states",
    "optimizer_state_dict",
    "scheduler",
    "lr_scheduler",
    "lr_schedulers",
    "scaler",
    "loops",
    "callbacks",
    "hyper_parameters",
];

/// Wrappers within wrappers that are looked into.
const DEPTH: usize = 6;

/// The prefix that leaves the most names known, such as `state_dict.module.`; of equal ones the first.
pub(super) fn prefix<'a>(names: impl Iterator<Item = &'a str> + Clone, known: impl Fn(&str) -> bool) -> String {
    let mut best = (0, String::new());
    let mut level: Vec<String> = vec![String::new()];
    let mut seen: HashSet<String> = HashSet::new();
    for _ in 0..=DEPTH {
        let mut next = Vec::new();
        for prefix in level {
            let rest = || names.clone().filter_map(|name| name.strip_prefix(prefix.as_str()));
            let hits = rest().filter(|name| known(name)).count();
            if hits > best.0 {
                best = (hits, prefix.clone());
            }
            let children: BTreeSet<&str> = rest().filter_map(|name| Some(name.split_once('.')?.0)).collect();
            let children: BTreeSet<&str> = children.into_iter().filter(|child| !BESIDE.contains(child)).collect();
            let wrapped = WRAPPERS.iter().copied().filter(|wrapper| children.contains(wrapper));
            // Of Lightning's modules, each program calls its network as it likes.
            let alone = (children.len() == 1).then(|| children.first().copied()).flatten();
            let inner = wrapped.chain(alone).map(|child| format!("{prefix}{child}."));
            next.extend(inner.filter(|prefix| seen.insert(prefix.clone())));
        }
        level = next;
    }
    best.1
}

/// Whether a name belongs to an optimizer, a schedule or the like beside the network.
pub(super) fn is_beside(name: &str) -> bool {
    name.split_once('.').is_some_and(|(first, _)| BESIDE.contains(&first))
}

/// The kind of network that has such names.
pub(super) fn looks_like<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    let has = |part: &str| names.clone().any(|name| name.contains(part));
    Some(match () {
        _ if has("segformer.encoder.") => "SegFormer of Hugging Face",
        _ if has("roi_heads.mask_predictor.") => "Mask R-CNN of torchvision",
        _ if has("roi_heads.box_predictor.") => "Faster R-CNN of torchvision",
        _ if has("head.regression_head.bbox_ctrness") => "FCOS of torchvision",
        _ if has("head.regression_head.") => "RetinaNet of torchvision",
        _ if has("segmentation_head.") && has("encoder.") => "a network of segmentation_models_pytorch",
        _ if has("aux_classifier.") || (has("backbone.layer1.") && has("classifier.")) => {
            "FCN or DeepLabV3 of torchvision"
        }
        _ if has("image_encoder.") => "Segment Anything",
        _ if has("blocks.") && has("patch_embed") => "a vision transformer",
        _ if has("layer4.") && has("conv1.weight") => "ResNet",
        _ if has("features.") && has("classifier.") => {
            "a classifier of torchvision with `features` (VGG, MobileNet, EfficientNet)"
        }
        _ if has("stages.") && has("stem.") => "ConvNeXt of timm",
        _ if has("inc.double_conv.") || has("down1.maxpool_conv.") => "the U-Net of milesial/Pytorch-UNet",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> String {
        prefix(names.iter().copied(), |name| ["conv.weight", "head.bias"].contains(&name))
    }

    #[test]
    fn wrappers_are_peeled_in_turn() {
        for wrapper in [
            "",
            "state_dict.",
            "module.",
            "_orig_mod.",
            "state_dict.module.",
            "model.module.",
            "state_dict.model.",
            "state_dict.net.",
            "state_dict.unet.",
            "model_state._orig_mod.module.",
            "ema.module.",
            "checkpoint.model_state_dict.module._orig_mod.",
        ] {
            let names = ["conv.weight", "head.bias"].map(|name| format!("{wrapper}{name}"));
            let beside = ["optimizer.state.0.exp_avg", "optimizer_states.x.y"];
            let all: Vec<&str> = names.iter().map(String::as_str).chain(beside).collect();
            assert_eq!(of(&all), wrapper);
        }
    }

    #[test]
    fn the_network_is_taken_before_its_average() {
        assert_eq!(of(&["ema.conv.weight", "model.conv.weight"]), "model.");
        assert_eq!(of(&["ema.conv.weight", "ema.head.bias", "model.conv.weight"]), "ema.");
        assert_eq!(of(&["other.a", "another.b"]), "");
    }

    #[test]
    fn networks_are_told_by_their_names() {
        let like = |names: &[&str]| looks_like(names.iter().copied());
        assert_eq!(like(&["conv1.weight", "layer4.2.bn3.bias"]), Some("ResNet"));
        assert_eq!(like(&["state_dict.roi_heads.box_predictor.cls_score.weight"]), Some("Faster R-CNN of torchvision"));
        assert_eq!(like(&["a", "b.c"]), None);
        assert!(is_beside("optimizer.state.0.exp_avg") && !is_beside("optimizers") && !is_beside("conv.weight"));
    }
}
