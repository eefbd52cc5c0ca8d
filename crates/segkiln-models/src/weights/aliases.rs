//! What timm and segmentation_models_pytorch call the tensors of networks that torchvision also has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The layers of an EfficientNet's block in timm and in EfficientNet-PyTorch, of which segmentation_models_pytorch has it:
/// expansion, depthwise, projection. A block without expansion begins with the second.
const LAYERS: [[&str; 2]; 3] =
    [["conv_pw", "_expand_conv"], ["conv_dw", "_depthwise_conv"], ["conv_pwl", "_project_conv"]];

/// The other names of a network's tensors, and their names in it. Those of its encoder may also stand behind
/// `encoder.model.`, as segmentation_models_pytorch has them of timm.
pub(super) fn aliases<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<String, String> {
    let names: Vec<(&str, &str)> = names.map(split).collect();
    let blocks = blocks(&names);
    let is_convnext = names.iter().any(|(_, name)| name.ends_with(".layer_scale"));
    let mut found = HashMap::new();
    for (prefix, name) in names {
        let parts: Vec<&str> = name.split('.').collect();
        let others = if is_convnext { convnext(&parts) } else { efficientnet(&parts, &blocks) };
        for other in others {
            found.insert(format!("{prefix}{other}"), format!("{prefix}{name}"));
            if prefix == "encoder." {
                found.insert(format!("{prefix}model.{other}"), format!("{prefix}{name}"));
            }
        }
    }
    found
}

/// What stands before the names of a backbone's tensors, and the rest.
fn split(name: &str) -> (&str, &str) {
    let length =
        ["encoder.", "backbone."].iter().find(|prefix| name.starts_with(**prefix)).map_or(0, |found| found.len());
    name.split_at(length)
}

/// The stage and the number in it of each block of an EfficientNet, in order, and the numbers of its convolutions; none of
/// another network.
type Blocks = BTreeMap<(usize, usize), BTreeSet<usize>>;

fn blocks(names: &[(&str, &str)]) -> Blocks {
    let mut blocks = Blocks::new();
    for (_, name) in names {
        if let ["features", stage, block, "block", layer, "0", "weight"] = name.split('.').collect::<Vec<_>>()[..]
            && let (Ok(stage), Ok(block), Ok(layer)) = (stage.parse(), block.parse(), layer.parse())
        {
            blocks.entry((stage, block)).or_default().insert(layer);
        }
    }
    blocks
}

fn efficientnet(parts: &[&str], blocks: &Blocks) -> Vec<String> {
    let Some((&(last, _), _)) = blocks.last_key_value() else { return Vec::new() };
    match *parts {
        ["features", "0", "0", kind] => vec![format!("conv_stem.{kind}"), format!("_conv_stem.{kind}")],
        ["features", "0", "1", kind] => vec![format!("bn1.{kind}"), format!("_bn0.{kind}")],
        ["features", stage, "0", kind] if stage.parse() == Ok(last + 1) => {
            vec![format!("conv_head.{kind}"), format!("_conv_head.{kind}")]
        }
        ["features", stage, "1", kind] if stage.parse() == Ok(last + 1) => {
            vec![format!("bn2.{kind}"), format!("_bn1.{kind}")]
        }
        ["classifier", "1", kind] => vec![format!("classifier.{kind}"), format!("_fc.{kind}")],
        ["features", stage, block, "block", layer, part, kind] => {
            let key = (stage.parse().unwrap_or(0), block.parse().unwrap_or(0));
            let Some(convolutions) = blocks.get(&key) else { return Vec::new() };
            let number = blocks.range(..key).count();
            let at = convolutions.iter().position(|convolution| layer.parse() == Ok(*convolution));
            let skipped = LAYERS.len().saturating_sub(convolutions.len());
            let [theirs, other] = match (part, at) {
                ("fc1", _) => ["se.conv_reduce".into(), "_se_reduce".into()],
                ("fc2", _) => ["se.conv_expand".into(), "_se_expand".into()],
                ("1", Some(at)) => [format!("bn{}", at + 1), format!("_bn{}", at + skipped)],
                // timm calls the projection of a block without expansion as it calls expansions.
                ("0", Some(1)) if skipped == 1 => [LAYERS[0][0].into(), LAYERS[2][1].into()],
                ("0", Some(at)) => LAYERS[at + skipped].map(String::from),
                _ => return Vec::new(),
            };
            vec![
                format!("blocks.{}.{block}.{theirs}.{kind}", key.0.saturating_sub(1)),
                format!("_blocks.{number}.{other}.{kind}"),
            ]
        }
        _ => Vec::new(),
    }
}

/// By torchvision's numbers of the stages: 0 the stem, then by turns blocks and what halves the map. Where timm gives maps
/// out, an underscore stands before the number.
fn convnext(parts: &[&str]) -> Vec<String> {
    let layer = |number| match number {
        "0" => Some("conv_dw"),
        "2" => Some("norm"),
        "3" => Some("mlp.fc1"),
        "5" => Some("mlp.fc2"),
        _ => None,
    };
    let (group, rest) = match *parts {
        ["features", "0", part, kind] => ("stem", format!("{part}.{kind}")),
        ["features", stage, ref rest @ ..] => {
            let Ok(stage) = stage.parse::<usize>() else { return Vec::new() };
            let name = match *rest {
                [part, kind] if stage % 2 == 0 => Some(format!("downsample.{part}.{kind}")),
                [block, "layer_scale"] => Some(format!("blocks.{block}.gamma")),
                [block, "block", number, kind] => layer(number).map(|layer| format!("blocks.{block}.{layer}.{kind}")),
                _ => None,
            };
            let Some(name) = name else { return Vec::new() };
            // Blocks of stage 1 and what comes before those of stage 3 are timm's stages 0 and 1.
            ("stages", format!("{}.{name}", stage / 2))
        }
        ["classifier", "0", kind] => return vec![format!("head.norm.{kind}")],
        ["classifier", "2", kind] => return vec![format!("head.fc.{kind}")],
        _ => return Vec::new(),
    };
    ['.', '_'].map(|between| format!("{group}{between}{rest}")).into()
}
