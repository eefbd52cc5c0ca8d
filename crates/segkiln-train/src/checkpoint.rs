//! Checkpoints as sets: network, optimizer, schedule, averaged weights and state of one epoch in one folder that appears
//! in one step, however the process ends.
//!
//! burn-train hands the records of an epoch to three checkpointers on three threads. Here the three put them into one
//! [`CheckpointSet`], and [`CheckpointSet::commit`] writes them to `checkpoint/NNNNN.partial/` and renames it to
//! `checkpoint/NNNNN/`. Older sets are removed after that, never before.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use burn::{
    lr_scheduler::LrSchedulerRecord,
    optim::OptimizerRecord,
    store::{ModuleRecord, burn_pack::AtomicFile},
    tensor::Bytes,
};
use burn_train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy};
use burn_train::metric::store::EventStoreClient;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Result, TrainError};

const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const SCHEDULE: &str = "schedule.bpk";
const AVERAGE: &str = "average.bpk";
const STATE: &str = "state.json";
/// Extension of the folder of a set that is not whole yet.
const PARTIAL: &str = "partial";

/// The checkpoints of one run: at most one complete set, of the last epoch.
#[derive(Clone)]
pub struct CheckpointSet {
    folder: PathBuf,
    shared: Arc<(Mutex<Records>, Condvar)>,
}

/// Records on their way between burn-train's threads and the files.
#[derive(Default)]
struct Records {
    model: Option<Bytes>,
    optimizer: Option<Bytes>,
    schedule: Option<Bytes>,
    failed: Option<String>,
}

impl CheckpointSet {
    /// The checkpoints in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), shared: Arc::default() }
    }

    /// The epoch of the newest complete set.
    ///
    /// # Errors
    /// [`TrainError::Read`] if the folder is there and cannot be listed.
    pub fn latest(&self) -> Result<Option<usize>> {
        Ok(self.entries()?.iter().filter_map(|path| epoch_of(path)).max())
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        match fs::read_dir(&self.folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()) {
            Ok(paths) => Ok(paths),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(self.unreadable(&self.folder, error)),
        }
    }

    /// Removes all sets, whole or not, but that of `epoch`.
    fn keep_only(&self, epoch: usize) -> Result<()> {
        let partial = |path: &Path| path.extension().is_some_and(|extension| extension == PARTIAL);
        for path in self.entries()? {
            if epoch_of(&path).map_or(partial(&path), |other| other != epoch) {
                fs::remove_dir_all(&path).map_err(|error| unwritable(&path, error))?;
            }
        }
        Ok(())
    }

    /// Reads the set of `epoch`: its records wait for burn-train's checkpointers to ask for them; the state and the
    /// averaged weights, if there are any, are returned. What a killed process left of other sets is removed.
    ///
    /// # Errors
    /// [`TrainError::Read`], naming the file; [`TrainError::Write`] if leftovers cannot be removed.
    pub fn open<S: DeserializeOwned>(&self, epoch: usize) -> Result<(S, Option<ModuleRecord>)> {
        let folder = self.folder_of(epoch);
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map(Bytes::from_bytes_vec).map_err(|error| self.unreadable(&path, error))
        };
        let state =
            serde_json::from_slice(&read(STATE)?).map_err(|error| self.unreadable(&folder.join(STATE), error))?;
        let average = match folder.join(AVERAGE).exists() {
            false => None,
            true => Some(
                ModuleRecord::from_bytes(read(AVERAGE)?)
                    .map_err(|error| self.unreadable(&folder.join(AVERAGE), error))?,
            ),
        };
        let records = Records {
            model: Some(read(MODEL)?),
            optimizer: Some(read(OPTIMIZER)?),
            schedule: Some(read(SCHEDULE)?),
            failed: None,
        };
        // burn-train panics on a record that it cannot read, so each is tried here first.
        let try_record = |name: &str, result: std::result::Result<(), String>| {
            result.map_err(|error| self.unreadable(&folder.join(name), error))
        };
        let bytes = |record: &Option<Bytes>| record.clone().expect("read above");
        try_record(MODEL, ModuleRecord::from_bytes(bytes(&records.model)).map(drop).map_err(|e| e.to_string()))?;
        try_record(
            OPTIMIZER,
            OptimizerRecord::from_bytes(bytes(&records.optimizer)).map(drop).map_err(|e| e.to_string()),
        )?;
        try_record(
            SCHEDULE,
            LrSchedulerRecord::from_bytes(bytes(&records.schedule)).map(drop).map_err(|e| e.to_string()),
        )?;
        self.keep_only(epoch)?;
        *self.records() = records;
        Ok((state, average))
    }

    /// The network of the set that was opened.
    ///
    /// # Errors
    /// [`TrainError::Read`] if no set is open.
    pub fn model(&self) -> Result<ModuleRecord> {
        let bytes = self.records().model.clone();
        bytes
            .ok_or_else(|| self.unreadable(&self.folder, "no checkpoint is open"))
            .and_then(|bytes| ModuleRecord::from_bytes(bytes).map_err(|error| self.unreadable(&self.folder, error)))
    }

    /// Writes the records that the checkpointers were given as the set of `epoch`, and removes older sets.
    ///
    /// # Errors
    /// [`TrainError::Write`], for example on a full disk; the older set is still there then.
    pub fn commit<S: Serialize>(&self, epoch: usize, state: &S, average: Option<ModuleRecord>) -> Result<()> {
        let partial = self.folder_of(epoch).with_extension(PARTIAL);
        let records = self.take()?;
        let state = serde_json::to_vec_pretty(state).expect("the state has string keys and finite or null numbers");
        let written = self.write(epoch, &partial, records, &state, average);
        if written.is_err() {
            // What is left of the attempt holds nothing; if even this fails, the next commit tries again.
            let _ = fs::remove_dir_all(&partial);
        }
        written
    }

    fn write(
        &self,
        epoch: usize,
        partial: &Path,
        records: [Bytes; 3],
        state: &[u8],
        average: Option<ModuleRecord>,
    ) -> Result<()> {
        if partial.exists() {
            fs::remove_dir_all(partial).map_err(|error| unwritable(partial, error))?;
        }
        fs::create_dir_all(partial).map_err(|error| unwritable(partial, error))?;
        for (name, bytes) in [MODEL, OPTIMIZER, SCHEDULE].into_iter().zip(&records) {
            write_bytes(&partial.join(name), bytes)?;
        }
        if let Some(average) = average {
            let path = partial.join(AVERAGE);
            write_bytes(&path, &average.into_bytes().map_err(|error| unwritable(&path, error))?)?;
        }
        write_bytes(&partial.join(STATE), state)?;

        let complete = self.folder_of(epoch);
        if complete.exists() {
            fs::remove_dir_all(&complete).map_err(|error| unwritable(&complete, error))?;
        }
        fs::rename(partial, &complete).map_err(|error| unwritable(&complete, error))?;
        self.keep_only(epoch)
    }

    /// Waits until the three checkpointers' threads have delivered.
    fn take(&self) -> Result<[Bytes; 3]> {
        /// The records are on their way already; only a thread that died could take longer.
        const PATIENCE: Duration = Duration::from_secs(600);
        let incomplete = |records: &mut Records| {
            records.failed.is_none()
                && (records.model.is_none() || records.optimizer.is_none() || records.schedule.is_none())
        };
        let (_, delivered) = &*self.shared;
        let (mut records, _) =
            delivered.wait_timeout_while(self.records(), PATIENCE, incomplete).unwrap_or_else(PoisonError::into_inner);
        let Records { model, optimizer, schedule, failed } = std::mem::take(&mut *records);
        match (model, optimizer, schedule, failed) {
            (Some(model), Some(optimizer), Some(schedule), None) => Ok([model, optimizer, schedule]),
            (.., failed) => Err(TrainError::Stopped(
                failed.unwrap_or_else(|| "a checkpointer's thread did not deliver its record".into()),
            )),
        }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder_of(&self, epoch: usize) -> PathBuf {
        self.folder.join(format!("{epoch:05}"))
    }

    fn unreadable(&self, path: &Path, error: impl ToString) -> TrainError {
        let reason = format!("{}; without the checkpoint the run can only be started anew", error.to_string());
        TrainError::Read { path: path.into(), reason }
    }
}

