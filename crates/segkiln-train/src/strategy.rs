//! burn-train's training strategy with epochs that can be repeated exactly.
//!
//! Burn's own single-device strategy does not tell the loader which epoch it is, cannot average weights, and leaves a
//! checkpoint in three files written at different times. This one is the same loop with those tied together: the loader's
//! epoch and the device's random numbers are set from (seed, epoch), so an epoch is a function of the checkpoint before it.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use burn::{
    data::dataloader::Progress,
    optim::{GradientsAccumulator, GradientsParams},
    tensor::Device,
};
use burn_train::{
    EventProcessorTraining, InferenceStep, Learner, LearnerEvent, LearnerModel, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainLoader, TrainStep, TrainingComponents, TrainingItem, ValidLoader,
    metric::store::{Aggregate, EventStoreClient, Split},
};
use segkiln_data::EpochHandle;
use segkiln_models::weights::first_not_finite;
use serde::{Deserialize, Serialize};

use crate::{
    Result, TrainError,
    checkpoint::CheckpointSet,
    ema::Ema,
    history::{Epoch, History, Monitor},
    renderer::say,
    schedule::ScheduleConfig,
    task::HasLoss,
};

/// Training state that a checkpoint holds beside the records.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// The epochs so far.
    pub history: History,
    /// Updates that the averaged weights have had.
    pub ema_step: usize,
    /// The schedule that the training began with, and the epochs that it was made for: further epochs go on with its last
    /// rate.
    #[serde(default)]
    pub schedule: Option<(ScheduleConfig, usize)>,
}

/// Callback at the end of each epoch, with the network to predict with (the averaged one, if there is one) and the state; it
/// runs after the checkpoint is safe.
pub type OnEpoch<M> = dyn Fn(&M, &State) -> Result<()> + Send + Sync;

/// The loop; see the [module](self).
pub struct ExactEpochs<M> {
    /// Device that the network trains on.
    pub device: Device,
    /// The training loader's epoch.
    pub loader_epoch: EpochHandle,
    /// Seed of all random choices.
    pub seed: u64,
    /// Batches of an epoch.
    pub steps: usize,
    /// Batches whose gradients are summed to one step.
    pub accumulation: usize,
    /// Decay of the averaged weights; none are kept without.
    pub ema_decay: Option<f64>,
    /// Epochs without a better one after which training stops.
    pub patience: Option<usize>,
    /// Metric that decides which epoch is best.
    pub monitor: Monitor,
    /// Validation metrics to keep in the history: name in the history, name in burn-train.
    pub metrics: Vec<(String, String)>,
    /// Checkpoints of the run.
    pub checkpoints: CheckpointSet,
    /// Called after each checkpoint.
    pub on_epoch: Box<OnEpoch<M>>,
    /// The state to go on from and, after training, the last one.
    pub state: Mutex<State>,
    /// The averaged network to go on from.
    pub average: Mutex<Option<M>>,
    /// Why training stopped early.
    pub error: Mutex<Option<TrainError>>,
}

impl<M> SupervisedLearningStrategy<M> for ExactEpochs<M>
where
    M: LearnerModel,
    <M as TrainStep>::Output: HasLoss,
{
    fn fit(
        &self,
        components: TrainingComponents<M>,
        learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
        starting_epoch: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        let mut fit = Fit::new(self, components, learner, train, valid);
        for epoch in starting_epoch..=fit.components.num_epochs {
            match fit.epoch(epoch) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    fit.components.interrupter.stop(Some(&error.to_string()));
                    *lock(&self.error) = Some(error);
                    break;
                }
            }
        }
        (fit.learner.model(), fit.components.event_processor)
    }
}

/// The value behind a lock; a poisoned one is still whole, because each is only ever replaced.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One run of the loop.
struct Fit<'a, M: LearnerModel> {
    strategy: &'a ExactEpochs<M>,
    components: TrainingComponents<M>,
    learner: Learner<M>,
    train: TrainLoader<M>,
    valid: ValidLoader<M>,
    ema: Option<Ema>,
    state: State,
}

