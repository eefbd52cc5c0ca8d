//! Text files as programs write them: UTF-8 with or without a byte-order mark, UTF-16 with one.

use std::{borrow::Cow, fs::File, io::Read, path::Path};

use crate::{DataError, Result};

/// The bytes of a regular file of at most `most` bytes.
pub(crate) fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let io = |source| DataError::io("read", path, source);
    // Asked before the file is opened: to open a pipe would wait for a writer.
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(DataError::NotAFile { path: path.into() });
    }
    if meta.len() > most {
        return Err(DataError::FileSize { path: path.into(), bytes: meta.len(), most });
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(io)?;
    Ok(bytes)
}

/// The bytes without a byte-order mark, in UTF-8 where the mark says UTF-16; none where UTF-16 is damaged.
pub(crate) fn without_mark(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let wide = |rest: &[u8], value: fn([u8; 2]) -> u16| {
        let (pairs, odd) = rest.as_chunks::<2>();
        let text = String::from_utf16(&pairs.iter().map(|pair| value(*pair)).collect::<Vec<_>>()).ok()?;
        odd.is_empty().then(|| text.into_bytes().into())
    };
    match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => Some(rest.into()),
        [0xFF, 0xFE, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => Some(bytes.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_off() {
        for bytes in [&b"\xef\xbb\xbfa\xc3\xa4"[..], b"\xff\xfea\0\xe4\0", b"\xfe\xff\0a\0\xe4", "aä".as_bytes()] {
            assert_eq!(&*without_mark(bytes).unwrap(), "aä".as_bytes());
        }
        assert_eq!(without_mark(b"\xff\xfea"), None);
    }

    #[test]
    fn only_regular_files_of_a_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read_bytes(folder.path(), 9), Err(DataError::NotAFile { .. })));
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "1234567890").unwrap();
        assert!(read_bytes(&path, 9).unwrap_err().to_string().contains("10 bytes"));
        assert_eq!(read_bytes(&path, 10).unwrap(), b"1234567890");
    }
}
