//! Checkpoints as sets: network, optimizer, schedule, averaged weights and state of one epoch in one folder that appears
//! in one step, however the process ends.
//!
//! burn-train hands the records of an epoch to three checkpointers on three threads. Here the three put them into one
//! [`CheckpointSet`], and [`CheckpointSet::commit`] writes them to `checkpoint/NNNNN.PID.partial/` and renames it to
//! `checkpoint/NNNNN/`. The set before it is kept, older ones are removed after that, never before. `state.json` has the
//! SHA-256 of each file, so that a damaged set is noticed and the one before it taken.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use burn::{lr_scheduler::LrSchedulerRecord, optim::OptimizerRecord, store::ModuleRecord, tensor::Bytes};
use burn_train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy};
use burn_train::metric::store::EventStoreClient;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub use crate::disk::{create_and_sweep, prepare_for, sweep, write_text};
use crate::{
    Result, TrainError,
    disk::{create_folder, remove_folder, rename, sync, unwritable, write_bytes},
};

const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const SCHEDULE: &str = "schedule.bpk";
const AVERAGE: &str = "average.bpk";
const STATE: &str = "state.json";
/// Extension of the folder of a set that is not whole yet.
const PARTIAL: &str = "partial";

/// The checkpoints of one run: the complete sets of the last epoch and the one before it.
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

/// Content of `state.json`.
#[derive(Serialize, Deserialize)]
struct Manifest {
    /// SHA-256 of each file and of `state` as it is written, in hexadecimal digits.
    sha256: BTreeMap<String, String>,
    state: Box<RawValue>,
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl CheckpointSet {
    /// The checkpoints in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), shared: Arc::default() }
    }

