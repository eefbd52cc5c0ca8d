//! Files of a run: written whole, synced with their folders, locked, and told from what else lies there.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use burn::store::burn_pack::AtomicFile;

use crate::{Result, TrainError};

/// Everything that a training, or a program after it, writes into its folder, `config.json` last: what has it is a run.
pub(crate) const OWN: [&str; 10] = [
    "checkpoint",
    "overlays",
    "validation",
    "cases.csv",
    "cases_summary.csv",
    "best.bpk",
    "last.bpk",
    "metrics.csv",
    "curves.svg",
    "config.json",
];

/// Writes a text file under a temporary name and renames it.
///
/// # Errors
/// [`TrainError::Write`]; what was there before is untouched.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())?;
    path.parent().map_or(Ok(()), sync)
}

/// [`write_text`] of bytes, whose folder is not synced.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    step(path)?;
    fill(path)?;
    let (guard, mut file) = AtomicFile::create(path).map_err(|error| unwritable(path, error))?;
    step(path)?;
    file.write_all(bytes).map_err(|error| unwritable(path, error))?;
    step(path)?;
    file.sync_all().map_err(|error| unwritable(path, error))?;
    step(path)?;
    guard.commit().map_err(|error| unwritable(path, error))
}

pub(crate) fn create_folder(path: &Path) -> Result<()> {
    step(path)?;
    fill(path)?;
    fs::create_dir_all(path).map_err(|error| unwritable(path, error))
}

pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    step(path)?;
    fs::remove_dir_all(path).map_err(|error| unwritable(path, error))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    step(to)?;
    fs::rename(from, to).map_err(|error| unwritable(to, error))
}

/// Makes sure that the names in a folder outlast a loss of power, where the system can.
pub(crate) fn sync(folder: &Path) -> Result<()> {
    step(folder)?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).or_else(|error| match error.kind() {
        // Some file systems have no such call for folders.
        ErrorKind::InvalidInput | ErrorKind::Unsupported => Ok(()),
        _ => Err(unwritable(folder, error)),
    })?;
    Ok(())
}

/// Keeps other processes out of a run's folder until it is dropped or the process ends, however that happens.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // The system does the same when the file is closed.
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// Locks an existing folder.
    ///
    /// # Errors
    /// [`TrainError::Locked`] if another process has it.
    pub fn of(folder: &Path) -> Result<Self> {
        let taken = || TrainError::Locked { path: folder.into() };
        // The folder itself, so that nothing is left in it.
        #[cfg(unix)]
        if let Ok(handle) = File::open(folder) {
            match handle.try_lock() {
                Ok(()) => return Ok(Self(handle)),
                Err(TryLockError::WouldBlock) => return Err(taken()),
                // Network file systems lock only files that can be written.
                Err(TryLockError::Error(_)) => {}
            }
        }
        let path = folder.join(".lock");
        let handle = File::options().create(true).truncate(false).write(true).open(&path);
        let handle = handle.map_err(|error| unwritable(&path, error))?;
        match handle.try_lock() {
            Ok(()) => Ok(Self(handle)),
            Err(TryLockError::WouldBlock) => Err(taken()),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(Self(handle)),
            Err(TryLockError::Error(error)) => Err(unwritable(&path, error)),
        }
    }
}

/// Removes what a killed process left of the files that it was writing to `folder`: `NAME.PID-N.tmp` of Burn,
/// `.NAME.PID.N.part` of [`segkiln_data::write_image`]. It is no error if there is no such folder.
///
/// # Errors
/// [`TrainError::Write`] if the folder cannot be listed or a file not be removed.
pub fn sweep(folder: &Path) -> Result<()> {
    sweep_names(folder, |_| true)
}

/// Creates a folder, or [`sweep`]s the one that is there.
///
/// # Errors
/// [`TrainError::Write`].
pub fn create_and_sweep(folder: &Path) -> Result<()> {
    create_folder(folder)?;
    sweep(folder)
}

/// Creates the folders of files that are to be written, and removes what a killed process left of these files, as [`sweep`] does.
///
/// # Errors
/// [`TrainError::Write`].
pub fn prepare_for<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Result<()> {
    let mut names: BTreeMap<PathBuf, HashSet<String>> = BTreeMap::new();
    for file in files {
        let file = file.as_ref();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        names.entry(folder.into()).or_default().insert(name);
    }
    names.iter().try_for_each(|(folder, names)| {
        create_folder(folder)?;
        sweep_names(folder, |name| names.contains(name))
    })
}

