//! segmentation_models_pytorch's names of encoders, and its files.

use std::borrow::Cow;

/// Before the names of encoders that it takes from timm as they are.
const TIMM: &str = "tu-";

/// The name in [`BackboneConfig::NAMES`](super::BackboneConfig::NAMES) of an encoder of segmentation_models_pytorch.
pub(super) fn translated(name: &str) -> Cow<'_, str> {
    match name.strip_prefix("timm-").or(name.strip_prefix(TIMM)) {
        // What it had of timm before it took encoders as they are.
        Some(rest) if name.starts_with("timm-") && rest.starts_with("mobilenetv3") => format!("tf_{rest}").into(),
        // Which pad as PyTorch's, also where they are called after TensorFlow's.
        Some(rest) if name.starts_with("timm-") => {
            rest.strip_prefix("tf_").unwrap_or(rest).replace("net-b", "net_b").into()
        }
        Some(rest) => rest.into(),
        // Its first EfficientNets pad as TensorFlow's.
        None if name.starts_with("efficientnet-b") => format!("tf_{}", name.replace("net-b", "net_b")).into(),
        None => name.into(),
    }
}

/// Whether it is timm's network as it is, and not one of its own.
pub(crate) fn is_timm(name: &str) -> bool {
    name.starts_with(TIMM) || name.starts_with("timm-mobilenetv3")
}

/// The name of the encoder whose tensors are called so, where it is not all that `backbone` says: the names tell what no
/// tensor shows, padding, dilation and epsilon.
pub(crate) fn of_tensors<'a>(backbone: &str, tensors: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let has = |name: &str| {
        tensors
            .clone()
            .any(|tensor| tensor.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    };
    if let Some(number) = backbone.strip_prefix("tf_").unwrap_or(backbone).strip_prefix("efficientnet_b")
        && has("_conv_stem.weight")
    {
        return Some(format!("efficientnet-b{number}"));
    }
    if ["tu-", "timm-", "efficientnet-", "convnext"].iter().any(|begin| backbone.starts_with(begin)) {
        return None;
    }
    let theirs = match backbone {
        "mobilenet_v3_large" if has("conv_stem.weight") => "mobilenetv3_large_100",
        "mobilenet_v3_small" if has("conv_stem.weight") => "mobilenetv3_small_100",
        other => other,
    };
    if tensors.clone().any(|tensor| tensor.starts_with("encoder.model.")) {
        return Some(format!("{TIMM}{theirs}"));
    }
    (theirs != backbone).then(|| theirs.into())
}
