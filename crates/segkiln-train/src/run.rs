//! A run of any task: its folder, its checkpoints, and the loop.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use burn::{module::Module, store::ModuleRecord, tensor::Device};
use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy, metric::LossMetric};
use segkiln_data::LoaderBuilder;
use segkiln_models::{
    config_file::{self, ConfigFile, ConfigFileError},
    weights::{self as weight_files, WeightsError},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Result, TrainError, TrainingOptions,
    checkpoint::{CheckpointSet, EveryEpoch},
    curves,
    disk::{self, Lock, OWN, sweep_own, unwritable, write_text},
    figures::Figures,
    history::{Epoch, History, Monitor},
    layer_rates,
    renderer::{renderer, say},
    schedule::{Schedule, ScheduleConfig},
    strategy::{ExactEpochs, State, lock},
    task::{StepOptions, Task, ValidationMetric},
};

/// A training to be done.
pub struct Run<T: Task> {
    /// Folder for the run's files.
    pub folder: PathBuf,
    /// Network, loss and metrics.
    pub task: T,
    /// Epochs, learning rates, optimizer and the like.
    pub options: TrainingOptions,
    /// Description of the data in the program's own words: crops, augmentation. A run that is resumed must have the same;
    /// `null` if there is nothing to say.
    pub data: Value,
    /// Weights to begin with; see [`Task::load_pretrained`].
    pub weights: Option<PathBuf>,
    /// The training split, augmented; order, seed and batch size are set from the options.
    pub train: LoaderBuilder<T::Target>,
    /// The validation split.
    pub valid: LoaderBuilder<T::Target>,
    /// Device that the network is trained on.
    pub device: Device,
    /// Whether to go on where an earlier run with the same settings in the same folder ended, if there is one.
    pub resume: bool,
}

/// Result of a training.
#[derive(Debug)]
pub struct Outcome<M> {
    /// The network of the best epoch.
    pub model: M,
    /// All epochs.
    pub history: History,
    /// The best of them.
    pub best: Epoch,
    /// Whether the user stopped it; it can be resumed.
    pub interrupted: bool,
}

/// Content of `config.json`.
#[derive(Serialize, Deserialize)]
struct RunConfig<C, S> {
    #[serde(flatten)]
    card: C,
    recipe: Recipe<S>,
    data: Value,
}

#[derive(Serialize, Deserialize)]
struct Recipe<S> {
    #[serde(flatten)]
    options: TrainingOptions,
    #[serde(flatten)]
    settings: S,
}