/// [`sweep`] of a run's own files alone.
pub(crate) fn sweep_own(folder: &Path) -> Result<()> {
    sweep_names(folder, |name| OWN.contains(&name))
}

fn sweep_names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unwritable(folder, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| unwritable(folder, error))?.path();
        if path.file_name().and_then(|name| name.to_str()).and_then(leftover_of).is_some_and(&wanted) {
            fs::remove_file(&path).map_err(|error| unwritable(&path, error))?;
        }
    }
    Ok(())
}

/// The file that a temporary name stands for.
fn leftover_of(name: &str) -> Option<&str> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let burn = || {
        let (name, ids) = name.strip_suffix(".tmp")?.rsplit_once('.')?;
        Some((name, ids.split_once('-')?))
    };
    let data = || {
        let (rest, count) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
        let (name, process) = rest.rsplit_once('.')?;
        Some((name, (process, count)))
    };
    let (name, (process, count)) = burn().or_else(data)?;
    (number(process) && number(count)).then_some(name)
}

pub(crate) fn unwritable(path: &Path, error: impl ToString) -> TrainError {
    TrainError::Write { path: path.into(), reason: error.to_string() }
}

/// Comes before each call that changes the disk; tests stop there, as a loss of power would.
fn step(path: &Path) -> Result<()> {
    #[cfg(test)]
    let ready = stop::check();
    #[cfg(not(test))]
    let ready: std::io::Result<()> = Ok(());
    ready.map_err(|error| unwritable(path, error))
}

/// Comes before each call that takes room on the disk; tests stop there, as a full disk would.
fn fill(path: &Path) -> Result<()> {
    #[cfg(test)]
    let ready = stop::check_room();
    #[cfg(not(test))]
    let ready: std::io::Result<()> = Ok(());
    ready.map_err(|error| unwritable(path, error))
}

#[cfg(test)]
pub(crate) mod stop {
    //! A disk that takes so many calls and no more, or so many files.

    use std::{cell::Cell, io};

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
        static ROOM: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Files and folders that there is room for from now on; what is there can be moved and removed.
    pub fn full_after(files: Option<usize>) {
        ROOM.set(files);
    }

    pub(super) fn check_room() -> io::Result<()> {
        match ROOM.get() {
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(left) => {
                ROOM.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Calls that succeed from now on; all if none is given.
    pub fn after(calls: Option<usize>) {
        LEFT.set(calls);
    }

    pub(super) fn check() -> io::Result<()> {
        match LEFT.get() {
            Some(0) => Err(io::Error::other("stopped")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_of_files_is_removed_before_they_are_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("out");
        fs::create_dir(&folder).unwrap();
        let [left, others] = [["x.bpk.12-0.tmp", ".m.txt.7.0.part"], ["y.bpk.12-0.tmp", ".m.txt.part"]];
        left.iter().chain(&others).for_each(|name| fs::write(folder.join(name), "").unwrap());
        prepare_for(["out/x.bpk", "out/m.txt", "new/z.png"].map(|file| root.path().join(file))).unwrap();
        assert!(left.iter().all(|name| !folder.join(name).exists()));
        assert!(others.iter().all(|name| folder.join(name).exists()));
        assert!(root.path().join("new").is_dir());
        let error = prepare_for([folder.join(others[0]).join("a")]).unwrap_err().to_string();
        assert!(error.contains(others[0]), "{error}");
    }

    #[test]
    fn leftovers_are_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let keep = ["best.bpk", "notes.tmp", "a.12-x.tmp", ".a.png.part", "a.12.3.part"];
        let others = ["notes.12-3.tmp", ".a.png.12.3.part"];
        let own = ["best.bpk.12-3.tmp", "config.json.1-0.tmp"];
        for name in keep.iter().chain(&others).chain(&own) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let there = |names: &[&str]| names.iter().filter(|name| folder.path().join(name).exists()).count();
        sweep_own(folder.path()).unwrap();
        assert_eq!([there(&keep), there(&others), there(&own)], [5, 2, 0]);
        sweep(folder.path()).unwrap();
        assert_eq!([there(&keep), there(&others)], [5, 0]);
        sweep(&folder.path().join("missing")).unwrap();
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::of(folder.path()).unwrap();
        let error = Lock::of(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another training") && error.contains(&folder.path().display().to_string()), "{error}");
        drop(first);
        Lock::of(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
