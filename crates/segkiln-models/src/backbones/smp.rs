//! segmentation_models_pytorch's names of encoders, and its files.

use std::borrow::Cow;

/// Before the names of encoders that it takes from timm as they are.
const TIMM: &str = "tu-";
/// Before those that it had of timm earlier.
const OLD_TIMM: &str = "timm-";

/// Backbones that timm has not, or has as other networks.
const NOT_TIMM: [&str; 2] = ["vgg", "mobilenet_v"];

/// The name in [`BackboneConfig::NAMES`](super::BackboneConfig::NAMES) of an encoder of segmentation_models_pytorch; none if it
/// has no such one of timm.
pub(super) fn translated(name: &str) -> Option<Cow<'_, str>> {
    let plain = |name: &str| name.replace("net-b", "net_b");
    Some(if let Some(rest) = name.strip_prefix(TIMM) {
        if NOT_TIMM.iter().any(|begin| rest.starts_with(begin)) {
            return None;
        }
        rest.into()
    } else if let Some(rest) = name.strip_prefix(OLD_TIMM) {
        match rest.starts_with("mobilenetv3") {
            true => format!("tf_{rest}").into(),
            // Which pad as PyTorch's, also where they are called after TensorFlow's.
            false => plain(rest.strip_prefix("tf_").unwrap_or(rest)).into(),
        }
    } else if name.starts_with("efficientnet-b") {
        // Which pad as TensorFlow's.
        format!("tf_{}", plain(name)).into()
    } else {
        name.into()
    })
}

/// Whether it is timm's network as it is, and not one of its own.
pub(crate) fn is_timm(name: &str) -> bool {
    name.starts_with(TIMM) || name.strip_prefix(OLD_TIMM).is_some_and(|rest| rest.starts_with("mobilenetv3"))
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
    if [TIMM, OLD_TIMM, "efficientnet-", "convnext"].iter().any(|begin| backbone.starts_with(begin)) {
        return None;
    }
    let theirs = match backbone {
        "mobilenet_v3_large" if has("conv_stem.weight") => "mobilenetv3_large_100",
        "mobilenet_v3_small" if has("conv_stem.weight") => "mobilenetv3_small_100",
        other => other,
    };
    let is_known = !NOT_TIMM.iter().any(|begin| theirs.starts_with(begin));
    if is_known && tensors.clone().any(|tensor| tensor.starts_with("encoder.model.")) {
        return Some(format!("{TIMM}{theirs}"));
    }
    (theirs != backbone).then(|| theirs.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        for (theirs, ours) in [
            ("resnet18", "resnet18"),
            ("efficientnet-b3", "tf_efficientnet_b3"),
            ("timm-efficientnet-b3", "efficientnet_b3"),
            ("timm-tf_efficientnet_lite0", "efficientnet_lite0"),
            ("timm-mobilenetv3_large_100", "tf_mobilenetv3_large_100"),
            ("tu-tf_efficientnet_b0", "tf_efficientnet_b0"),
            ("tu-mobilenetv3_small_100", "mobilenetv3_small_100"),
        ] {
            assert_eq!(translated(theirs).as_deref(), Some(ours));
        }
        assert_eq!(translated("tu-vgg16_bn"), None);
        assert_eq!(translated("tu-mobilenet_v3_large"), None);
    }

    #[test]
    fn tensors_tell_the_encoder() {
        for (name, tensor, encoder) in [
            ("efficientnet_b0", "encoder._conv_stem.weight", Some("efficientnet-b0")),
            ("tf_efficientnet_b1", "_conv_stem.weight", Some("efficientnet-b1")),
            ("efficientnet_b0", "encoder.conv_stem.weight", None),
            ("efficientnet_b0", "encoder.model.conv_stem.weight", Some("tu-efficientnet_b0")),
            ("mobilenet_v3_large", "conv_stem.weight", Some("mobilenetv3_large_100")),
            ("mobilenet_v3_small", "encoder.model.conv_stem.weight", Some("tu-mobilenetv3_small_100")),
            ("resnet50", "encoder.model.conv1.weight", Some("tu-resnet50")),
            ("resnet50", "encoder.conv1.weight", None),
            ("vgg16_bn", "encoder.model.features_0.weight", None),
            ("tu-resnet50", "encoder.model.conv1.weight", None),
        ] {
            assert_eq!(of_tensors(name, std::iter::once(tensor)).as_deref(), encoder, "{name}, {tensor}");
        }
    }
}
