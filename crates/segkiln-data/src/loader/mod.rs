//! A prefetching loader whose batches are a function of the seed, the epoch and the position alone.

mod drawn;
mod queue;

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use burn::{
    data::{
        dataloader::{DataLoader, DataLoaderIterator, Progress},
        dataset::{Dataset, DatasetError},
    },
    tensor::Device,
};
use segkiln_core::LabelMap;

use crate::{
    Collate, Collated, DataError, Result, Sample,
    rng::{Purpose, TransformRng},
    transforms::{Compose, Transform},
};

pub use drawn::DrawnDataset;
use drawn::Fixed;
use queue::Prefetched;

/// Loads, transforms and collates samples on threads of its own, and hands the batches over in order: a
/// [`Batch`](crate::Batch) of samples with label maps, a [`DetectionBatch`](crate::DetectionBatch) of samples with
/// [`Instances`](segkiln_core::Instances).
///
/// An epoch is a list of *positions*. Which sample stands at a position is a function of (seed, epoch), how it is
/// [drawn](DrawnDataset) and what the transforms do to it of (seed, epoch, position); so the batches are the same to the bit whatever the number of
/// workers. [`iter`](DataLoader::iter) walks the epoch that [`epoch`](Self::epoch) says and does **not** advance it:
/// whoever runs the training sets it, or every epoch has the same draws.
///
/// Workers do the host's part (decode, transform, collate to plain memory). The thread that iterates makes
/// the tensors from it, because a device's backend may keep a stream and a memory pool a thread, which short-lived
/// workers would leave behind.
///
/// Not more than `prefetch` batches exist ahead of the one asked for. A sample that cannot be loaded is an `Err` in the
/// place of its batch, and the batches after it still come. To drop the iterator stops the workers as soon as each has
/// finished the sample at hand.
#[derive(Clone)]
pub struct Loader<T: Collate = LabelMap> {
    core: Arc<Core<T>>,
    positions: Range<usize>,
    device: Device,
}

/// State that the clones of a loader share.
struct Core<T> {
    dataset: Arc<dyn DrawnDataset<T>>,
    transform: Arc<dyn Transform<T>>,
    batch_size: usize,
    seed: u64,
    shuffle: bool,
    workers: usize,
    prefetch: usize,
    drop_last: bool,
    epoch: EpochHandle,
}

/// The epoch that a [`Loader`] and all its clones, slices and moves to other devices walk next.
#[derive(Debug, Clone, Default)]
pub struct EpochHandle(Arc<AtomicUsize>);

impl EpochHandle {
    /// Sets the epoch; iterators that exist already stay in theirs.
    pub fn set(&self, epoch: usize) {
        self.0.store(epoch, Ordering::SeqCst);
    }

    /// The epoch, 0 at first.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Options of a [`Loader`].
#[derive(Clone)]
pub struct LoaderBuilder<T: Collate = LabelMap> {
    dataset: Arc<dyn DrawnDataset<T>>,
    transform: Arc<dyn Transform<T>>,
    batch_size: usize,
    seed: u64,
    shuffle: bool,
    workers: usize,
    prefetch: Option<usize>,
    epoch_length: Option<usize>,
    drop_last: bool,
    device: Device,
}

impl<T: Collate> LoaderBuilder<T> {
    /// Samples a batch. Default: 1.
    pub fn batch_size(mut self, samples: usize) -> Self {
        self.batch_size = samples;
        self
    }

    /// Sets the transform that is applied to each sample. Default: none.
    pub fn transform(mut self, transform: impl Transform<T> + 'static) -> Self {
        self.transform = Arc::new(transform);
        self
    }

    /// Sets the seed of all random choices. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets whether the order changes from epoch to epoch. Default: no, the order is the data set's.
    pub fn shuffle(mut self, shuffle: bool) -> Self {
        self.shuffle = shuffle;
        self
    }

    /// Threads that load; 0 loads on the thread that iterates. Default: as many as there are processors.
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads;
        self
    }

