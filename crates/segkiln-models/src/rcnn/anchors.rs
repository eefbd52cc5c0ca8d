use burn::config::Config;

use super::Corners;

/// The boxes that the network tries at every place of its maps.
#[derive(Config, Debug)]
pub struct AnchorConfig {
    /// Sides of square boxes of each map in pixels, the largest map first.
    #[config(default = "vec![vec![32.0], vec![64.0], vec![128.0], vec![256.0], vec![512.0]]")]
    pub sizes: Vec<Vec<f32>>,
    /// Height over width; each size has each of them, at the same area.
    #[config(default = "vec![0.5, 1.0, 2.0]")]
    pub ratios: Vec<f32>,
}

impl AnchorConfig {
    /// Boxes at each place: as many for every map.
    pub fn per_place(&self) -> usize {
        self.sizes.first().map_or(0, Vec::len) * self.ratios.len()
    }

    /// The boxes of one place of a map, around zero, with whole coordinates.
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

    pub(super) fn check(&self, maps: usize) -> Result<(), String> {
        let positive = |values: &[f32]| {
            (1..=64).contains(&values.len()) && values.iter().all(|value| value.is_finite() && *value > 0.0)
        };
        if self.sizes.len() != maps {
            return Err(format!("anchor sizes are for {} maps, the network has {maps}", self.sizes.len()));
        }
        let first = self.sizes[0].len();
        if !self.sizes.iter().all(|sizes| positive(sizes) && sizes.len() == first) {
            return Err("anchor sizes must be from 1 to 64 positive numbers, as many for each map".into());
        }
        if !positive(&self.ratios) {
            return Err("anchor ratios must be from 1 to 64 positive numbers".into());
        }
        Ok(())
    }

    /// The anchors of a map of `height` × `width` places for an image of `size` = `[height, width]`.
    pub(super) fn grid(&self, level: usize, [height, width]: [usize; 2], size: [usize; 2]) -> Grid {
        // The places of an empty map are never asked for.
        let stride = [size[0] / height.max(1), size[1] / width.max(1)];
        Grid { cell: self.cell(level), places: [height, width], stride }
    }
}

/// The anchors of one map, numbered as the network's outputs: by row, column, and box of the place.
pub(super) struct Grid {
    cell: Vec<Corners>,
    places: [usize; 2],
    stride: [usize; 2],
}

impl Grid {
    pub fn len(&self) -> usize {
        self.places[0] * self.places[1] * self.cell.len()
    }

    pub fn get(&self, index: usize) -> Corners {
        let (place, kind) = (index / self.cell.len(), index % self.cell.len());
        let x = (place % self.places[1] * self.stride[1]) as f32;
        let y = (place / self.places[1] * self.stride[0]) as f32;
        let [x1, y1, x2, y2] = self.cell[kind];
        [x1 + x, y1 + y, x2 + x, y2 + y]
    }

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