impl<'a, M> Fit<'a, M>
where
    M: LearnerModel,
    <M as TrainStep>::Output: HasLoss,
{
    fn new(
        strategy: &'a ExactEpochs<M>,
        components: TrainingComponents<M>,
        mut learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
    ) -> Self {
        let device = strategy.device.clone().autodiff();
        learner.fork(&device);
        let state = lock(&strategy.state).clone();
        let average = lock(&strategy.average).take();
        let ema = strategy.ema_decay.map(|decay| match average {
            Some(average) => Ema::new(decay, state.ema_step, &average),
            None => Ema::new(decay, 0, &learner.model()),
        });
        Self {
            train: train.to_device(&device),
            valid: valid.to_device(&device.inner()),
            strategy,
            components,
            learner,
            ema,
            state,
        }
    }

    /// Trains, validates and saves an epoch; false if it is to be the last.
    fn epoch(&mut self, epoch: usize) -> Result<bool> {
        let start = Instant::now();
        let strategy = self.strategy;
        strategy.loader_epoch.set(epoch);
        strategy.device.seed(epoch_seed(strategy.seed, epoch));

        let Some(train_loss) = self.train_epoch(epoch)? else { return Ok(false) };
        let predictor = match &self.ema {
            Some(ema) => ema.apply(self.learner.model().valid()),
            None => self.learner.model().valid(),
        };
        let not_finite = first_not_finite(&self.learner.model()).or_else(|| first_not_finite(&predictor));
        if let Some(tensor) = not_finite {
            return Err(TrainError::NonFiniteWeights { epoch, tensor });
        }
        if !self.validate(epoch, &predictor)? {
            return Ok(false);
        }

        let store = self.components.event_store.clone();
        self.state.history.push(Epoch {
            epoch,
            learning_rate: self.learner.lr_current().base(),
            train_loss,
            valid: self.measured(epoch, &store),
            seconds: start.elapsed().as_secs_f64(),
        });
        self.state.ema_step = self.ema.as_ref().map_or(0, Ema::step);
        self.save(epoch, &predictor, &store)?;
        self.report(epoch);

        let stale = self.state.history.stale(&strategy.monitor);
        Ok(strategy.patience.is_none_or(|patience| stale < patience))
    }

    /// The mean loss, or none if the user stopped the training.
    fn train_epoch(&mut self, epoch: usize) -> Result<Option<f64>> {
        let total_items = self.train.num_items();
        self.processed(|events| events.process_train(LearnerEvent::StartSplit { epoch_number: epoch, total_items }))?;
        let train = self.train.clone();
        let mut batches = train.iter();
        let steps = self.strategy.steps;
        let (mut sum, mut step) = (0.0, 0);
        let mut gradients = GradientsAccumulator::new();
        while let Some(batch) = batches.next() {
            let batch = batch.map_err(|error| TrainError::Stopped(error.to_string()))?;
            step += 1;
            let output = self.learner.train_step(batch);
            self.learner.lr_step();
            let loss = output.item.loss().into_scalar::<f64>();
            if !loss.is_finite() {
                let learning_rate = self.learner.lr_current().base();
                return Err(TrainError::NonFiniteLoss { loss, epoch, step, learning_rate });
            }
            sum += loss;
            let due = step % self.strategy.accumulation == 0 || step == steps;
            let batch_gradients = if self.strategy.accumulation == 1 {
                output.grads
            } else {
                gradients.accumulate(&self.learner.model(), output.grads);
                if due { gradients.grads() } else { GradientsParams::new() }
            };
            if due {
                self.learner.optimizer_step(batch_gradients);
                if let Some(ema) = &mut self.ema {
                    ema.update(&self.learner.model());
                }
            }
            let item = item(output.item, batches.progress(), step, Some(self.learner.lr_current()));
            self.processed(|events| events.process_train(LearnerEvent::ProcessedItem(item)))?;
            if self.components.interrupter.should_stop() {
                return Ok(None);
            }
        }
        self.processed(|events| events.process_train(LearnerEvent::EndSplit(epoch)))?;
        Ok(Some(sum / step.max(1) as f64))
    }

    /// False if the user stopped the training.
    fn validate(&mut self, epoch: usize, predictor: &M) -> Result<bool> {
        let total_items = self.valid.num_items();
        self.processed(|events| events.process_valid(LearnerEvent::StartSplit { epoch_number: epoch, total_items }))?;
        let valid = self.valid.clone();
        let mut batches = valid.iter();
        let mut step = 0;
        while let Some(batch) = batches.next() {
            let batch = batch.map_err(|error| TrainError::Stopped(error.to_string()))?;
            step += 1;
            let item = item(InferenceStep::step(predictor, batch), batches.progress(), step, None);
            self.processed(|events| events.process_valid(LearnerEvent::ProcessedItem(item)))?;
            if self.components.interrupter.should_stop() {
                return Ok(false);
            }
        }
        self.processed(|events| events.process_valid(LearnerEvent::EndSplit(epoch)))?;
        self.processed(|events| events.process_train(LearnerEvent::EndEpoch(epoch)))?;
        self.processed(|events| events.flush())?;
        Ok(true)
    }

    fn measured(&self, epoch: usize, store: &EventStoreClient) -> Vec<(String, f64)> {
        let metrics = self.strategy.metrics.iter();
        metrics
            .filter_map(|(name, metric)| {
                let value = store.find_metric(metric, epoch, Aggregate::Mean, &Split::Valid)?;
                Some((name.clone(), value))
            })
            .collect()
    }

    fn save(&mut self, epoch: usize, predictor: &M, store: &EventStoreClient) -> Result<()> {
        if let Some(checkpointer) = &mut self.components.checkpointer {
            checkpointer.checkpoint(&self.learner, epoch, store);
            let average = self.ema.is_some().then(|| predictor.clone().into_record());
            self.strategy.checkpoints.commit(epoch, &self.state, average)?;
        }
        *lock(&self.strategy.state) = self.state.clone();
        (self.strategy.on_epoch)(predictor, &self.state)
    }

    /// A line an epoch where there is no dashboard.
    fn report(&self, epoch: usize) {
        let Some(last) = self.state.history.epochs().last() else { return };
        if std::io::stdout().is_terminal() {
            return;
        }
        let best = self.state.history.best(&self.strategy.monitor).is_some_and(|best| best.epoch == epoch);
        let metrics: Vec<String> = last.valid.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        say(format_args!(
            "epoch {epoch}/{}  lr {:.2e}  train loss {:.4}  valid {}  {:.1} s{}",
            self.components.num_epochs,
            last.learning_rate,
            last.train_loss,
            metrics.join("  "),
            last.seconds,
            if best { "  best" } else { "" }
        ));
    }

    fn processed<E: ToString>(
        &mut self,
        event: impl FnOnce(&mut SupervisedTrainingEventProcessor<M>) -> std::result::Result<(), E>,
    ) -> Result<()> {
        event(&mut self.components.event_processor).map_err(|error| TrainError::Stopped(error.to_string()))
    }
}

fn item<T>(
    output: T,
    progress: Progress,
    step: usize,
    lr: Option<burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate>,
) -> TrainingItem<T> {
    TrainingItem::new(output, progress, Some(step), lr)
}

/// A seed for the device's random numbers in an epoch, by one round of SplitMix64.
fn epoch_seed(seed: u64, epoch: usize) -> u64 {
    let mut z = seed.wrapping_add((epoch as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