    /// Batches that may exist ahead of the one asked for, those in the making included. Default: twice the workers.
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.prefetch = Some(batches);
        self
    }

    /// Samples an epoch. More than the data set has is allowed: then it is gone through again, in another order if
    /// shuffled, with fresh random draws. Default: the length of the data set.
    pub fn epoch_length(mut self, samples: Option<usize>) -> Self {
        self.epoch_length = samples;
        self
    }

    /// Whether samples that do not fill a last batch are left out. Default: no.
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Device of the tensors. Default: the default device.
    pub fn device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// The loader.
    ///
    /// # Errors
    /// If the data set is empty, the batch size, the prefetch or the length of an epoch is 0, or an epoch is shorter than
    /// a batch and would be dropped.
    pub fn build(self) -> Result<Loader<T>> {
        if self.dataset.is_empty() {
            return Err(DataError::Empty { what: "the data set of the loader".into() });
        }
        let positive = |option, value: usize| match value {
            0 => Err(DataError::option(option, "must be at least 1, got 0")),
            _ => Ok(value),
        };
        positive("batch_size", self.batch_size)?;
        let length = positive("epoch_length", self.epoch_length.unwrap_or(self.dataset.len()))?;
        let prefetch = positive("prefetch", self.prefetch.unwrap_or(2 * self.workers.max(1)))?;
        if self.drop_last && length < self.batch_size {
            let reason = format!(
                "an epoch of {length} samples does not fill a batch of {}, so that no batch is left",
                self.batch_size
            );
            return Err(DataError::option("drop_last", reason));
        }
        let core = Core {
            dataset: self.dataset,
            transform: self.transform,
            batch_size: self.batch_size,
            seed: self.seed,
            shuffle: self.shuffle,
            workers: self.workers,
            prefetch,
            drop_last: self.drop_last,
            epoch: EpochHandle::default(),
        };
        Ok(Loader { core: Arc::new(core), positions: 0..length, device: self.device })
    }
}

impl<T: Collate> Loader<T> {
    /// A loader of `dataset`, with the defaults that are documented at each option.
    pub fn builder(dataset: Arc<dyn Dataset<Sample<T>>>) -> LoaderBuilder<T> {
        Self::drawn(Arc::new(Fixed(dataset)))
    }

    /// A loader of samples that are drawn anew in each epoch, with the defaults that are documented at each option.
    pub fn drawn(dataset: Arc<dyn DrawnDataset<T>>) -> LoaderBuilder<T> {
        LoaderBuilder {
            dataset,
            transform: Arc::new(Compose::new()),
            batch_size: 1,
            seed: 0,
            shuffle: false,
            workers: available_parallelism().map_or(1, usize::from),
            prefetch: None,
            epoch_length: None,
            drop_last: false,
            device: Device::default(),
        }
    }

    /// The epoch that [`iter`](DataLoader::iter) walks; shared with all clones, slices and moves of this loader.
    pub fn epoch(&self) -> EpochHandle {
        self.core.epoch.clone()
    }

    /// Batches an epoch.
    pub fn num_batches(&self) -> usize {
        self.num_items().div_ceil(self.core.batch_size)
    }
}

impl<T: Collate> DataLoader<T::Batch> for Loader<T> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<T::Batch> + 'a> {
        let epoch = self.core.epoch.get();
        let end = self.positions.start + self.num_items();
        let plan = Plan {
            order: self.core.order(epoch, end),
            core: self.core.clone(),
            epoch,
            positions: self.positions.start..end,
        };
        let source = match self.core.workers {
            0 => Source::Here(Box::new(plan)),
            workers => Source::Threads(Prefetched::start(plan, workers, self.core.prefetch)),
        };
        Box::new(Batches { source, next: 0, processed: 0, total: self.num_items(), device: self.device.clone() })
    }

    /// Samples an epoch, without those that `drop_last` leaves out.
    fn num_items(&self) -> usize {
        let length = self.positions.len();
        if self.core.drop_last { length - length % self.core.batch_size } else { length }
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<T::Batch>> {
        Arc::new(Self { device: device.clone(), ..self.clone() })
    }

    /// The part of each epoch between two positions. The samples at them are what they are in the whole epoch, so that
    /// slices which together cover it load each sample once.
    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<T::Batch>> {
        let Range { start: first, end: last } = self.positions;
        let positions = (first + start).min(last)..(first + end).min(last);
        Arc::new(Self { positions, ..self.clone() })
    }
}