/// The epoch of a set by the name of its folder.
fn epoch_of(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.parse().ok()
}

/// The record's place in a set.
trait Slot: Checkpoint {
    fn slot(records: &mut Records) -> &mut Option<Bytes>;
}

impl Slot for ModuleRecord {
    fn slot(records: &mut Records) -> &mut Option<Bytes> {
        &mut records.model
    }
}

impl Slot for OptimizerRecord {
    fn slot(records: &mut Records) -> &mut Option<Bytes> {
        &mut records.optimizer
    }
}

impl Slot for LrSchedulerRecord {
    fn slot(records: &mut Records) -> &mut Option<Bytes> {
        &mut records.schedule
    }
}

impl<R: Slot> Checkpointer<R> for CheckpointSet {
    fn save(&self, _epoch: usize, record: R) -> std::result::Result<(), CheckpointerError> {
        let bytes = record.checkpoint_into_bytes();
        let mut records = self.records();
        match bytes {
            Ok(bytes) => *R::slot(&mut records) = Some(bytes),
            Err(error) => records.failed = Some(error.to_string()),
        }
        self.shared.1.notify_all();
        Ok(())
    }

    fn delete(&self, _epoch: usize) -> std::result::Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, epoch: usize) -> std::result::Result<R, CheckpointerError> {
        let bytes = R::slot(&mut self.records()).take();
        let bytes = bytes.ok_or_else(|| CheckpointerError::Unknown(format!("the set of epoch {epoch} is not open")))?;
        R::checkpoint_from_bytes(bytes).map_err(CheckpointerError::Record)
    }
}

