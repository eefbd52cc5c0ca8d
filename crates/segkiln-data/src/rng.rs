use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// The random numbers of one sample's transforms.
///
/// A ChaCha8 stream whose key is the seed, the epoch and the sample's position in the epoch. Numbers are made from its
/// words here, so that they do not change with the version of a distribution crate.
///
/// ```
/// use segkiln_data::TransformRng;
///
/// let mut a = TransformRng::new(7, 0, 3);
/// let mut b = TransformRng::new(7, 0, 3);
/// assert_eq!(a.uniform(-1.0, 1.0), b.uniform(-1.0, 1.0));
/// ```
#[derive(Debug, Clone)]
pub struct TransformRng(ChaCha8Rng);

/// Sets the streams of one key apart by what they are for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Transform,
    Shuffle,
    Split,
}

impl TransformRng {
    /// The stream of the sample at `position` of `epoch`.
    pub fn new(seed: u64, epoch: u64, position: u64) -> Self {
        Self::for_purpose(Purpose::Transform, seed, epoch, position)
    }

    pub(crate) fn for_purpose(purpose: Purpose, seed: u64, epoch: u64, position: u64) -> Self {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, epoch, position, purpose as u64]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number in `[0, 1)`, of 2^24 equally likely ones.
    pub fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / 16_777_216.0
    }

    /// A number between `low` (included) and `high`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// A number in `0..count`.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        assert!(count > 0, "a choice needs something to choose from");
        // The product's upper word; its bias is under count / 2^64.
        ((u128::from(self.0.next_u64()) * count as u128) >> 64) as usize
    }

    /// True with probability `p`; never if it is 0 or less, always if it is 1 or more.
    pub fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// A normally distributed number of mean 0 and standard deviation 1 (Box & Muller 1958).
    pub fn normal(&mut self) -> f32 {
        self.normals()[0]
    }

    /// Two independent numbers as of [`normal`](Self::normal), at the price of one.
    pub fn normals(&mut self) -> [f32; 2] {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let (sin, cos) = (std::f32::consts::TAU * self.unit()).sin_cos();
        [radius * cos, radius * sin]
    }

    /// Puts `items` in random order (Fisher & Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_in_every_part_of_the_key() {
        let first = |mut rng: TransformRng| rng.below(usize::MAX);
        let keys = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)];
        let mut drawn: Vec<usize> = keys.iter().map(|(s, e, p)| first(TransformRng::new(*s, *e, *p))).collect();
        drawn.push(first(TransformRng::for_purpose(Purpose::Shuffle, 0, 0, 0)));
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 5);
    }

    #[test]
    fn numbers_have_the_promised_moments() {
        let mut rng = TransformRng::new(1, 2, 3);
        let n = 100_000;
        let draws: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f32>() / n as f32;
        let variance = draws.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let counts = (0..n).fold([0; 5], |mut counts, _| {
            counts[rng.below(5)] += 1;
            counts
        });
        assert!(counts.iter().all(|count| (19_000..21_000).contains(count)), "{counts:?}");
        assert!((0..1000).all(|_| !rng.chance(0.0) && rng.chance(1.0) && !rng.chance(f32::NAN)));
    }
}
