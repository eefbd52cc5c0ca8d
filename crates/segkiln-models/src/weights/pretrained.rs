//! Weights that a training begins with.

use std::path::Path;

use burn::module::Module;

use super::{Exceptions, WeightsError, is_own, load, load_torch_but, torch_contents};
use crate::backbones::Backbone;

/// Tensors of PyTorch's ImageNet classifiers behind their backbone.
const CLASSIFIERS: &[&str] = &["fc.", "_fc.", "classifier.", "head.", "conv_head."];

/// Loads a `.bpk` of the network, PyTorch's weights of it by `whole`, or PyTorch's of its backbones, also a classifier's.
///
/// # Errors
/// [`WeightsError`], naming the tensors if the file is of none of these.
pub(crate) fn load_pretrained<M: Module>(
    mut network: M,
    path: &Path,
    backbones: fn(&mut M) -> Vec<&mut Backbone>,
    whole: impl FnOnce(M) -> Result<M, WeightsError>,
) -> Result<M, WeightsError> {
    if is_own(path) {
        return load(network, path);
    }
    let contents = torch_contents(path)?;
    if let Some(reason) = backbones(&mut network).iter().find_map(|backbone| backbone.misfit(&contents)) {
        return Err(WeightsError::Read { path: path.into(), reason: reason.into() });
    }
    let is_within = |name: &str| ["encoder.", "backbone."].iter().any(|part| name.contains(part));
    if backbones(&mut network).is_empty() || contents.iter().any(|(name, _)| is_within(name)) {
        return whole(network);
    }
    for backbone in backbones(&mut network) {
        let exceptions = Exceptions { spare: CLASSIFIERS, channels: true, ..Exceptions::default() };
        *backbone = load_torch_but(backbone.clone(), path, exceptions)?;
    }
    Ok(network)
}

/// Prefixes as [`Exceptions`] have them.
pub(crate) fn borrowed(prefixes: &[String]) -> Vec<&str> {
    prefixes.iter().map(String::as_str).collect()
}
