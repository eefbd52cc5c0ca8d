//! A TIFF whose chain of directories begins where we want.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use crate::{DataError, Result};

/// A file with a small directory of ours before its own. The decoder reads the first directory under limits that it does not let
/// anybody set, and goes to others only along the chain; from here it goes to any.
#[derive(Debug)]
pub(super) struct Rewired {
    file: BufReader<File>,
    /// Bytes of the file, behind which our directory stands.
    len: u64,
    header: Vec<u8>,
    directory: Vec<u8>,
    position: u64,
    /// Where the file's own reader stands.
    actual: u64,
}

impl Rewired {
    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Opens a file whose first directory is the one at `ifd`, or its own first.
    pub fn open(path: &Path, ifd: Option<u64>) -> Result<Self> {
        let io = |error| DataError::io("read", path, error);
        let damaged = |reason: &str| DataError::Decode { path: path.into(), format: "TIFF", reason: reason.into() };
        let mut file = File::open(path).map_err(|error| DataError::io("open", path, error))?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(DataError::NotAFile { path: path.into() });
        }
        let len = metadata.len();
        let mut header = Vec::new();
        file.by_ref().take(16).read_to_end(&mut header).map_err(io)?;
        let little = header.starts_with(b"II");
        let short = |at: usize| {
            let bytes = [header.get(at).copied()?, header.get(at + 1).copied()?];
            Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
        };
        let big = short(2) == Some(43);
        let wanted = if big { 16 } else { 8 };
        if header.len() < wanted || !(little || header.starts_with(b"MM")) || !matches!(short(2), Some(42 | 43)) {
            return Err(damaged("it does not begin as a TIFF does"));
        }
        header.truncate(wanted);
        let width = wanted / 2;
        let number = |value: u64, width: usize| {
            let mut bytes = value.to_le_bytes()[..width].to_vec();
            if !little {
                bytes.reverse();
            }
            bytes
        };
        let mut own = header[wanted - width..].to_vec();
        if little {
            own.reverse();
        }
        let own = own.into_iter().fold(0u64, |value, byte| value << 8 | u64::from(byte));
        let next = ifd.unwrap_or(own);
        // One pixel in one strip: width, height, photometric interpretation, offset and bytes of the strip.
        let entries = [(256, 1), (257, 1), (262, 1), (273, 8), (279, 1)];
        let mut directory = number(entries.len() as u64, if big { 8 } else { 2 });
        for (tag, value) in entries {
            directory.extend(number(tag, 2));
            directory.extend(number(4, 2));
            directory.extend(number(1, width));
            directory.extend(number(value, 4));
            directory.resize(directory.len() + width - 4, 0);
        }
        directory.extend(number(next, width));
        // Directories begin at even offsets. A file of 4 GiB and more that is no BigTIFF has nothing behind them.
        let at = len.next_multiple_of(2);
        if !big && at + directory.len() as u64 > u64::from(u32::MAX) {
            return Err(damaged("it has 4 GiB and is no BigTIFF"));
        }
        header.truncate(wanted - width);
        header.extend(number(at, width));
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        Ok(Self { file: BufReader::with_capacity(1 << 16, file), len, header, directory, position: 0, actual: 0 })
    }
}

impl Read for Rewired {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let at = self.len.next_multiple_of(2);
        let count = if self.position < self.header.len() as u64 {
            let rest = &self.header[self.position as usize..];
            let count = rest.len().min(target.len());
            target[..count].copy_from_slice(&rest[..count]);
            count
        } else if self.position >= at {
            let skipped = usize::try_from(self.position - at).unwrap_or(usize::MAX);
            let rest = self.directory.get(skipped..).unwrap_or_default();
            let count = rest.len().min(target.len());
            target[..count].copy_from_slice(&rest[..count]);
            count
        } else {
            if self.actual != self.position {
                let step = self.position as i64 - self.actual as i64;
                self.file.seek_relative(step)?;
                self.actual = self.position;
            }
            let most = usize::try_from(at - self.position).unwrap_or(usize::MAX).min(target.len());
            let count = self.file.read(&mut target[..most])?;
            self.actual += count as u64;
            count
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Rewired {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = self.len.next_multiple_of(2) + self.directory.len() as u64;
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(step) => self.position.checked_add_signed(step),
            SeekFrom::End(step) => end.checked_add_signed(step),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
