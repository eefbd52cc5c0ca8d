//! Where the planes of images lie.

use std::borrow::Cow;

use crate::cpu::memory::values_of;

/// Images of planes, `[batch][channels]`. They may overlap: with fewer planes from one image to the next than an image has, its last
/// planes are the next image's first, as the slices of a volume are for a three-dimensional kernel.
#[derive(Clone, Copy)]
pub(crate) struct Images<'a> {
    values: &'a [f32],
    /// Planes from one image to the next.
    step: usize,
}

impl<'a> Images<'a> {
    /// Images of `channels` planes, one after the other.
    pub fn apart(values: &'a [f32], channels: usize) -> Self {
        Self { values, step: channels }
    }

    /// Images that begin `step` planes after one another.
    pub fn overlapping(values: &'a [f32], step: usize) -> Self {
        Self { values, step }
    }

    /// Returns the values of as many images as the shape says, from the first one's first to the last one's last.
    ///
    /// # Panics
    /// If there are fewer: kernels rely on it.
    fn all(self, [batch, channels, height, width]: [usize; 4]) -> &'a [f32] {
        let planes = (batch - 1).checked_mul(self.step).and_then(|planes| planes.checked_add(channels));
        let len = planes.map_or(usize::MAX, |planes| values_of(&[planes, height, width]));
        assert!(self.values.len() >= len, "{batch} images of {channels} planes, {} apart", self.step);
        &self.values[..len]
    }

    /// Returns where the planes of images of this shape lie.
    pub(super) fn planes(self, shape: [usize; 4]) -> Planes<'a> {
        let [_, channels, ..] = shape;
        Planes { first: self.all(shape), second: &[], channels: [channels, 0], steps: [self.step, 0] }
    }

    /// Returns the values of images of this shape one after the other, as all methods but Winograd's read them.
    pub(super) fn one_by_one(self, shape: [usize; 4]) -> Cow<'a, [f32]> {
        let ([batch, channels, height, width], values) = (shape, self.all(shape));
        if batch == 1 || self.step == channels {
            return Cow::Borrowed(values);
        }
        let (plane, mut copy) = (height * width, Vec::with_capacity(values_of(&shape)));
        for image in 0..batch {
            copy.extend_from_slice(&values[image * self.step * plane..][..channels * plane]);
        }
        Cow::Owned(copy)
    }
}

/// Planes of one tensor, `[batch, channels, height, width]`, or of two whose channels follow each other.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    pub(super) first: &'a [f32],
    pub(super) second: &'a [f32],
    pub(super) channels: [usize; 2],
    /// Planes from one image to the next.
    pub(super) steps: [usize; 2],
}

impl<'a> Planes<'a> {
    pub(super) fn one(values: &'a [f32], channels: usize) -> Self {
        Self { first: values, second: &[], channels: [channels, 0], steps: [channels, 0] }
    }

    /// Returns the tensor that has a channel, its number of planes from one image to the next, and the channel's index there.
    #[inline(always)]
    pub(super) fn of(&self, channel: usize) -> (&'a [f32], usize, usize) {
        let ([first, _], steps) = (self.channels, self.steps);
        if channel < first { (self.first, steps[0], channel) } else { (self.second, steps[1], channel - first) }
    }

    /// Returns whether `count` values from the beginning of each plane of an image on are within the tensor.
    pub(super) fn follow(&self, image: usize, count: usize, plane: usize) -> bool {
        [self.first, self.second].into_iter().zip(self.channels).zip(self.steps).all(|((values, channels), step)| {
            let last = (image * step + channels).saturating_sub(1) * plane;
            channels == 0 || last.checked_add(count).is_some_and(|end| end <= values.len())
        })
    }
}