/// Every epoch is saved; [`CheckpointSet::commit`] removes older ones itself.
pub struct EveryEpoch;

impl CheckpointingStrategy for EveryEpoch {
    fn checkpointing(&mut self, _epoch: usize, _store: &EventStoreClient) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}

/// Writes a text file under a temporary name and renames it.
///
/// # Errors
/// [`TrainError::Write`]; what was there before is untouched.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let (guard, mut file) = AtomicFile::create(path).map_err(|error| unwritable(path, error))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| unwritable(path, error))?;
    guard.commit().map_err(|error| unwritable(path, error))
}

/// Removes what a killed process left of the files that it was writing to `folder`: `NAME.PID-N.tmp` of Burn,
/// `.NAME.PID.N.part` of [`segkiln_data::write_image`]. It is no error if there is no such folder.
///
/// # Errors
/// [`TrainError::Write`] if the folder cannot be listed or a file not be removed.
pub fn sweep(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unwritable(folder, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| unwritable(folder, error))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_leftover) {
            fs::remove_file(&path).map_err(|error| unwritable(&path, error))?;
        }
    }
    Ok(())
}

fn is_leftover(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let burn = || name.strip_suffix(".tmp")?.rsplit_once('.')?.1.split_once('-');
    let data = || {
        let (name, count) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
        Some((name.rsplit_once('.')?.1, count))
    };
    burn().or_else(data).is_some_and(|(process, count)| number(process) && number(count))
}

fn unwritable(path: &Path, error: impl ToString) -> TrainError {
    TrainError::Write { path: path.into(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use burn::{lr_scheduler::LrScheduler, module::Module, nn::LinearConfig, tensor::Device};

    use super::*;
    use crate::{
        optimizer::OptimizerConfig,
        schedule::{Schedule, ScheduleConfig},
    };

    fn fill(set: &CheckpointSet) {
        let module = LinearConfig::new(2, 3).init(&Device::default());
        let optimizer = OptimizerConfig::default().init(&module);
        set.save(1, module.into_record()).unwrap();
        set.save(1, optimizer.to_record()).unwrap();
        set.save(1, Schedule::new(ScheduleConfig::Constant, 0.1, 3).to_record()).unwrap();
    }

    #[test]
    fn the_newest_set_is_kept_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path().join("checkpoint"));
        assert_eq!(set.latest().unwrap(), None);
        for epoch in [1, 2] {
            fill(&set);
            set.commit(epoch, &format!("state {epoch}"), None).unwrap();
            assert_eq!(set.latest().unwrap(), Some(epoch));
        }
        assert_eq!(set.entries().unwrap().len(), 1);
        let (state, average) = set.open::<String>(2).unwrap();
        assert_eq!(state, "state 2");
        assert!(average.is_none());
        let restored: ModuleRecord = set.restore(2).unwrap();
        assert_eq!(restored.len(), 2);
    }

    #[test]
    fn a_failed_commit_keeps_the_older_set() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path());
        fill(&set);
        set.commit(1, &"one", None).unwrap();
        // A file where the folder of the attempt belongs, as a stand-in for a disk that refuses.
        let in_the_way = folder.path().join("00002.partial");
        fs::write(&in_the_way, "").unwrap();
        fill(&set);
        let error = set.commit(2, &"two", None).unwrap_err().to_string();
        assert!(error.contains("00002.partial"), "{error}");
        fs::remove_file(in_the_way).unwrap();
        assert_eq!(set.latest().unwrap(), Some(1));
        assert_eq!(set.open::<String>(1).unwrap().0, "one");
    }

    #[test]
    fn leftovers_are_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let keep = ["best.bpk", "notes.tmp", "a.12-x.tmp", ".a.png.part", "a.12.3.part"];
        let sweep_away = ["best.bpk.12-3.tmp", ".a.png.12.3.part"];
        for name in keep.iter().chain(&sweep_away) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        sweep(folder.path()).unwrap();
        assert!(keep.iter().all(|name| folder.path().join(name).exists()));
        assert!(!sweep_away.iter().any(|name| folder.path().join(name).exists()));
        sweep(&folder.path().join("missing")).unwrap();
    }

    #[test]
    fn what_a_kill_left_of_other_sets_goes_when_one_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path());
        fill(&set);
        set.commit(2, &"two", None).unwrap();
        for name in ["00001", "00003.partial"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(set.latest().unwrap(), Some(2));
        set.open::<String>(2).unwrap();
        assert_eq!(set.entries().unwrap(), [folder.path().join("00002")]);
    }

    #[test]
    fn a_torn_set_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path());
        fill(&set);
        set.commit(3, &"three", None).unwrap();
        for name in [MODEL, OPTIMIZER, STATE] {
            let path = folder.path().join("00003").join(name);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..5]).unwrap();
            let error =
                set.open::<String>(3).err().unwrap_or_else(|| panic!("{name} of {} bytes", whole.len())).to_string();
            assert!(error.contains(name), "{error}");
            fs::write(&path, whole).unwrap();
        }
    }
}
