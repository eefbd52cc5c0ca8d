use burn::data::dataset::{Dataset, DatasetError};
use segkiln_core::LabelMap;

use crate::{Sample, transforms::Target};

/// Samples that are in memory already.
#[derive(Debug, Clone, Default)]
pub struct InMemoryDataset<T = LabelMap>(Vec<Sample<T>>);

impl<T> InMemoryDataset<T> {
    /// A data set of these samples, in this order.
    pub fn new(samples: Vec<Sample<T>>) -> Self {
        Self(samples)
    }
}

impl<T: Target> Dataset<Sample<T>> for InMemoryDataset<T> {
    fn get(&self, index: usize) -> Result<Sample<T>, DatasetError> {
        Ok(self.0[index].clone())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
