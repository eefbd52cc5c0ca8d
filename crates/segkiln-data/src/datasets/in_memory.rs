use burn::data::dataset::{Dataset, DatasetError};

use crate::Sample;

/// Samples that are in memory already.
#[derive(Debug, Clone, Default)]
pub struct InMemoryDataset(Vec<Sample>);

impl InMemoryDataset {
    /// A data set of these samples, in this order.
    pub fn new(samples: Vec<Sample>) -> Self {
        Self(samples)
    }
}

impl Dataset<Sample> for InMemoryDataset {
    fn get(&self, index: usize) -> Result<Sample, DatasetError> {
        Ok(self.0[index].clone())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
