use std::{
    mem::size_of_val,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::LabelMap;

use crate::{Sample, transforms::Target};

/// Keeps decoded samples of another data set in memory, up to a number of bytes.
///
/// The first samples that are asked for are kept and none is given up again; which ones these are changes no result.
///
/// ```
/// # use burn::data::dataset::Dataset;
/// use segkiln_data::datasets::{Cached, InMemoryDataset};
///
/// let dataset: InMemoryDataset = InMemoryDataset::new(vec![]);
/// let cached = Cached::new(dataset, 1 << 30); // 1 GiB
/// assert_eq!(cached.len(), 0);
/// ```
#[derive(Debug)]
pub struct Cached<D, T = LabelMap> {
    dataset: D,
    slots: Vec<OnceLock<Sample<T>>>,
    bytes_left: AtomicUsize,
}

impl<T, D: Dataset<Sample<T>>> Cached<D, T> {
    /// `dataset`, with at most `max_bytes` of its images and targets kept.
    pub fn new(dataset: D, max_bytes: usize) -> Self {
        let slots = (0..dataset.len()).map(|_| OnceLock::new()).collect();
        Self { dataset, slots, bytes_left: AtomicUsize::new(max_bytes) }
    }
}

impl<T: Target, D: Dataset<Sample<T>>> Dataset<Sample<T>> for Cached<D, T> {
    fn get(&self, index: usize) -> Result<Sample<T>, DatasetError> {
        let slot = &self.slots[index];
        if let Some(sample) = slot.get() {
            return Ok(sample.clone());
        }
        let sample = self.dataset.get(index)?;
        let bytes = size_of_val(sample.image.as_slice()) + sample.target.bytes();
        let take = |left: usize| left.checked_sub(bytes);
        if self.bytes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            && slot.set(sample.clone()).is_err()
        {
            // Another thread has kept it meanwhile.
            self.bytes_left.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(sample)
    }

    fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms::testing::ramp;

    /// Counts how often it is read.
    struct Counting(AtomicUsize);

    impl Dataset<Sample> for Counting {
        fn get(&self, index: usize) -> Result<Sample, DatasetError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(ramp(index as u32 + 1, 1, 1))
        }

        fn len(&self) -> usize {
            3
        }
    }

    #[test]
    fn keeps_what_fits() {
        // 8, 16 and 24 bytes
        let cached = Cached::new(Counting(AtomicUsize::new(0)), 30);
        for _ in 0..3 {
            for index in 0..3 {
                assert_eq!(cached.get(index).unwrap(), ramp(index as u32 + 1, 1, 1));
            }
        }
        assert_eq!(cached.dataset.0.load(Ordering::Relaxed), 2 + 3);
        assert_eq!(cached.bytes_left.load(Ordering::Relaxed), 6);
    }
}