impl<T: Collate> Core<T> {
    /// The sample at each of the first `length` positions: the data set over and over, each time in another
    /// order if shuffled.
    fn order(&self, epoch: usize, length: usize) -> Vec<usize> {
        let samples = self.dataset.len();
        let mut order = Vec::with_capacity(length.next_multiple_of(samples));
        while order.len() < length {
            let pass = (order.len() / samples) as u64;
            let start = order.len();
            order.extend(0..samples);
            if self.shuffle {
                TransformRng::for_purpose(Purpose::Shuffle, self.seed, epoch as u64, pass).shuffle(&mut order[start..]);
            }
        }
        order.truncate(length);
        order
    }
}

/// One epoch, of which any thread can make any batch.
struct Plan<T: Collate> {
    core: Arc<Core<T>>,
    order: Vec<usize>,
    epoch: usize,
    positions: Range<usize>,
}

impl<T: Collate> Plan<T> {
    fn batches(&self) -> usize {
        self.positions.len().div_ceil(self.core.batch_size)
    }

    fn positions_of(&self, batch: usize) -> Range<usize> {
        let start = self.positions.start.saturating_add(batch.saturating_mul(self.core.batch_size));
        start..start.saturating_add(self.core.batch_size).min(self.positions.end)
    }

    /// Loads a batch, or gives up with `None` before a sample at which `stopped` says so.
    fn batch(&self, batch: usize, stopped: impl Fn() -> bool) -> Option<Result<Collated<T::Batch>>> {
        let positions = self.positions_of(batch);
        let mut samples = Vec::with_capacity(positions.len());
        for position in positions {
            if stopped() {
                return None;
            }
            match self.sample(position) {
                Ok(sample) => samples.push(sample),
                Err(error) => return Some(Err(error)),
            }
        }
        let panicked = |message| Err(DataError::PanickedCollate { batch, message });
        Some(catch_unwind(AssertUnwindSafe(|| T::collate(samples))).unwrap_or_else(|panic| panicked(message(&*panic))))
    }

    fn sample(&self, position: usize) -> Result<Sample<T>> {
        let index = self.order[position];
        let load = || {
            let mut rng = TransformRng::new(self.core.seed, self.epoch as u64, position as u64);
            let sample = self.core.dataset.draw(index, &mut rng)?;
            sample.check()?;
            self.core.transform.apply(sample, &mut rng)
        };
        catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|panic| Err(DataError::Panicked { index, message: message(&*panic) }))
    }
}

/// The message of a panic.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "no message".into(),
    }
}

enum Source<T: Collate> {
    Here(Box<Plan<T>>),
    Threads(Prefetched<T>),
}

/// The batches of one epoch, in order.
struct Batches<T: Collate> {
    source: Source<T>,
    next: usize,
    processed: usize,
    total: usize,
    device: Device,
}

impl<T: Collate> Iterator for Batches<T> {
    type Item = std::result::Result<T::Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let plan = match &self.source {
            Source::Here(plan) => plan,
            Source::Threads(prefetched) => prefetched.plan(),
        };
        if self.next == plan.batches() {
            return None;
        }
        self.processed += plan.positions_of(self.next).len();
        let batch = match &mut self.source {
            Source::Here(plan) => plan.batch(self.next, || false)?,
            Source::Threads(prefetched) => prefetched.take(self.next),
        };
        self.next += 1;
        Some(batch.map(|collated| collated(&self.device)).map_err(DatasetError::from))
    }
}

impl<T: Collate> DataLoaderIterator<T::Batch> for Batches<T> {
    fn progress(&self) -> Progress {
        Progress::new(self.processed, self.total, Some("items".into()))
    }
}

#[cfg(test)]
mod tests;