/// Trains a network and keeps, in the run's folder, `config.json`, `best.bpk`, `last.bpk`, `metrics.csv`, `curves.svg` and
/// the checkpoint to resume from, each epoch anew.
///
/// # Errors
/// [`TrainError`], also where a batch does not fit the network; the files of the last epoch that ended well are kept.
pub fn train<T: Task>(run: Run<T>) -> Result<Outcome<T::Network>> {
    let Run { folder, task, options: settings, data, weights, train, valid, device, resume } = run;
    let (folder, device) = (folder.as_path(), &device);
    let metrics = task.metrics()?;
    let metrics: Vec<_> = [ValidationMetric::new("loss", LossMetric::new())].into_iter().chain(metrics).collect();
    let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    if !names.contains(&settings.monitor.metric.as_str()) {
        let reason = format!("must name one of {}", names.join(", "));
        return Err(TrainError::Recipe { field: "monitor", reason });
    }
    task.check()?;
    for (field, given) in [("trainable", settings.trainable.is_some()), ("layer_rates", settings.layer_rates.is_some())]
    {
        if given && !task.has_backbone() {
            return Err(TrainError::Recipe { field, reason: "needs a network on a backbone".into() });
        }
    }
    let train = train.shuffle(true).seed(settings.seed).batch_size(settings.batch_size).build()?;
    let valid = valid.build()?;
    let (steps, epoch) = (train.num_batches(), train.epoch());
    let config =
        RunConfig { card: task.card(), recipe: Recipe { options: settings.clone(), settings: task.settings() }, data };
    let config = ConfigFile::new(config).to_text().expect("a config has string keys and finite numbers");
    settings.check()?;
    if resume {
        upgrade::<T>(&folder.join("config.json"), &config)?;
    }
    let step = StepOptions::new(&settings, device)?;
    // Before anything is read or moved.
    let mut folder_lock = folder.is_dir().then(|| Lock::of(folder)).transpose()?;
    let checkpoints = CheckpointSet::new(folder.join("checkpoint"));
    let last_epoch = if resume { checkpoints.latest()? } else { None };
    let config_path = folder.join("config.json");
    let mut begun = (settings.schedule, settings.epochs);
    if last_epoch.is_some()
        && let Some(earlier) = same_settings(&config_path, &config, settings.schedule)?
    {
        begun = earlier;
    }
    // Before anything is moved: weights to begin with may be those of the run that is in the way, or fit nothing.
    device.seed(settings.seed);
    let mut network = task.init(&device.clone().autodiff())?;
    if let (Some(path), None) = (&weights, last_epoch) {
        network = T::load_pretrained(network, path)?;
    }
    if let Some(trainable) = settings.trainable {
        network = T::freeze_backbone(network, trainable);
    }
    let learner = task.learner(network, step.clone())?.materialize();
    // A run that was killed before its first checkpoint left a config.json and nothing to lose.
    let worth_keeping = folder.join(if resume { "last.bpk" } else { "config.json" });
    if last_epoch.is_none() && worth_keeping.exists() {
        set_aside(folder)?;
    }
    fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
    if folder_lock.is_none() {
        folder_lock = Some(Lock::of(folder)?);
    }
    sweep_own(folder)?;
    write_text(&config_path, &config)?;

    let on_epoch = {
        let (folder, monitor) = (folder.to_owned(), settings.monitor.clone());
        move |learner: &T::Learner, state: &State| {
            let save = |name: &str| weight_files::save(T::network(learner), &folder.join(name));
            write_epoch(&folder, &monitor, state, save)
        }
    };

    let mut state = State::default();
    let mut average = None;
    if let Some(epoch) = last_epoch {
        let (read, record) = checkpoints.open::<State>(epoch)?;
        begun = read.schedule.unwrap_or(begun);
        state = read;
        // Averages go by the ids of what they average. A record brings the ids of parameters along but not those of running
        // statistics, so it is loaded into a copy of the network that trains on.
        average = match record {
            Some(record) => Some(restored(learner.valid(), record, folder)?),
            None => None,
        };
        // The process may have ended between the checkpoint and the files made from it.
        let predictor = match &average {
            Some(average) => average.clone(),
            None => restored(learner.valid(), checkpoints.model()?, folder)?,
        };
        on_epoch(&predictor, &state)?;
    }

    state.schedule = Some(begun);
    let finished = last_epoch.is_some_and(|epoch| epoch >= settings.epochs)
        || settings.patience.is_some_and(|patience| state.history.stale(&settings.monitor) >= patience);
    let mut interrupted = false;
    if !finished {
        let strategy = Arc::new(ExactEpochs {
            device: device.clone(),
            loader_epoch: epoch,
            seed: settings.seed,
            steps,
            accumulation: settings.accumulation,
            ema_decay: settings.ema_decay,
            patience: settings.patience,
            monitor: settings.monitor.clone(),
            metrics: metrics.iter().map(|metric| (metric.name.clone(), metric.key.clone())).collect(),
            checkpoints: checkpoints.clone(),
            on_epoch: Box::new(on_epoch),
            state: Mutex::new(state),
            average: Mutex::new(average),
            error: Mutex::new(None),
        });
        let optimizer = settings.optimizer.init(&learner);
        let (schedule, epochs) = begun;
        let steps = steps.saturating_mul(epochs);
        let schedule = |share| Schedule::new(schedule, share * settings.learning_rate, steps);
        let schedule = match settings.layer_rates {
            Some(rates) => {
                let freeze =
                    |learner, trainable| T::with_network(learner, |network| T::freeze_backbone(network, trainable));
                rates.scheduler(layer_rates::groups(&learner, freeze), schedule)
            }
            None => schedule(1.0).into(),
        };
        let interrupter = Interrupter::new();
        let training = SupervisedTraining::new(folder, Arc::new(train), Arc::new(valid))
            .with_training_strategy(TrainingStrategy::Custom(strategy.clone()))
            .with_custom_checkpointers(checkpoints.clone(), checkpoints.clone(), checkpoints.clone())
            .with_checkpointing_strategy(EveryEpoch)
            .with_application_logger(None)
            .with_metric_logger(Figures::default())
            .with_interrupter(interrupter.clone())
            .renderer(renderer(interrupter, last_epoch))
            .num_epochs(settings.epochs)
            .metric_train_numeric(LossMetric::new());
        let mut training = metrics.into_iter().fold(training, |training, metric| metric.register(training));
        if let Some(epoch) = last_epoch {
            training = training.checkpoint(epoch);
        }
        let result = training.launch(Learner::new(learner, optimizer, schedule));
        drop(result.renderer);
        if let Some(error) = step.take_error() {
            return Err(error);
        }
        if let Some(error) = lock(&strategy.error).take() {
            return Err(error);
        }
        if let Some(error) = result.error {
            return Err(TrainError::Stopped(error.to_string()));
        }
        interrupted = result.interrupted.is_some();
        state = lock(&strategy.state).clone();
    }

    let Some(best) = state.history.best(&settings.monitor).cloned() else {
        let reason = match interrupted {
            true => "it was stopped before the end of the first epoch".into(),
            false => format!("no epoch has a validation {}", settings.monitor.metric),
        };
        return Err(TrainError::Stopped(reason));
    };
    drop(folder_lock);
    let model = weight_files::load(task.init(device)?, &folder.join("best.bpk"))?;
    Ok(Outcome { model, history: state.history, best, interrupted })
}

