use std::path::{Path, PathBuf};

/// Errors of trackers, of their files and metrics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackError {
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Operation that failed, such as `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file that is larger than files of its kind are.
    #[error("{path}: {bytes} bytes are over the limit of {most}")]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Size of the file.
        bytes: u64,
        /// The most that is read.
        most: u64,
    },
    /// A line that cannot be used.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Problem of the line, and suggested fix.
        reason: String,
    },
    /// An option out of its range.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Required values, and the actual one.
        reason: String,
    },
    /// A frame that cannot be tracked or evaluated.
    #[error("frame {frame} (counted from 0): {reason}")]
    Frame {
        /// The frame, from 0.
        frame: usize,
        /// Problem of the frame, and suggested fix.
        reason: String,
    },
    /// Tracks that contradict each other or the label maps.
    #[error("track {track} of the {whose}: {reason}")]
    Lineage {
        /// The track's label.
        track: u32,
        /// `truth` or `result`.
        whose: &'static str,
        /// Problem of the track.
        reason: String,
    },
    /// Masks of different sizes.
    #[error(transparent)]
    Core(#[from] segkiln_core::CoreError),
}

/// A result whose error is a [`TrackError`].
pub type Result<T> = std::result::Result<T, TrackError>;

/// Largest text file that is read.
const MOST_BYTES: u64 = 1 << 28;

/// Refuses what is no file, before it is opened (to open a pipe would wait for a writer), and files over the limit.
pub(crate) fn check_file(path: &Path) -> Result<()> {
    let io = |source| TrackError::Io { action: "read", path: path.into(), source };
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(io(std::io::Error::other("it is not a file")));
    }
    if meta.len() > MOST_BYTES {
        return Err(TrackError::FileSize { path: path.into(), bytes: meta.len(), most: MOST_BYTES });
    }
    Ok(())
}