    /// The epoch of the newest set that is whole. Newer ones that are damaged are named on stderr.
    ///
    /// # Errors
    /// [`TrainError::Read`] if the folder is there and cannot be listed, or there are sets and none is whole.
    pub fn latest(&self) -> Result<Option<usize>> {
        let mut epochs: Vec<usize> = self.entries()?.iter().filter_map(|path| epoch_of(path)).collect();
        epochs.sort_unstable_by(|a, b| b.cmp(a));
        let mut damage = None;
        for epoch in epochs {
            match self.read(epoch) {
                Ok(_) => {
                    if let Some(damage) = damage {
                        eprintln!("{damage}; the checkpoint of epoch {epoch} is taken");
                    }
                    return Ok(Some(epoch));
                }
                Err(error) => drop(damage.get_or_insert(error)),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// The manifest and the files of a set, whose checksums are right.
    fn read(&self, epoch: usize) -> Result<(Manifest, BTreeMap<String, Vec<u8>>)> {
        let folder = self.folder_of(epoch);
        let bytes = |path: &Path| fs::read(path).map_err(|error| self.unreadable(path, error));
        let path = folder.join(STATE);
        let manifest: Manifest =
            serde_json::from_slice(&bytes(&path)?).map_err(|error| self.unreadable(&path, error))?;
        let mut files = BTreeMap::new();
        for (name, expected) in &manifest.sha256 {
            let known = [MODEL, OPTIMIZER, SCHEDULE, AVERAGE, STATE].contains(&name.as_str());
            let path = if known { folder.join(name) } else { path.clone() };
            let content = if known && name != STATE { bytes(&path)? } else { manifest.state.get().into() };
            if !known || digest(&content) != *expected {
                return Err(self.unreadable(&path, "its content is not what was written (SHA-256)"));
            }
            files.insert(name.clone(), content);
        }
        match [MODEL, OPTIMIZER, SCHEDULE, STATE].iter().find(|name| !files.contains_key(**name)) {
            Some(name) => Err(self.unreadable(&folder.join(name), format!("{STATE} does not name it"))),
            None => Ok((manifest, files)),
        }
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        match fs::read_dir(&self.folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()) {
            Ok(paths) => Ok(paths),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(self.unreadable(&self.folder, error)),
        }
    }

    /// Removes what is left of sets that were not completed, and the sets before the one before `epoch`.
    fn prune(&self, epoch: usize) -> Result<()> {
        let partial = |path: &Path| path.extension().is_some_and(|extension| extension == PARTIAL);
        let entries = self.entries()?;
        let before = entries.iter().filter_map(|path| epoch_of(path)).filter(|other| *other < epoch).max();
        for path in entries {
            if epoch_of(&path).map_or(partial(&path), |other| before.is_some_and(|before| other < before)) {
                remove_folder(&path)?;
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
        let (manifest, mut files) = self.read(epoch)?;
        let state =
            serde_json::from_str(manifest.state.get()).map_err(|error| self.unreadable(&folder.join(STATE), error))?;
        // burn-train panics on a record that it cannot read, so each is tried here first.
        let wrong = |name: &str, error: &dyn ToString| self.unreadable(&folder.join(name), error.to_string());
        let mut bytes = |name: &str| files.remove(name).map(Bytes::from_bytes_vec);
        let average = bytes(AVERAGE).map(ModuleRecord::from_bytes).transpose();
        let average = average.map_err(|error| wrong(AVERAGE, &error))?;
        let [model, optimizer, schedule] =
            [MODEL, OPTIMIZER, SCHEDULE].map(&mut bytes).map(|bytes| bytes.expect("every set that was read has it"));
        ModuleRecord::from_bytes(model.clone()).map_err(|error| wrong(MODEL, &error))?;
        OptimizerRecord::from_bytes(optimizer.clone()).map_err(|error| wrong(OPTIMIZER, &error))?;
        LrSchedulerRecord::from_bytes(schedule.clone()).map_err(|error| wrong(SCHEDULE, &error))?;
        self.prune(epoch)?;
        *self.records() =
            Records { model: Some(model), optimizer: Some(optimizer), schedule: Some(schedule), failed: None };
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

    /// Writes the records that the checkpointers were given as the set of `epoch`, and removes those before the one before.
    ///
    /// # Errors
    /// [`TrainError::Write`], for example on a full disk; the older sets are still there then.
    pub fn commit<S: Serialize>(&self, epoch: usize, state: &S, average: Option<ModuleRecord>) -> Result<()> {
        let partial = self.folder.join(format!("{epoch:05}.{}.{PARTIAL}", std::process::id()));
        let records = self.take()?;
        let written = self.write(epoch, &partial, records, state, average);
        if written.is_err() {
            // What is left of the attempt holds nothing; if even this fails, the next commit tries again.
            let _ = remove_folder(&partial);
        }
        written
    }

    fn write<S: Serialize>(
        &self,
        epoch: usize,
        partial: &Path,
        records: [Bytes; 3],
        state: &S,
        average: Option<ModuleRecord>,
    ) -> Result<()> {
        if partial.exists() {
            remove_folder(partial)?;
        }
        create_folder(partial)?;
        let average = average.map(ModuleRecord::into_bytes).transpose();
        let average = average.map_err(|error| unwritable(&partial.join(AVERAGE), error))?;
        let mut sha256 = BTreeMap::new();
        let names = [MODEL, OPTIMIZER, SCHEDULE, AVERAGE].into_iter();
        for (name, bytes) in names.zip(records.iter().chain(&average)) {
            sha256.insert(name.into(), digest(bytes));
            write_bytes(&partial.join(name), bytes)?;
        }
        let raw = serde_json::to_string(state).and_then(RawValue::from_string);
        let state = raw.expect("the state has string keys and finite or null numbers");
        sha256.insert(STATE.into(), digest(state.get().as_bytes()));
        let manifest = serde_json::to_vec(&Manifest { sha256, state }).expect("texts and what was JSON before");
        write_bytes(&partial.join(STATE), &manifest)?;
        sync(partial)?;

        let complete = self.folder_of(epoch);
        if complete.exists() {
            remove_folder(&complete)?;
        }
        rename(partial, &complete)?;
        sync(&self.folder)?;
        self.folder.parent().map_or(Ok(()), sync)?;
        self.prune(epoch)
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

#[cfg(test)]
mod tests {
    use burn::{lr_scheduler::LrScheduler, module::Module, nn::LinearConfig, tensor::Device};

    use super::*;
    use crate::{
        disk::stop,
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
        for epoch in [1, 2, 3] {
            fill(&set);
            set.commit(epoch, &format!("state {epoch}"), None).unwrap();
            assert_eq!(set.latest().unwrap(), Some(epoch));
        }
        assert_eq!(set.entries().unwrap().len(), 2);
        let (state, average) = set.open::<String>(3).unwrap();
        assert_eq!(state, "state 3");
        assert!(average.is_none());
        let restored: ModuleRecord = set.restore(3).unwrap();
        assert_eq!(restored.len(), 2);
    }

    #[test]
    fn a_failed_commit_keeps_the_older_set() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path());
        fill(&set);
        set.commit(1, &"one", None).unwrap();
        // A file where the folder of the attempt belongs, as a stand-in for a disk that refuses.
        let in_the_way = folder.path().join(format!("00002.{}.partial", std::process::id()));
        fs::write(&in_the_way, "").unwrap();
        fill(&set);
        let error = set.commit(2, &"two", None).unwrap_err().to_string();
        assert!(error.contains("00002."), "{error}");
        let _ = fs::remove_file(in_the_way);
        assert_eq!(set.latest().unwrap(), Some(1));
        assert_eq!(set.open::<String>(1).unwrap().0, "one");
    }

    #[test]
    fn what_a_kill_left_of_other_sets_goes_when_one_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path());
        fill(&set);
        set.commit(4, &"four", None).unwrap();
        // A higher one may be another's.
        for name in ["00002", "00003", "00005.partial", "00005.17.partial", "notes"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(set.latest().unwrap(), Some(4));
        set.open::<String>(4).unwrap();
        let mut left = set.entries().unwrap();
        left.sort();
        assert_eq!(left, ["00003", "00004", "notes"].map(|name| folder.path().join(name)));
    }

    #[test]
    fn power_may_go_before_any_call() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path().join("checkpoint"));
        fill(&set);
        set.commit(1, &"1", None).unwrap();
        fill(&set);
        set.commit(2, &"2", None).unwrap();
        for calls in 0.. {
            fill(&set);
            stop::after(Some(calls));
            let committed = set.commit(3, &"3", None);
            stop::after(None);
            // Another process looks at what is there.
            let seen = CheckpointSet::new(folder.path().join("checkpoint"));
            let latest = seen.latest().unwrap().unwrap();
            assert_eq!(seen.open::<String>(latest).unwrap().0, latest.to_string());
            assert!(latest == 2 || latest == 3);
            if committed.is_ok() {
                assert!(calls > 15 && latest == 3);
                return;
            }
        }
    }

    #[test]
    fn a_full_disk_keeps_both_sets_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path().join("checkpoint"));
        for epoch in [1, 2] {
            fill(&set);
            set.commit(epoch, &epoch, None).unwrap();
        }
        for files in 0.. {
            fill(&set);
            stop::full_after(Some(files));
            let committed = set.commit(3, &3, None);
            stop::full_after(None);
            if committed.is_ok() {
                assert!(files > 4);
                break;
            }
            let mut left = set.entries().unwrap();
            left.sort();
            assert_eq!(left, ["00001", "00002"].map(|name| folder.path().join("checkpoint").join(name)));
            assert_eq!(set.latest().unwrap(), Some(2));
            assert_eq!(set.open::<usize>(2).unwrap().0, 2);
        }
        assert_eq!(set.latest().unwrap(), Some(3));
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_the_set_before_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let set = CheckpointSet::new(folder.path());
        for epoch in [1, 2] {
            fill(&set);
            set.commit(epoch, &vec![epoch], None).unwrap();
        }
        for name in [MODEL, OPTIMIZER, SCHEDULE, STATE] {
            let path = folder.path().join("00002").join(name);
            let whole = fs::read(&path).unwrap();
            for at in [whole.len() / 3, whole.len() - 3] {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                fs::write(&path, damaged).unwrap();
                assert_eq!(set.latest().unwrap(), Some(1), "{name} {at}");
            }
            fs::write(&path, whole).unwrap();
        }
        assert_eq!(set.latest().unwrap(), Some(2));
        fs::write(folder.path().join("00002").join(MODEL), "").unwrap();
        // What is learned again takes the place of what is damaged.
        assert_eq!(set.open::<Vec<usize>>(1).unwrap().0, [1]);
        fill(&set);
        set.commit(2, &vec![2], None).unwrap();
        assert_eq!(set.latest().unwrap(), Some(2));
        for epoch in ["00001", "00002"] {
            fs::remove_file(folder.path().join(epoch).join(OPTIMIZER)).unwrap();
        }
        let error = set.latest().unwrap_err().to_string();
        assert!(error.contains("00002") && error.contains(OPTIMIZER), "{error}");
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
