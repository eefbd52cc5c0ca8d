use std::{fmt::Debug, mem::size_of_val};

use segkiln_core::{CoreError, Instance, Instances, LabelMap, Rle};

use super::Motion;
use crate::{DataError, Result, TransformRng};

/// What is known of an image beside its pixels, and moves with them: a [`LabelMap`], or [`Instances`].
///
/// A transform works on any target. What a target adds to that is said here.
///
/// **Label maps** move pixel by pixel.
///
/// **Objects** with a mask move as a label map in which they are: the moved mask is, to the pixel, what the moved map
/// has. Their boxes move exactly with flips, turns and resizes. A window clips them; where it cuts into the box of an
/// object with a mask, the box becomes that of what is left of the mask, and after a warp it is the mask's box always.
/// The box of an object without a mask becomes the hull of the pixels that show its inside. Objects are dropped when no
/// pixel of their mask, or no part of their box, is left; or when less than a given share is, as the crops' `min_visible`
/// says.
pub trait Target: Clone + Debug + Send + Sync + 'static {
    /// Width and height of the image in pixels.
    fn size(&self) -> [u32; 2];

    /// The target of the moved image.
    ///
    /// # Errors
    /// If that has no pixels, or too many.
    fn moved(self, motion: &Motion) -> Result<Self>;

    /// Column and row of a random pixel of the foreground, if there is any: in a map, of all pixels whose label is neither 0
    /// nor `ignore_index`, each equally likely; of objects, each other than of class `ignore_index` is equally likely, and
    /// then each pixel of its mask, or of its box.
    fn foreground(&self, ignore_index: Option<u32>, rng: &mut TransformRng) -> Option<[u32; 2]>;

    /// Labels the pixels of a rectangle within the image, given by its upper left corner and its width and height. Objects
    /// stay as they are.
    fn cover(&mut self, corner: [u32; 2], size: [u32; 2], label: u32);

    /// What it takes of memory, in bytes.
    fn bytes(&self) -> usize;
}

impl Target for LabelMap {
    fn size(&self) -> [u32; 2] {
        [self.width(), self.height()]
    }

    fn moved(self, motion: &Motion) -> Result<Self> {
        motion.labels(self)
    }

    fn foreground(&self, ignore_index: Option<u32>, rng: &mut TransformRng) -> Option<[u32; 2]> {
        let foreground = |label: &u32| *label != 0 && Some(*label) != ignore_index;
        let labels = self.as_slice();
        let count = labels.iter().filter(|label| foreground(label)).count();
        let nth = (count > 0).then(|| rng.below(count))?;
        let (at, _) = labels.iter().enumerate().filter(|(_, label)| foreground(label)).nth(nth)?;
        Some([at as u32 % self.width(), at as u32 / self.width()])
    }

    fn cover(&mut self, [left, top]: [u32; 2], [width, height]: [u32; 2], label: u32) {
        let columns = self.width() as usize;
        let rows = self.as_mut_slice().chunks_exact_mut(columns).skip(top as usize).take(height as usize);
        rows.for_each(|row| row[left as usize..][..width as usize].fill(label));
    }

    fn bytes(&self) -> usize {
        size_of_val(self.as_slice())
    }
}

impl Target for Instances {
    fn size(&self) -> [u32; 2] {
        [self.width(), self.height()]
    }

    fn moved(self, motion: &Motion) -> Result<Self> {
        let size = self.size();
        let [width, height] = motion.size(size);
        let instances = self.into_vec();
        let masks = moved_masks(&instances, size, motion)?;
        let moved =
            instances.into_iter().zip(masks).filter_map(|(instance, mask)| follow(instance, mask, size, motion));
        Self::new(width, height, moved.collect()).map_err(refused)
    }

