//! Where files of weights are kept, and whether they are what they were.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::weights::WeightsError;

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

/// A file's SHA-256 from its beginning, in hexadecimal digits.
pub(super) fn digest(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn digest_of(path: &Path) -> Result<String, WeightsError> {
    let found = File::open(path).and_then(|mut file| digest(&mut file));
    found.map_err(|error| WeightsError::Read { path: path.into(), reason: error.to_string() })
}

/// The file that remembers the SHA-256 of one that was downloaded.
fn record_of(path: &Path) -> Option<PathBuf> {
    Some(path.with_file_name(format!("{}.sha256", path.file_name()?.to_str()?)))
}

/// Remembers the SHA-256 of a file that was downloaded just now.
///
/// # Errors
/// Message of the system.
#[cfg(any(feature = "pretrained", test))]
pub(super) fn remember(path: &Path) -> Result<(), String> {
    let record = record_of(path).ok_or("the path has no file name")?;
    let found = digest_of(path).map_err(|error| error.to_string())?;
    segkiln_data::write_whole(&record, found.as_bytes())
        .map_err(|error| format!("cannot write {}: {error}", record.display()))
}

/// Hashes a file of the cache before it is used. One that was downloaded must be what it was; where a user or PyTorch put it,
/// one whose SHA-256 does not begin with `published` is used with a warning.
///
/// # Errors
/// [`WeightsError::Damaged`], or [`WeightsError::Read`].
pub(super) fn verify(path: &Path, published: &str) -> Result<(), WeightsError> {
    let found = digest_of(path)?;
    let record = record_of(path).and_then(|record| fs::read_to_string(record).ok());
    // What else may lie there under that name says nothing.
    let is_digest = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match record.filter(is_digest) {
        Some(expected) if expected != found => Err(WeightsError::Damaged { path: path.into(), expected, found }),
        Some(_) => Ok(()),
        None => {
            if !found.starts_with(published) {
                log::warn!(
                    target: "segkiln::published_weights",
                    "{}: its SHA-256 is {found}, that of the published file begins with {published}; remove it to have that \
                     one downloaded",
                    path.display()
                );
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_downloaded_must_stay_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights-12345678.pth");
        assert!(matches!(verify(&path, "12345678"), Err(WeightsError::Read { .. })));
        // The user's own is taken as it is.
        fs::write(&path, "weights").unwrap();
        verify(&path, "12345678").unwrap();
        remember(&path).unwrap();
        verify(&path, "12345678").unwrap();
        fs::write(&path, "Weights").unwrap();
        let error = verify(&path, "12345678").unwrap_err();
        assert!(matches!(error, WeightsError::Damaged { .. }));
        let text = error.to_string();
        assert!(text.contains("weights-12345678.pth") && text.contains("remove it"), "{text}");
        fs::write(folder.path().join("weights-12345678.pth.sha256"), "a note").unwrap();
        verify(&path, "12345678").unwrap();
    }
}
