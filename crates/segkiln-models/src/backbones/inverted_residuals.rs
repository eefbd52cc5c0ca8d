//! Other names of the tensors of EfficientNet's and MobileNetV3's blocks: timm's, and those of EfficientNet-PyTorch, of which
//! segmentation_models_pytorch has its `efficientnet-b0` to `b7`.

use std::collections::{BTreeMap, BTreeSet};

/// The layers of a block in timm and in EfficientNet-PyTorch: expansion, depthwise, projection. A block without expansion begins
/// with the second.
const LAYERS: [[&str; 2]; 3] =
    [["conv_pw", "_expand_conv"], ["conv_dw", "_depthwise_conv"], ["conv_pwl", "_project_conv"]];

/// The blocks of a network, by the stage and the number in it, both from 0, and the numbers of each one's convolutions.
pub(super) struct Blocks(BTreeMap<(usize, usize), BTreeSet<usize>>);

impl Blocks {
    /// Finds the blocks by the names of their convolutions' weights; `stages_of_blocks` says whether torchvision has them in a
    /// list for each stage, or one list of blocks.
    pub(super) fn new(names: &[&str], stages_of_blocks: bool) -> Self {
        let mut blocks = BTreeMap::<_, BTreeSet<usize>>::new();
        for name in names {
            let (stage, block, layer) = match name.split('.').collect::<Vec<_>>()[..] {
                ["features", stage, block, "block", layer, "0", "weight"] if stages_of_blocks => (stage, block, layer),
                ["features", stage, "block", layer, "0", "weight"] if !stages_of_blocks => (stage, "0", layer),
                _ => continue,
            };
            if let (Ok(stage), Ok(block), Ok(layer)) = (stage.parse(), block.parse(), layer.parse()) {
                blocks.entry((stage, block)).or_default().insert(layer);
            }
        }
        Self(blocks)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// torchvision's last stage, a convolution.
    pub(super) fn last(&self) -> Option<usize> {
        self.0.last_key_value().map(|((stage, _), _)| stage + 1)
    }

    /// The other names of a tensor of a block, whose parts behind `block` are these; `timm` are timm's numbers of the block's
    /// stage and of the block in it.
    pub(super) fn others(&self, at: (usize, usize), tensor: [&str; 3], timm: (usize, usize)) -> Vec<String> {
        let [layer, part, kind] = tensor;
        let Some(convolutions) = self.0.get(&at) else { return Vec::new() };
        let number = self.0.range(..at).count();
        let position = convolutions.iter().position(|convolution| layer.parse() == Ok(*convolution));
        let skipped = LAYERS.len().saturating_sub(convolutions.len());
        let [theirs, other] = match (part, position) {
            ("fc1", _) => ["se.conv_reduce".into(), "_se_reduce".into()],
            ("fc2", _) => ["se.conv_expand".into(), "_se_expand".into()],
            ("1", Some(position)) => [format!("bn{}", position + 1), format!("_bn{}", position + skipped)],
            // timm calls the projection of a block without expansion as it calls expansions.
            ("0", Some(1)) if skipped == 1 => [LAYERS[0][0].into(), LAYERS[2][1].into()],
            ("0", Some(position)) => LAYERS[position + skipped].map(String::from),
            _ => return Vec::new(),
        };
        let (stage, block) = timm;
        vec![format!("blocks.{stage}.{block}.{theirs}.{kind}"), format!("_blocks.{number}.{other}.{kind}")]
    }
}

/// The other names of the first convolution and its norm, in both networks.
pub(super) fn stem(parts: &[&str]) -> Vec<String> {
    match *parts {
        ["features", "0", "0", kind] => vec![format!("conv_stem.{kind}"), format!("_conv_stem.{kind}")],
        ["features", "0", "1", kind] => vec![format!("bn1.{kind}"), format!("_bn0.{kind}")],
        _ => Vec::new(),
    }
}