/// Rewrites a run's `config.json` of an earlier version that says the same as `text`, so that the run can be resumed.
fn upgrade<T: Task>(path: &Path, text: &str) -> Result<()> {
    let config: RunConfig<T::Card, T::Settings> = match config_file::read(path) {
        Ok(config) => config,
        Err(ConfigFileError::NewerFormat(error)) => return Err(error.into()),
        // A file that is missing or damaged is reported where it is compared.
        Err(_) => return Ok(()),
    };
    match ConfigFile::new(config).to_text() {
        Ok(same) if same == text => write_text(path, text),
        _ => Ok(()),
    }
}

/// The files that are made from a checkpoint.
fn write_epoch(
    folder: &Path,
    monitor: &Monitor,
    state: &State,
    save: impl Fn(&str) -> std::result::Result<(), WeightsError>,
) -> Result<()> {
    let last = state.history.epochs().last().map(|epoch| epoch.epoch);
    if state.history.best(monitor).map(|epoch| epoch.epoch) == last {
        save("best.bpk")?;
    }
    save("last.bpk")?;
    write_text(&folder.join("metrics.csv"), &state.history.to_csv())?;
    curves::draw(&state.history, &folder.join("curves.svg"))
}

fn restored<M: Module>(task: M, record: ModuleRecord, folder: &Path) -> Result<M> {
    task.try_load_record(record)
        .map_err(|error| TrainError::Read { path: folder.join("checkpoint"), reason: error.to_string() })
}

