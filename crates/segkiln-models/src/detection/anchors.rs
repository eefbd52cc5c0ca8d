use burn::{config::Config, tensor::Tensor};

use super::Corners;

use crate::ConfigError;

/// Anchors of each level of a feature pyramid; torchvision's `AnchorGenerator`.
#[derive(Config, Debug)]
pub struct AnchorConfig {
    /// Sides of the square anchors of each level in pixels of the network's input, the finest level first.
    #[config(default = "vec![vec![32.0], vec![64.0], vec![128.0], vec![256.0], vec![512.0]]")]
    pub sizes: Vec<Vec<f32>>,
    /// Ratios of height to width; each size has each of them, at the same area.
    #[config(default = "vec![0.5, 1.0, 2.0]")]
    pub ratios: Vec<f32>,
}

impl AnchorConfig {
    /// Anchors of RetinaNet: on each level, beside its size in pixels, those a third and two thirds of an octave larger,
    /// rounded down to whole pixels.
    pub fn with_octaves(sizes: &[f32]) -> Self {
        let third = |size: f32, step: u8| (f64::from(size) * (f64::from(step) / 3.0).exp2()).floor() as f32;
        Self::new().with_sizes(sizes.iter().map(|size| [0, 1, 2].map(|step| third(*size, step)).to_vec()).collect())
    }

    /// Anchors at each location; all levels have as many.
    pub fn per_location(&self) -> usize {
        self.sizes.first().map_or(0, Vec::len) * self.ratios.len()
    }

    /// Anchors of one location, centered at zero and rounded to whole coordinates.
    fn cell(&self, level: usize) -> Vec<Corners> {
        let ratios = self.ratios.iter().map(|ratio| ratio.sqrt());
        ratios
            .flat_map(|ratio| {
                self.sizes[level].iter().map(move |size| {
                    let (width, height) = (1.0 / ratio * size, ratio * size);
                    [-width, -height, width, height].map(|value| (value / 2.0).round_ties_even())
                })
            })
            .collect()
    }

    /// Checks that there are sizes for `levels` levels, as many on each, all positive.
    ///
    /// # Errors
    /// A sentence that names the field out of range.
    pub fn check(&self, levels: usize) -> Result<(), ConfigError> {
        let positive = |values: &[f32]| {
            (1..=64).contains(&values.len()) && values.iter().all(|value| value.is_finite() && *value > 0.0)
        };
        if self.sizes.len() != levels || levels == 0 {
            return Err(ConfigError::new(
                "anchor sizes",
                format!("are for {} levels, the network has {levels}", self.sizes.len()),
            ));
        }
        let first = self.sizes[0].len();
        if !self.sizes.iter().all(|sizes| positive(sizes) && sizes.len() == first) {
            return Err(ConfigError::new(
                "anchor sizes",
                "must be from 1 to 64 positive numbers, as many for each level",
            ));
        }
        if !positive(&self.ratios) {
            return Err(ConfigError::new("anchor ratios", "must be from 1 to 64 positive numbers"));
        }
        Ok(())
    }

    /// Anchors of a level whose map has `height` × `width` locations, for a network input of `size` = `[height, width]`.
    ///
    /// # Panics
    /// If the config has no such level.
    pub fn grid(&self, level: usize, [height, width]: [usize; 2], size: [usize; 2]) -> AnchorGrid {
        // The locations of an empty map are never asked for.
        let stride = [size[0] / height.max(1), size[1] / width.max(1)];
        AnchorGrid { cell: self.cell(level), locations: [height, width], stride }
    }

    /// Grids of all levels of a pyramid.
    ///
    /// # Panics
    /// If there are more maps than levels.
    pub fn grids(&self, maps: &[Tensor<4>], size: [usize; 2]) -> Vec<AnchorGrid> {
        let grid = |(level, map): (usize, &Tensor<4>)| {
            let [_, _, height, width] = map.dims();
            self.grid(level, [height, width], size)
        };
        maps.iter().enumerate().map(grid).collect()
    }
}

/// Anchors of one level, numbered as the heads' outputs: by row, column, and anchor of the location.
#[derive(Debug, Clone)]
pub struct AnchorGrid {
    cell: Vec<Corners>,
    locations: [usize; 2],
    stride: [usize; 2],
}

impl AnchorGrid {
    /// Number of anchors.
    pub fn len(&self) -> usize {
        self.locations[0] * self.locations[1] * self.cell.len()
    }

    /// Whether the map has no location.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Anchor of an index below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Corners {
        let (location, kind) = (index / self.cell.len(), index % self.cell.len());
        let x = (location % self.locations[1] * self.stride[1]) as f32;
        let y = (location / self.locations[1] * self.stride[0]) as f32;
        let [x1, y1, x2, y2] = self.cell[kind];
        [x1 + x, y1 + y, x2 + x, y2 + y]
    }

    /// All anchors in order.
    pub fn iter(&self) -> impl Iterator<Item = Corners> {
        (0..self.len()).map(|index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_torchvision_s() {
        // torchvision 0.29: AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),)) on a 2×2 map of a 32×32 image
        let config = AnchorConfig::new().with_sizes(vec![vec![32.0, 64.0]]);
        let grid = config.grid(0, [2, 2], [32, 32]);
        assert_eq!(grid.len(), 24);
        assert_eq!(grid.get(0), [-23.0, -11.0, 23.0, 11.0]);
        assert_eq!(grid.get(1), [-45.0, -23.0, 45.0, 23.0]);
        assert_eq!(grid.get(2), [-16.0, -16.0, 16.0, 16.0]);
        assert_eq!(grid.get(5), [-23.0, -45.0, 23.0, 45.0]);
        assert_eq!(grid.get(6 + 2), [0.0, -16.0, 32.0, 16.0]);
        assert_eq!(grid.get(12 + 2), [-16.0, 0.0, 16.0, 32.0]);
        assert_eq!(grid.iter().count(), 24);
    }
}