    fn foreground(&self, ignore_index: Option<u32>, rng: &mut TransformRng) -> Option<[u32; 2]> {
        let candidates: Vec<&Instance> =
            self.as_slice().iter().filter(|instance| Some(instance.label()) != ignore_index).collect();
        let instance = candidates.get((!candidates.is_empty()).then(|| rng.below(candidates.len()))?)?;
        match instance.mask.as_ref().filter(|mask| mask.area() > 0) {
            Some(mask) => {
                let mut nth = rng.below(mask.area() as usize) as u32;
                let [first, _] = mask.runs().find(|[first, end]| {
                    let within = nth < end - first;
                    nth -= if within { 0 } else { end - first };
                    within
                })?;
                Some([(first + nth) / mask.height(), (first + nth) % mask.height()])
            }
            None => {
                let [x1, y1, x2, y2] = instance.bbox.clip(self.width(), self.height())?.xyxy();
                let mut pixel = |low: f64, high: f64| {
                    let (first, end) = (low.floor() as u32, high.ceil() as u32);
                    first + rng.below((end - first) as usize) as u32
                };
                Some([pixel(x1, x2), pixel(y1, y2)])
            }
        }
    }

    fn cover(&mut self, _corner: [u32; 2], _size: [u32; 2], _label: u32) {}

    fn bytes(&self) -> usize {
        let masks = self.as_slice().iter().filter_map(|instance| instance.mask.as_ref());
        size_of_val(self.as_slice()) + masks.map(|mask| size_of_val(mask.counts())).sum::<usize>()
    }
}

fn refused(error: CoreError) -> DataError {
    DataError::option("size after a transform", error.to_string())
}

/// The masks of objects moved; none where there was none, or nothing of it is left.
///
/// They are painted on a map with an id each, which is moved as any map is and taken apart again: one pass for all that do
/// not overlap, and another one for those that do.
fn moved_masks(instances: &[Instance], [width, height]: [u32; 2], motion: &Motion) -> Result<Vec<Option<Rle>>> {
    let mut moved = vec![None; instances.len()];
    let masks = (1..).zip(instances).filter_map(|(id, instance)| Some((id, instance.mask.as_ref()?)));
    let mut waiting: Vec<(u32, &Rle)> = masks.collect();
    while !waiting.is_empty() {
        let mut map = LabelMap::filled(width, height, 0);
        waiting.retain(|(id, mask)| !painted(&mut map, mask, *id));
        for (id, mask) in Rle::of_labels(&motion.labels_within(map, Some(0))?).map_err(refused)? {
            moved[id as usize - 1] = Some(mask);
        }
    }
    Ok(moved)
}

/// Labels the pixels of a mask, unless one of them has a label already.
fn painted(map: &mut LabelMap, mask: &Rle, id: u32) -> bool {
    let (width, height) = (mask.width() as usize, mask.height() as usize);
    let labels = map.as_mut_slice();
    // Down the columns, as masks are stored.
    let indices = || {
        mask.runs().flat_map(move |[first, end]| {
            let (mut x, mut y) = (first as usize / height, first as usize % height);
            (first..end).map(move |_| {
                let index = y * width + x;
                y += 1;
                if y == height {
                    (x, y) = (x + 1, 0);
                }
                index
            })
        })
    };
    let free = indices().all(|index| labels[index] == 0);
    if free {
        indices().for_each(|index| labels[index] = id);
    }
    free
}

/// An object whose mask was moved; none if nothing is left of it, or less than is to be.
fn follow(mut instance: Instance, mask: Option<Rle>, size: [u32; 2], motion: &Motion) -> Option<Instance> {
    let area = |instance: &Instance| instance.mask.as_ref().map_or(instance.bbox.area(), |mask| mask.area().into());
    let before = area(&instance);
    let old = instance.bbox;
    instance.bbox = match (&mask, motion) {
        (None, _) if instance.mask.is_some() => return None,
        (Some(mask), Motion::Warp(_)) => mask.bbox()?,
        (Some(mask), Motion::Window(window)) => {
            let clipped = window.bbox(&old)?;
            if window.shifted(&old) == Some(clipped) { clipped } else { mask.bbox()? }
        }
        _ => motion.bbox(&old, size)?,
    };
    instance.mask = mask;
    match motion {
        Motion::Window(window) if area(&instance) < window.min_visible * before => None,
        _ => Some(instance),
    }
}