/// Moves the files of an earlier run out of the way, to the first free `FOLDER.N`: nothing that a user has is overwritten,
/// and nothing is touched that no training wrote.
fn set_aside(folder: &Path) -> Result<()> {
    let config = folder.join("config.json");
    if !config.exists() {
        return Ok(());
    }
    let is_run = |text: String| serde_json::from_str::<Value>(&text).is_ok_and(|config| config["recipe"].is_object());
    if !fs::read_to_string(&config).is_ok_and(is_run) {
        return Err(TrainError::Foreign { path: config });
    }
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("run").to_owned();
    let free = (1..).map(|n| folder.with_file_name(format!("{name}.{n}"))).find(|path| !path.exists());
    let free = free.expect("some number is free");
    fs::create_dir(&free).map_err(|error| unwritable(&free, error))?;
    // The config last: without it, what is left would not be known for a run's.
    for name in OWN {
        let from = folder.join(name);
        if from.exists() {
            disk::rename(&from, &free.join(name))?;
        }
    }
    [&free, folder].into_iter().try_for_each(disk::sync)?;
    say(format_args!("the earlier run in {} is now in {}", folder.display(), free.display()));
    Ok(())
}

/// Checks that a run that is resumed has the settings that it was started with. Where it has more epochs, and its schedule
/// says what the rate is after its end, gives the schedule and the epochs of before.
///
/// Both configs are taken from text, because serde_json does not give every number the last bit that was written.
fn same_settings(path: &Path, now: &str, schedule: ScheduleConfig) -> Result<Option<(ScheduleConfig, usize)>> {
    const EPOCHS: &str = "recipe.epochs";
    const DATA: &str = "data.sha256";
    let ConfigFile { content: mut before, .. } = config_file::read::<ConfigFile<Value>>(path)?;
    let ConfigFile { content: now, .. } =
        serde_json::from_str::<ConfigFile<Value>>(now).expect("a config is an object");
    let epochs = |config: &Value| config["recipe"]["epochs"].as_u64();
    let more = epochs(&before).zip(epochs(&now)).is_some_and(|(before, now)| now > before);
    let mut earlier = None;
    if more && matches!(schedule, ScheduleConfig::Constant | ScheduleConfig::MultiStep { .. }) {
        let old: Option<ScheduleConfig> = serde_json::from_value(before["recipe"]["schedule"].clone()).ok();
        let count = epochs(&before).and_then(|epochs| usize::try_from(epochs).ok());
        earlier = old.zip(count).filter(|(old, count)| goes_on(*old, *count, schedule, epochs(&now)));
        if earlier.is_some() {
            for field in ["epochs", "schedule"] {
                before["recipe"][field] = now["recipe"][field].clone();
            }
        }
    }
    match difference(&before, &now, "") {
        None => Ok(earlier),
        Some(difference) if difference.starts_with(DATA) => {
            let difference = "the data: names, sizes or objects of the images are not those that it began with".into();
            Err(TrainError::OtherRun { path: path.into(), difference })
        }
        Some(difference) if more && difference.starts_with(EPOCHS) => {
            let cure = "the learning rates of its schedule depend on the epochs; go on from best.bpk in another folder";
            Err(TrainError::OtherRun { path: path.into(), difference: format!("{difference}: {cure}") })
        }
        Some(difference) => Err(TrainError::OtherRun { path: path.into(), difference }),
    }
}

/// Whether a schedule with more epochs is the one of before: the rise of a multi-step schedule may be the same share of the
/// steps, or the same steps.
fn goes_on(old: ScheduleConfig, old_epochs: usize, new: ScheduleConfig, new_epochs: Option<u64>) -> bool {
    let stretch = new_epochs.unwrap_or(0) as f64 / old_epochs.max(1) as f64;
    match (old, new) {
        (
            ScheduleConfig::MultiStep { warmup: old, start: a, milestones: b, gamma: c },
            ScheduleConfig::MultiStep { warmup: new, start, milestones, gamma },
        ) => (a, b, c) == (start, milestones, gamma) && (old == new || (old - new * stretch).abs() <= 1e-9 * old),
        (old, new) => old == new,
    }
}

/// The first field in which two configs differ.
fn difference(before: &Value, now: &Value, name: &str) -> Option<String> {
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).find_map(|key| {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            // Said of the data, with paths that may be other ones now.
            if name == "data.warnings" {
                return None;
            }
            // Earlier versions did not write it, so it says nothing.
            if name == "data.sha256" && !a.contains_key(key) {
                return None;
            }
            difference(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), &name)
        }),
        _ => (before != now).then(|| format!("{name} was {before}, is {now}")),
    }
}

