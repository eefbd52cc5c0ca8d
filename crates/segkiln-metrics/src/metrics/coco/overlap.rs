//! Overlaps of an object and a detection, in pycocotools' order of operations.

use segkiln_core::Rle;

/// Intersection over union of two boxes `[x, y, width, height]`; over the detection's area if the object is a crowd.
pub(super) fn boxes(detection: [f64; 4], truth: [f64; 4], crowd: bool) -> f64 {
    let ([dx, dy, dw, dh], [tx, ty, tw, th]) = (detection, truth);
    let width = (dw + dx).min(tw + tx) - dx.max(tx);
    let height = (dh + dy).min(th + ty) - dy.max(ty);
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let both = width * height;
    both / if crowd { dw * dh } else { dw * dh + tw * th - both }
}

/// A mask prepared for many comparisons.
pub(super) struct Runs {
    /// First pixel and the one after the last, ascending.
    runs: Vec<[u32; 2]>,
    area: u32,
}

impl Runs {
    pub fn new(mask: &Rle) -> Self {
        let runs: Vec<[u32; 2]> = mask.runs().collect();
        Self { area: runs.iter().map(|[first, end]| end - first).sum(), runs }
    }

    /// Intersection over union; over the detection's area if `truth` is a crowd. 0 where it would be less than `least`.
    pub fn iou(&self, truth: &Self, crowd: bool, least: f64) -> f64 {
        // No more than the smaller mask can be common.
        let (small, large) = (self.area.min(truth.area), self.area.max(truth.area));
        if small == 0 || !crowd && f64::from(small) / f64::from(large) < least {
            return 0.0;
        }
        let both = self.shared(truth);
        if both == 0 {
            return 0.0;
        }
        f64::from(both) / if crowd { f64::from(self.area) } else { f64::from(self.area - both) + f64::from(truth.area) }
    }

    /// Number of pixels in both masks.
    fn shared(&self, other: &Self) -> u32 {
        let after = |runs: &Self, first: u32| runs.runs.partition_point(|run| run[1] <= first);
        let (mut i, mut j) = (after(self, other.runs[0][0]), after(other, self.runs[0][0]));
        let mut sum = 0;
        while let (Some(a), Some(b)) = (self.runs.get(i), other.runs.get(j)) {
            sum += a[1].min(b[1]).saturating_sub(a[0].max(b[0]));
            // Without branches, which would be guessed wrong every other time.
            let first = a[1] <= b[1];
            i += usize::from(first);
            j += usize::from(!first);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_overlap_as_their_runs_do() {
        let mask = |seed: u32| {
            Rle::from_fn(19, 13, |x, y| (x * 7 + y * 3 + seed * x * y) % (4 + seed) < 2 + seed / 2 && x > seed).unwrap()
        };
        for (a, b) in (0..6).flat_map(|a| (0..6).map(move |b| (mask(a), mask(b)))) {
            for crowd in [false, true] {
                let (expected, [a, b]) = (a.iou(&b, crowd).unwrap(), [&a, &b].map(Runs::new));
                assert_eq!(a.iou(&b, crowd, 0.0), expected);
                assert!([expected, 0.0].contains(&a.iou(&b, crowd, 0.5)));
                assert!(expected < 0.5 || a.iou(&b, crowd, 0.5) == expected);
            }
        }
        let empty = Runs::new(&Rle::new(19, 13, &[247]).unwrap());
        assert_eq!(empty.iou(&Runs::new(&mask(0)), true, 0.0), 0.0);
        assert_eq!(Runs::new(&mask(0)).iou(&empty, false, 0.0), 0.0);
    }

    #[test]
    fn boxes_without_area_overlap_nothing() {
        assert_eq!(boxes([0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 5.0, 5.0], true), 0.0);
        assert_eq!(boxes([5.0, 5.0, -5.0, -5.0], [0.0, 0.0, 5.0, 5.0], false), 0.0);
        assert_eq!(boxes([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 9.0, 9.0], true), 0.5);
    }
}
