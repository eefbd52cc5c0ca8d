use crate::{CoreError, Result, Size};

/// An image of labels: class indices (semantic segmentation) or instance ids (instance segmentation).
///
/// Row-major, one `u32` a pixel, so that 16-bit id images and 32-bit instance maps fit without loss. In an instance map
/// 0 is the background.
///
/// ```
/// use segkiln_core::LabelMap;
///
/// let map = LabelMap::new(3, 2, vec![0, 1, 1, 0, 0, 7])?;
/// assert_eq!(map.get(2, 1), Some(7));
/// assert_eq!(map.labels(), [0, 1, 7]);
/// # Ok::<(), segkiln_core::CoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    width: u32,
    height: u32,
    data: Vec<u32>,
}

impl LabelMap {
    /// Creates a map from row-major values.
    ///
    /// # Errors
    /// [`CoreError::LabelCount`] unless `data` has `width * height` values.
    pub fn new(width: u32, height: u32, data: Vec<u32>) -> Result<Self> {
        let expected = u64::from(width) * u64::from(height);
        if data.len() as u64 != expected {
            return Err(CoreError::LabelCount { width, height, expected, actual: data.len() });
        }
        Ok(Self { width, height, data })
    }

    /// Creates a map with one label everywhere.
    pub fn filled(width: u32, height: u32, label: u32) -> Self {
        Self { width, height, data: vec![label; width as usize * height as usize] }
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        Size { width: self.width(), height: self.height() }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Row-major labels.
    pub fn as_slice(&self) -> &[u32] {
        &self.data
    }

    /// Row-major labels, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u32] {
        &mut self.data
    }

    /// Takes the row-major labels out.
    pub fn into_vec(self) -> Vec<u32> {
        self.data
    }

    /// The label at column `x` of row `y`, or `None` outside the map.
    pub fn get(&self, x: u32, y: u32) -> Option<u32> {
        (x < self.width && y < self.height).then(|| self.data[y as usize * self.width as usize + x as usize])
    }

    /// The distinct labels, ascending.
    pub fn labels(&self) -> Vec<u32> {
        let mut labels = Vec::new();
        // Neighbors mostly agree, so runs are dropped before the sort.
        for &label in &self.data {
            if labels.last() != Some(&label) {
                labels.push(label);
            }
        }
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// The largest label, or `None` for a map without pixels.
    pub fn max(&self) -> Option<u32> {
        self.data.iter().copied().max()
    }

    /// Replaces each label by `f(label)`.
    pub fn map(mut self, f: impl Fn(u32) -> u32) -> Self {
        self.data.iter_mut().for_each(|label| *label = f(*label));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_count_is_refused() {
        let error = LabelMap::new(2, 2, vec![0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "a label map of 2x2 pixels needs 4 values, got 3");
        assert!(LabelMap::new(u32::MAX, u32::MAX, vec![]).is_err());
    }

    #[test]
    fn get_is_none_outside() {
        let map = LabelMap::filled(2, 3, 5);
        assert_eq!(map.get(1, 2), Some(5));
        assert_eq!(map.get(2, 2), None);
        assert_eq!(map.get(1, 3), None);
    }

    #[test]
    fn map_makes_instances_binary() {
        let map = LabelMap::new(2, 2, vec![0, 3, 9, 0]).unwrap().map(|l| u32::from(l > 0));
        assert_eq!(map.as_slice(), [0, 1, 1, 0]);
        assert_eq!(map.max(), Some(1));
    }
}