#[cfg(test)]
mod tests {
    use segkiln_core::Classes;
    use segkiln_data::{ColorMode, Normalize};
    use segkiln_models::{ModelCard, ModelConfig};

    use super::*;
    use crate::SegmentationTask;

    const CONFIG: &str = r#"{"recipe": {"epochs": 4, "seed": 1}}"#;

    #[test]
    fn only_a_run_s_own_files_are_moved() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("out");
        let own = ["config.json", "best.bpk", "overlays/a.png", "validation/a.nii.gz", "cases.csv"];
        let others = ["images/a.png", "train.txt", "notes.csv"];
        for name in own.iter().chain(&others) {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, CONFIG).unwrap();
        }
        set_aside(&folder).unwrap();
        let moved = root.path().join("out.1");
        assert!(own.iter().all(|name| moved.join(name).exists() && !folder.join(name).exists()));
        assert!(others.iter().all(|name| folder.join(name).exists() && !moved.join(name).exists()));
        // Nothing of a run is left.
        set_aside(&folder).unwrap();
        assert!(!root.path().join("out.2").exists());
        for foreign in ["{\"model\": 1}", "nothing", "[]"] {
            fs::write(folder.join("config.json"), foreign).unwrap();
            let error = set_aside(&folder).unwrap_err().to_string();
            assert!(error.contains("out/config.json is not of a training"), "{error}");
        }
    }

    /// Without accumulation and precision, and with another name of the backbone.
    #[test]
    fn configs_of_earlier_versions_are_upgraded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let card = ModelCard {
            model: ModelConfig::by_name("fpn_resnet18", 1).unwrap(),
            classes: Classes::binary(),
            color: Some(ColorMode::Rgb),
            normalize: Normalize::imagenet(),
        };
        let task = SegmentationTask::new(card);
        let recipe = Recipe { options: TrainingOptions::default(), settings: task.settings() };
        let text = ConfigFile::new(RunConfig { card: task.card(), recipe, data: Value::Null }).to_text().unwrap();
        let mut earlier: Value = serde_json::from_str(&text).unwrap();
        for field in ["format", "segkiln"] {
            earlier.as_object_mut().unwrap().remove(field).unwrap();
        }
        for field in ["accumulation", "precision"] {
            earlier["recipe"].as_object_mut().unwrap().remove(field).unwrap();
        }
        let fpn = earlier["model"]["Fpn"].as_object_mut().unwrap();
        let backbone = fpn.remove("backbone").unwrap();
        fpn.insert("encoder".into(), backbone);
        fs::write(&path, earlier.to_string()).unwrap();
        let schedule = TrainingOptions::default().schedule;
        assert!(same_settings(&path, &text, schedule).is_err());
        upgrade::<SegmentationTask>(&path, &text).unwrap();
        same_settings(&path, &text, schedule).unwrap();
        // Other settings stay as they are.
        let other = earlier.to_string().replace("\"batch_size\":4", "\"batch_size\":5");
        fs::write(&path, &other).unwrap();
        upgrade::<SegmentationTask>(&path, &text).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), other);
        // What a later version may mean by its fields is not known.
        let later = text.replace("\"format\": 1", "\"format\": 2");
        fs::write(&path, &later).unwrap();
        for error in [upgrade::<SegmentationTask>(&path, &text), same_settings(&path, &text, schedule).map(drop)] {
            assert!(matches!(error, Err(TrainError::NewerFormat(_))), "{error:?}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), later);
    }

    #[test]
    fn nothing_is_lost_where_power_goes_while_a_run_is_moved() {
        for calls in 0.. {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("out");
            fs::create_dir(&folder).unwrap();
            let own = ["config.json", "best.bpk", "last.bpk", "metrics.csv"];
            own.iter().for_each(|name| fs::write(folder.join(name), CONFIG).unwrap());
            disk::stop::after(Some(calls));
            let moved = set_aside(&folder);
            disk::stop::after(None);
            // The next training does the rest.
            set_aside(&folder).unwrap();
            let places = ["out", "out.1", "out.2"].map(|name| root.path().join(name));
            for name in own {
                let found = places.iter().filter(|place| place.join(name).exists()).count();
                assert_eq!(found, 1, "{name} after {calls} calls");
                assert!(!folder.join(name).exists());
            }
            if moved.is_ok() {
                assert!(calls >= own.len() + 2);
                return;
            }
        }
    }

    #[test]
    fn more_epochs_are_no_other_run_where_the_rate_is_constant() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, CONFIG).unwrap();
        let cosine = ScheduleConfig::Cosine { warmup: 0.0, floor: 0.0 };
        let with = |epochs: usize| CONFIG.replace("4", &epochs.to_string());
        for schedule in [ScheduleConfig::Constant, cosine] {
            same_settings(&path, CONFIG, schedule).unwrap();
            let error = same_settings(&path, &with(3), schedule).unwrap_err().to_string();
            assert!(error.contains("recipe.epochs was 4, is 3"), "{error}");
        }
        same_settings(&path, &with(6), ScheduleConfig::Constant).unwrap_err();
        let constant = CONFIG.replace("\"seed\"", "\"schedule\": \"constant\", \"seed\"");
        fs::write(&path, &constant).unwrap();
        let more = constant.replace('4', "6");
        assert_eq!(same_settings(&path, &constant, ScheduleConfig::Constant).unwrap(), None);
        let begun = same_settings(&path, &more, ScheduleConfig::Constant).unwrap();
        assert_eq!(begun, Some((ScheduleConfig::Constant, 4)));
        fs::write(&path, CONFIG).unwrap();
        let error = same_settings(&path, &with(6), cosine).unwrap_err().to_string();
        assert!(error.contains("recipe.epochs was 4, is 6") && error.contains("best.bpk"), "{error}");
        let other = CONFIG.replace(": 1}", ": 2}");
        let error = same_settings(&path, &other, ScheduleConfig::Constant).unwrap_err().to_string();
        assert!(error.contains("recipe.seed was 1, is 2"), "{error}");
    }

    #[test]
    fn more_epochs_go_on_behind_a_multi_step_schedule() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let config = |epochs: usize| {
            let schedule = ScheduleConfig::multi_step([50, 50 * epochs]);
            (schedule, serde_json::json!({ "recipe": { "epochs": epochs, "schedule": schedule } }).to_string())
        };
        let (old, text) = config(4);
        fs::write(&path, text).unwrap();
        let (new, text) = config(7);
        assert_ne!(old, new);
        assert_eq!(same_settings(&path, &text, new).unwrap(), Some((old, 4)));
        let other = ScheduleConfig::MultiStep { warmup: 0.01, start: 0.5, milestones: [0.5, 0.7], gamma: 0.1 };
        let text = serde_json::json!({ "recipe": { "epochs": 7, "schedule": other } }).to_string();
        let error = same_settings(&path, &text, other).unwrap_err().to_string();
        assert!(error.contains("recipe."), "{error}");
    }

    #[test]
    fn other_data_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let with = |data: &str| format!("{{\"recipe\": {{\"epochs\": 4}}, \"data\": {data}}}");
        fs::write(&path, with("{\"sha256\": [\"ab\"], \"warnings\": []}")).unwrap();
        same_settings(&path, &with("{\"sha256\": [\"ab\"], \"warnings\": [1]}"), ScheduleConfig::Constant).unwrap();
        let other = with("{\"sha256\": [\"ac\"]}");
        let error = same_settings(&path, &other, ScheduleConfig::Constant).unwrap_err().to_string();
        assert!(error.contains("the data: names, sizes or objects") && error.contains("another folder"), "{error}");
        fs::write(&path, with("{\"warnings\": []}")).unwrap();
        same_settings(&path, &other, ScheduleConfig::Constant).unwrap();
    }
}
