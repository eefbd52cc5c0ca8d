//! Where files of weights are kept.

use std::{env, path::PathBuf};

/// The folder for what is downloaded.
pub(super) fn folder() -> Option<PathBuf> {
    named("SEGKILN_CACHE").or_else(|| Some(dirs::cache_dir()?.join("segkiln")))
}

/// A file in our folder, or in PyTorch's.
pub(super) fn find(file: &str) -> Option<PathBuf> {
    let torch = named("TORCH_HOME")
        .or_else(|| Some(named("XDG_CACHE_HOME").or_else(|| Some(dirs::home_dir()?.join(".cache")))?.join("torch")))
        .map(|home| home.join("hub/checkpoints"));
    let paths = [folder(), torch].into_iter().flatten().map(|folder| folder.join(file));
    paths.into_iter().find(|path| path.is_file())
}

/// An environment variable that is not empty.
fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}
