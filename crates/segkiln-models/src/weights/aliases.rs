//! Names in timm and segmentation_models_pytorch of the tensors of networks that torchvision also has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The layers of an EfficientNet's block in timm and in EfficientNet-PyTorch, of which segmentation_models_pytorch has it:
/// expansion, depthwise, projection. A block without expansion begins with the second.
const LAYERS: [[&str; 2]; 3] =
    [["conv_pw", "_expand_conv"], ["conv_dw", "_depthwise_conv"], ["conv_pwl", "_project_conv"]];

/// The blocks of each stage of a MobileNetV3, small and large.
const MOBILE: [&[usize]; 2] = [&[1, 2, 3, 2, 3], &[1, 2, 3, 4, 2, 3]];

/// The other names of a network's tensors, and their names in it. Those of its encoder may also stand behind
/// `encoder.model.`, as segmentation_models_pytorch has them of timm.
pub(super) fn aliases<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<String, String> {
    let names: Vec<(&str, &str)> = names.map(split).collect();
    let blocks = blocks(&names);
    let is_convnext = names.iter().any(|(_, name)| name.ends_with(".layer_scale"));
    let mut found = HashMap::new();
    for (prefix, name) in names {
        let parts: Vec<&str> = name.split('.').collect();
        let others = match *parts {
            // torchvision's RetinaNet of before 0.13 counts each ReLU as a layer.
            ["head", head @ ("classification_head" | "regression_head"), "conv", index, "0", kind] => {
                let index: Option<usize> = index.parse().ok();
                index.map(|index| format!("head.{head}.conv.{}.{kind}", 2 * index)).into_iter().collect()
            }
            ["segformer" | "decode_head", ..] => segformer(&parts).into_iter().collect(),
            _ if is_convnext => convnext(&parts),
            _ => mobile(&parts, &blocks),
        };
        if prefix == "encoder." {
            found.insert(format!("{prefix}model.{name}"), format!("{prefix}{name}"));
        }
        for other in others {
            found.insert(format!("{prefix}{other}"), format!("{prefix}{name}"));
            if prefix == "encoder." {
                found.insert(format!("{prefix}model.{other}"), format!("{prefix}{name}"));
            }
        }
    }
    found
}

/// Splits a tensor's name into the prefix of the backbone, empty where there is none, and the rest.
fn split(name: &str) -> (&str, &str) {
    let length =
        ["encoder.", "backbone."].iter().find(|prefix| name.starts_with(**prefix)).map_or(0, |found| found.len());
    name.split_at(length)
}

/// The blocks of an EfficientNet or a MobileNetV3, in order, and the numbers of their convolutions; none of another network.
#[derive(Default)]
struct Blocks {
    /// By the stage and the number in it.
    convolutions: BTreeMap<(usize, usize), BTreeSet<usize>>,
    /// The blocks in each stage of a MobileNetV3, where torchvision has them in one list.
    mobile: Option<&'static [usize]>,
}

impl Blocks {
    /// The stage and the number in it of a block that torchvision calls so, both from 0.
    fn timm(&self, (stage, block): (usize, usize)) -> (usize, usize) {
        let (mut at, mut rest) = (0, stage.saturating_sub(1));
        let Some(stages) = self.mobile else { return (rest, block) };
        while at < stages.len() && rest >= stages[at] {
            rest -= stages[at];
            at += 1;
        }
        (at, rest)
    }

    /// torchvision's last stage, a convolution.
    fn last(&self) -> Option<usize> {
        self.convolutions.last_key_value().map(|((stage, _), _)| stage + 1)
    }
}

fn blocks(names: &[(&str, &str)]) -> Blocks {
    let mut blocks = Blocks::default();
    let mut is_mobile = false;
    for (_, name) in names {
        let (stage, block, layer) = match name.split('.').collect::<Vec<_>>()[..] {
            ["features", stage, block, "block", layer, "0", "weight"] => (stage, block, layer),
            ["features", stage, "block", layer, "0", "weight"] => {
                is_mobile = true;
                (stage, "0", layer)
            }
            _ => continue,
        };
        if let (Ok(stage), Ok(block), Ok(layer)) = (stage.parse(), block.parse(), layer.parse()) {
            blocks.convolutions.entry((stage, block)).or_default().insert(layer);
        }
    }
    let count = blocks.convolutions.len();
    blocks.mobile = MOBILE.into_iter().find(|stages| is_mobile && stages.iter().sum::<usize>() == count);
    blocks
}

