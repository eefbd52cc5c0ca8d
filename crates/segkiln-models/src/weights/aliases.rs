//! Other names that files have for a network's tensors.

use std::collections::{BTreeMap, HashMap};

/// Finds other names of a network's tensors, given all of PyTorch's names: pairs of the other name and PyTorch's; none where the names
/// are another network's.
pub(crate) type OtherNames = fn(&[&str]) -> Vec<(String, String)>;

/// Pairs each name with the others that `others` has for its parts between dots.
pub(crate) fn each_name(names: &[&str], others: impl Fn(&[&str]) -> Vec<String>) -> Vec<(String, String)> {
    let pairs = names.iter().flat_map(|name| {
        let others = others(&name.split('.').collect::<Vec<_>>());
        others.into_iter().map(|other| (other, (*name).to_string()))
    });
    pairs.collect()
}

/// The other names of a network's tensors, and their names in it. Those of its encoder may also stand behind
/// `encoder.model.`, as segmentation_models_pytorch has them of timm.
pub(super) fn aliases<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<String, String> {
    let mut by_prefix = BTreeMap::<&str, Vec<&str>>::new();
    for (prefix, name) in names.map(split) {
        by_prefix.entry(prefix).or_default().push(name);
    }
    let mut found = HashMap::new();
    for (prefix, names) in by_prefix {
        let others = crate::backbones::OTHER_NAMES.iter().flat_map(|others| others(&names));
        for (other, name) in others.chain(names.iter().map(|name| (name.to_string(), name.to_string()))) {
            if prefix == "encoder." {
                found.insert(format!("{prefix}model.{other}"), format!("{prefix}{name}"));
            }
            if other != name {
                found.insert(format!("{prefix}{other}"), format!("{prefix}{name}"));
            }
        }
        let whole: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
        let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
        let networks = crate::segmentation::OTHER_NAMES.iter().chain(crate::detection::OTHER_NAMES);
        found.extend(networks.flat_map(|others| others(&whole)));
    }
    found
}

/// Splits a tensor's name into the prefix of the backbone, empty where there is none, and the rest.
fn split(name: &str) -> (&str, &str) {
    let length =
        ["encoder.", "backbone."].iter().find(|prefix| name.starts_with(**prefix)).map_or(0, |found| found.len());
    name.split_at(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_are_understood() {
        for (old, new) in [
            ("rpn.head.conv.weight", "rpn.head.conv.0.0.weight"),
            ("backbone.fpn.inner_blocks.2.bias", "backbone.fpn.inner_blocks.2.0.bias"),
            ("roi_heads.mask_head.mask_fcn1.weight", "roi_heads.mask_head.0.0.weight"),
            ("head.regression_head.conv.2.bias", "head.regression_head.conv.1.0.bias"),
            ("backbone.blocks.1.0.conv_pw.weight", "backbone.features.2.0.block.0.0.weight"),
            ("encoder.model.blocks.1.0.conv_pw.weight", "encoder.features.2.0.block.0.0.weight"),
            ("encoder.model.decoder.weight", "encoder.decoder.weight"),
        ] {
            let more = ["backbone.features.2.0.block.1.0.weight", "backbone.features.2.0.block.3.0.weight"];
            let encoder = more.map(|name| name.replace("backbone", "encoder"));
            let names = more.into_iter().chain(encoder.iter().map(String::as_str)).chain([new]);
            let found = aliases(names);
            assert_eq!(found.get(old).map(String::as_str), Some(new), "{found:?}");
            assert!(!found.contains_key(new));
        }
    }
}
