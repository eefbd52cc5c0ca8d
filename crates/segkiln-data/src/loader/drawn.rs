use std::sync::Arc;

use burn::data::dataset::Dataset;
use segkiln_core::LabelMap;

use crate::{Result, Sample, TransformRng};

/// A data set whose samples are drawn anew each time that they are loaded: patches of volumes, crops of pictures that do not fit
/// memory, mixtures of other samples. [`Loader::drawn`](crate::Loader::drawn) loads from it.
///
/// ```
/// # use std::sync::Arc;
/// # use burn::data::dataloader::DataLoader;
/// use segkiln_core::LabelMap;
/// use segkiln_data::{DrawnDataset, Image, Loader, Result, Sample, TransformRng};
///
/// /// Gray pixels.
/// struct Noise;
///
/// impl DrawnDataset for Noise {
///     fn len(&self) -> usize {
///         4
///     }
///
///     fn draw(&self, index: usize, rng: &mut TransformRng) -> Result<Sample> {
///         let image = Image::new(1, 1, 1, vec![rng.unit()])?;
///         Ok(Sample { name: index.to_string(), image, target: LabelMap::filled(1, 1, 0) })
///     }
/// }
///
/// let loader = Loader::drawn(Arc::new(Noise)).seed(1).build()?;
/// let epoch = |epoch| -> Vec<_> {
///     loader.epoch().set(epoch);
///     loader.iter().map(|batch| batch.unwrap().images.into_data()).collect()
/// };
/// assert_eq!(epoch(0), epoch(0));
/// assert_ne!(epoch(0), epoch(1));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
pub trait DrawnDataset<T = LabelMap>: Send + Sync {
    /// Number of samples of an epoch.
    fn len(&self) -> usize;

    /// Whether there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Draws the sample at `index`, by `rng` alone: it is the same for the same (seed, epoch, position), so that a training that is
    /// resumed sees what it would have seen.
    ///
    /// # Errors
    /// If the sample cannot be loaded.
    fn draw(&self, index: usize, rng: &mut TransformRng) -> Result<Sample<T>>;
}

/// A data set whose samples do not change.
pub(super) struct Fixed<T>(pub Arc<dyn Dataset<Sample<T>>>);

impl<T> DrawnDataset<T> for Fixed<T> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn draw(&self, index: usize, _rng: &mut TransformRng) -> Result<Sample<T>> {
        Ok(self.0.get(index)?)
    }
}