/// EfficientNet and MobileNetV3.
fn mobile(parts: &[&str], blocks: &Blocks) -> Vec<String> {
    let Some(last) = blocks.last() else { return Vec::new() };
    match *parts {
        ["features", "0", "0", kind] => vec![format!("conv_stem.{kind}"), format!("_conv_stem.{kind}")],
        ["features", "0", "1", kind] => vec![format!("bn1.{kind}"), format!("_bn0.{kind}")],
        ["features", stage, part, kind] if stage.parse() == Ok(last) => match (blocks.mobile, part) {
            (Some(stages), "0") => vec![format!("blocks.{}.0.conv.{kind}", stages.len())],
            (Some(stages), "1") => vec![format!("blocks.{}.0.bn1.{kind}", stages.len())],
            (None, "0") => vec![format!("conv_head.{kind}"), format!("_conv_head.{kind}")],
            (None, "1") => vec![format!("bn2.{kind}"), format!("_bn1.{kind}")],
            _ => Vec::new(),
        },
        ["classifier", "0", kind] if blocks.mobile.is_some() => vec![format!("conv_head.{kind}")],
        ["classifier", "3", kind] if blocks.mobile.is_some() => vec![format!("classifier.{kind}")],
        ["classifier", "1", kind] => vec![format!("classifier.{kind}"), format!("_fc.{kind}")],
        ["features", stage, ref block @ .., "block", layer, part, kind] if block.len() < 2 => {
            let block = block.first().map_or(Ok(0), |block| block.parse());
            let (Ok(stage), Ok(block)) = (stage.parse(), block) else { return Vec::new() };
            let Some(convolutions) = blocks.convolutions.get(&(stage, block)) else { return Vec::new() };
            let number = blocks.convolutions.range(..(stage, block)).count();
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
            let (stage, block) = blocks.timm((stage, block));
            vec![format!("blocks.{stage}.{block}.{theirs}.{kind}"), format!("_blocks.{number}.{other}.{kind}")]
        }
        _ => Vec::new(),
    }
}

/// SegFormer in memory, as transformers 5 has it; its files have the names of before.
fn segformer(parts: &[&str]) -> Option<String> {
    Some(match *parts {
        ["segformer", "encoder", "patch_embeddings", stage, ref rest @ ..] => {
            format!("segformer.stages.{stage}.patch_embeddings.{}", rest.join("."))
        }
        ["segformer", "encoder", "layer_norm", stage, kind] => format!("segformer.stages.{stage}.layer_norm.{kind}"),
        ["segformer", "encoder", "block", stage, block, ref rest @ .., kind] => {
            let layer = match *rest {
                ["layer_norm_1"] => "layernorm_before",
                ["layer_norm_2"] => "layernorm_after",
                ["attention", "self", "query"] => "attention.q_proj",
                ["attention", "self", "key"] => "attention.k_proj",
                ["attention", "self", "value"] => "attention.v_proj",
                ["attention", "self", "sr"] => "attention.sequence_reduction.sequence_reduction",
                ["attention", "self", "layer_norm"] => "attention.sequence_reduction.layer_norm",
                ["attention", "output", "dense"] => "attention.o_proj",
                ["mlp", "dense1"] => "mlp.fc1",
                ["mlp", "dense2"] => "mlp.fc2",
                ["mlp", "dwconv", "dwconv"] => "mlp.dwconv.dwconv",
                _ => return None,
            };
            format!("segformer.stages.{stage}.blocks.{block}.{layer}.{kind}")
        }
        ["decode_head", "linear_c", index, "proj", kind] => {
            format!("decode_head.linear_projections.{index}.proj.{kind}")
        }
        _ => return None,
    })
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
