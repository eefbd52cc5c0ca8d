//! The images that a flag names.

use std::{
    io,
    path::{Path, PathBuf},
};

use segkiln::{PredictError, data::EXTENSIONS};

use crate::common::Failure;

/// The images of a folder but for hidden files, or the one that is given, in the order of their names.
pub fn images(input: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    if input.is_dir() {
        let unreadable = |error: io::Error| format!("cannot list {}: {error}", input.display());
        for entry in std::fs::read_dir(input).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
            match extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str())) {
                true => files.push(path),
                false => eprintln!("{}: no image, left out", path.display()),
            }
        }
    } else {
        files.push(input.to_owned());
    }
    files.sort();
    match files.is_empty() {
        true => Err(format!("no images in {}; known are {}", input.display(), EXTENSIONS.join(", ")).into()),
        false => Ok(files),
    }
}

/// The error of a picture, with its name where it has none.
#[allow(dead_code, reason = "not every example predicts the images of a folder")]
pub fn named(path: &Path, error: PredictError) -> String {
    match error {
        PredictError::Data(error) => error.to_string(),
        error => format!("{}: {error}", path.display()),
    }
}

/// A file's name without its extension.
#[allow(dead_code, reason = "not every example writes a file an image")]
pub fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}
