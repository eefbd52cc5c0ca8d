//! Two writers, a crash at any file and damage to any byte: the newest set that opens is whole and of one epoch.

#![no_main]

use std::{fs, sync::LazyLock};

use arbitrary::{Arbitrary, Unstructured};
use burn::{
    lr_scheduler::LrScheduler,
    module::Module,
    nn::{Linear, LinearConfig},
    store::ModuleRecord,
    tensor::Device,
};
use burn_train::checkpoint::Checkpointer;
use libfuzzer_sys::fuzz_target;
use segkiln_fuzz::folder;
use segkiln_train::{
    checkpoint::CheckpointSet,
    optimizer::OptimizerConfig,
    schedule::{Schedule, ScheduleConfig},
};

#[derive(Arbitrary, Debug)]
enum Act {
    Commit { writer: bool, epoch: u8, average: bool },
    Damage { epoch: u8, file: u8, at: u16, flip: u8 },
    Cut { epoch: u8, file: u8, length: u16 },
    Remove { epoch: u8, file: u8 },
    Open { writer: bool },
}

static MODULE: LazyLock<Linear> = LazyLock::new(|| LinearConfig::new(1, 1).init(&Device::flex()));
const FILES: [&str; 5] = ["model.bpk", "optimizer.bpk", "schedule.bpk", "average.bpk", "state.json"];

/// The network of an epoch, which its weights tell.
fn module(epoch: usize) -> Linear {
    let mut module = MODULE.clone();
    module.weight = module.weight.map(|weight| weight.zeros_like() + epoch as f32);
    module
}

fn epoch_of(record: ModuleRecord) -> usize {
    let module = MODULE.clone().try_load_record(record).expect("the record is of this module");
    module.weight.val().into_scalar::<f32>() as usize
}

fuzz_target!(init: std::panic::set_hook(Box::new(|info| eprintln!("{info}"))), |data: &[u8]| {
    let Ok(acts) = Vec::<Act>::arbitrary(&mut Unstructured::new(data)) else { return };
    let folder = folder().join("checkpoint");
    let _ = fs::remove_dir_all(&folder);
    let writers = [CheckpointSet::new(&folder), CheckpointSet::new(&folder)];
    let path = |epoch: u8, file: u8| {
        folder.join(format!("{:05}", 1 + epoch % 4)).join(FILES[usize::from(file) % FILES.len()])
    };
    for act in acts.into_iter().take(12) {
        match act {
            Act::Commit { writer, epoch, average } => {
                let (set, epoch) = (&writers[usize::from(writer)], 1 + usize::from(epoch % 4));
                let module = module(epoch);
                let mut schedule = Schedule::new(ScheduleConfig::Constant, 0.1, 9);
                (0..epoch).for_each(|_| drop(schedule.step()));
                set.save(epoch, OptimizerConfig::default().init(&module).to_record()).unwrap();
                set.save(epoch, schedule.to_record()).unwrap();
                set.save(epoch, module.clone().into_record()).unwrap();
                let average = average.then(|| module.into_record());
                set.commit(epoch, &epoch, average).expect("nothing is in the way");
            }
            Act::Damage { epoch, file, at, flip } => {
                let path = path(epoch, file);
                if let Ok(mut bytes) = fs::read(&path)
                    && !bytes.is_empty()
                {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] ^= flip;
                    fs::write(path, bytes).unwrap();
                }
            }
            Act::Cut { epoch, file, length } => {
                let path = path(epoch, file);
                if let Ok(bytes) = fs::read(&path) {
                    fs::write(path, &bytes[..usize::from(length).min(bytes.len())]).unwrap();
                }
            }
            Act::Remove { epoch, file } => drop(fs::remove_file(path(epoch, file))),
            Act::Open { writer } => {
                let set = &writers[usize::from(writer)];
                let Ok(Some(epoch)) = set.latest() else { continue };
                let (state, average) = set.open::<usize>(epoch).expect("it was said to be whole");
                assert_eq!(state, epoch);
                assert!(average.is_none_or(|average| epoch_of(average) == epoch));
                assert_eq!(epoch_of(set.model().unwrap()), epoch);
            }
        }
    }
});
