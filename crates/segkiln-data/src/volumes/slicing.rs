use serde::{Deserialize, Serialize};

use super::{LabelVolume, Volume};
use crate::{DataError, Image, Result};
use segkiln_core::LabelMap;

/// The axis along which a volume is cut into slices. They are named as the volume is stored; of a volume in canonical
/// directions ([`Volume::reoriented`] to `RAS`), slices along the depth are axial, along the height coronal, along the width
/// sagittal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// Slices of `[height, width]`, as they are stored.
    #[default]
    Depth,
    /// Slices of `[depth, width]`.
    Height,
    /// Slices of `[depth, height]`.
    Width,
}

/// Cuts volumes into slices, with the slices beside them as further channels (2.5D).
///
/// ```
/// use segkiln_data::volumes::{Geometry, Plane, Slicing, Volume};
///
/// let volume = Volume::new(Geometry::with_spacing([3, 1, 1], [1.0; 3])?, 1, vec![1.0, 2.0, 3.0])?;
/// let slicing = Slicing { plane: Plane::Depth, neighbors: 1 };
/// assert_eq!(slicing.image(&volume, 1)?.as_slice(), [1.0, 2.0, 3.0]);
/// // Beyond the ends, the last slice is repeated.
/// assert_eq!(slicing.image(&volume, 0)?.as_slice(), [1.0, 1.0, 2.0]);
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Slicing {
    /// Direction of the slices.
    pub plane: Plane,
    /// Slices on either side that are channels too.
    pub neighbors: usize,
}

/// Number of slices, their height and width, and the steps in memory from slice to slice, row to row, pixel to pixel.
struct Layout {
    size: [usize; 3],
    strides: [usize; 3],
}

impl Slicing {
    /// Channels of the images: those of the volume, of each of the 2 × neighbors + 1 slices.
    pub fn channels(&self, volume: &Volume) -> usize {
        volume.channels().saturating_mul(self.neighbors.saturating_mul(2).saturating_add(1))
    }

    /// Number of slices of a volume of `size` (depth, height, width).
    pub fn count(&self, size: [usize; 3]) -> usize {
        self.layout(size).size[0]
    }

    /// The image of a slice: from the neighbor that is furthest before it to the one that is furthest behind, each with all
    /// channels of the volume.
    ///
    /// # Errors
    /// If there are more neighbors than slices.
    ///
    /// # Panics
    /// If there is no such slice.
    pub fn image(&self, volume: &Volume, slice: usize) -> Result<Image> {
        let Layout { size: [count, height, width], strides: [to_slice, to_row, to_pixel] } =
            self.layout(volume.geometry().size());
        assert!(slice < count, "slice {slice} of {count}");
        if self.neighbors >= count {
            let reason = format!("must be fewer than the {count} slices of the volume, got {}", self.neighbors);
            return Err(DataError::option("neighbors", reason));
        }
        let neighbors = self.neighbors as isize;
        let near = (-neighbors..=neighbors).map(|step| slice.saturating_add_signed(step).min(count - 1));
        let sources: Vec<&[f32]> = near
            .flat_map(|slice| (0..volume.channels()).map(move |channel| &volume.channel(channel)[slice * to_slice..]))
            .collect();
        let mut values = Vec::with_capacity(height * width * sources.len());
        for y in 0..height {
            for x in 0..width {
                values.extend(sources.iter().map(|source| source[y * to_row + x * to_pixel]));
            }
        }
        Image::new(width as u32, height as u32, sources.len(), values)
    }

    /// The labels of a slice.
    ///
    /// # Panics
    /// If there is no such slice.
    pub fn labels(&self, volume: &LabelVolume, slice: usize) -> LabelMap {
        let Layout { size: [count, height, width], strides } = self.layout(volume.geometry().size());
        assert!(slice < count, "slice {slice} of {count}");
        let labels = &volume.as_slice()[slice * strides[0]..];
        let rows = (0..height).flat_map(|y| (0..width).map(move |x| labels[y * strides[1] + x * strides[2]]));
        LabelMap::new(width as u32, height as u32, rows.collect()).expect("a slice has height * width labels")
    }

    /// Writes the labels of a slice into those of a volume of `size` (depth, height, width).
    ///
    /// # Panics
    /// If there is no such slice, or it is of another size.
    pub fn put(&self, map: &LabelMap, slice: usize, labels: &mut [u32], size: [usize; 3]) {
        let Layout { size: [_, height, width], strides } = self.layout(size);
        assert_eq!([map.height() as usize, map.width() as usize], [height, width], "a slice of another size");
        let rows = map.as_slice().chunks_exact(width);
        for (y, row) in rows.enumerate() {
            for (x, label) in row.iter().enumerate() {
                labels[slice * strides[0] + y * strides[1] + x * strides[2]] = *label;
            }
        }
    }

    fn layout(&self, [depth, height, width]: [usize; 3]) -> Layout {
        let (plane, row) = (height * width, width);
        match self.plane {
            Plane::Depth => Layout { size: [depth, height, width], strides: [plane, row, 1] },
            Plane::Height => Layout { size: [height, depth, width], strides: [row, plane, 1] },
            Plane::Width => Layout { size: [width, depth, height], strides: [1, plane, row] },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::Geometry;

    #[test]
    fn slices_of_any_plane_go_back_where_they_came_from() {
        let size = [2, 3, 4];
        let geometry = Geometry::with_spacing(size, [1.0; 3]).unwrap();
        let labels = LabelVolume::new(geometry.clone(), (0..24).collect()).unwrap();
        let volume = Volume::new(geometry, 2, (0..48).map(|i| i as f32).collect()).unwrap();
        for (plane, count, first) in [
            (Plane::Depth, 2, vec![0, 1, 2, 3]),
            (Plane::Height, 3, vec![0, 1, 2, 3]),
            (Plane::Width, 4, vec![0, 4, 8]),
        ] {
            let slicing = Slicing { plane, neighbors: 1 };
            assert_eq!(slicing.count(size), count);
            let mut back = vec![u32::MAX; 24];
            for slice in 0..count {
                let map = slicing.labels(&labels, slice);
                let image = slicing.image(&volume, slice).unwrap();
                assert_eq!((image.channels(), slicing.channels(&volume)), (6, 6));
                // The slice itself is in the middle, and its second channel 24 above the first.
                for (pixel, label) in image.as_slice().chunks_exact(6).zip(map.as_slice()) {
                    assert_eq!(pixel[2..4], [*label as f32, *label as f32 + 24.0]);
                }
                slicing.put(&map, slice, &mut back, size);
            }
            assert_eq!(slicing.labels(&labels, 0).as_slice()[..first.len()], first);
            assert_eq!(back, labels.as_slice());
            assert!(Slicing { plane, neighbors: count }.image(&volume, 0).is_err());
        }
    }
}
