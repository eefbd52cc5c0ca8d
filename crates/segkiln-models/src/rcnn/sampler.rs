use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// How boxes are chosen for training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// At random; one seed always chooses the same.
    Random {
        /// Of the random numbers.
        seed: u64,
    },
    /// The first ones: to compare with another implementation.
    First,
}

impl Sampling {
    /// A stream of random numbers of its own for each purpose and image.
    pub(super) fn stream(self, purpose: u64, image: usize) -> Sampler {
        match self {
            Self::First => Sampler(None),
            Self::Random { seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(purpose << 32 | image as u64);
                Sampler(Some(rng))
            }
        }
    }
}

/// Chooses boxes of one image.
pub(super) struct Sampler(Option<ChaCha8Rng>);

impl Sampler {
    /// Indices of chosen objects and of chosen background: `count` in all where there are so many, of which at most `share`
    /// are objects; both rising.
    pub fn balanced(
        &mut self,
        objects: Vec<usize>,
        background: Vec<usize>,
        count: usize,
        share: f64,
    ) -> [Vec<usize>; 2] {
        let objects = self.choose(objects, (count as f64 * share) as usize);
        let background = self.choose(background, count - objects.len());
        [objects, background]
    }

    fn choose(&mut self, mut indices: Vec<usize>, count: usize) -> Vec<usize> {
        let count = count.min(indices.len());
        if let Some(rng) = &mut self.0 {
            // Fisher and Yates, as far as it is needed.
            for at in 0..count {
                let rest = (indices.len() - at) as u64;
                // The bias of a 64-bit remainder is beyond measure.
                indices.swap(at, at + (rng.next_u64() % rest) as usize);
            }
        }
        indices.truncate(count);
        indices.sort_unstable();
        indices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_filled() {
        let mut first = Sampling::First.stream(0, 0);
        let [objects, background] = first.balanced((0..10).collect(), (10..30).collect(), 8, 0.25);
        assert_eq!((objects, background), (vec![0, 1], vec![10, 11, 12, 13, 14, 15]));
        let [objects, background] = first.balanced(vec![3], vec![4], 8, 0.25);
        assert_eq!((objects, background), (vec![3], vec![4]));
    }

    #[test]
    fn a_seed_chooses_the_same_and_streams_differ() {
        let choose = |seed, image| {
            let mut sampler = Sampling::Random { seed }.stream(1, image);
            sampler.balanced((0..1000).collect(), vec![], 100, 1.0)[0].clone()
        };
        assert_eq!(choose(1, 0), choose(1, 0));
        assert_ne!(choose(1, 0), choose(1, 1));
        assert_ne!(choose(1, 0), choose(2, 0));
        let chosen = choose(3, 0);
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        // Evenly: about half below the middle.
        assert!((30..70).contains(&chosen.iter().filter(|index| **index < 500).count()));
    }
}
