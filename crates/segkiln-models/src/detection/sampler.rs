use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// Choice of the boxes that a training step looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Random boxes; one seed always chooses the same.
    Random {
        /// Seed of the random numbers.
        seed: u64,
    },
    /// The first boxes by index, to compare with another implementation.
    First,
}

impl Sampling {
    /// Creates the sampler of one stage of a network (numbered as the network likes) and one image of the batch; each has a
    /// random stream of its own.
    pub fn sampler(self, stage: u64, image: usize) -> Sampler {
        match self {
            Self::First => Sampler(None),
            Self::Random { seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(stage << 32 | image as u64);
                Sampler(Some(rng))
            }
        }
    }
}

/// Sampler of positive and negative boxes of one image; torchvision's `BalancedPositiveNegativeSampler`.
#[derive(Debug)]
pub struct Sampler(Option<ChaCha8Rng>);

impl Sampler {
    /// Chooses `count` boxes, fewer where there are not as many, of which at most the share `positive_fraction` (0 to 1) are
    /// positives. Returns the ascending indices of the positives and of the negatives.
    pub fn balanced(
        &mut self,
        positives: Vec<usize>,
        negatives: Vec<usize>,
        count: usize,
        positive_fraction: f64,
    ) -> [Vec<usize>; 2] {
        let positives = self.choose(positives, (count as f64 * positive_fraction.clamp(0.0, 1.0)) as usize);
        let negatives = self.choose(negatives, count - positives.len());
        [positives, negatives]
    }

    fn choose(&mut self, mut indices: Vec<usize>, count: usize) -> Vec<usize> {
        let count = count.min(indices.len());
        if let Some(rng) = &mut self.0 {
            // Fisher and Yates, stopped after `count` draws.
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
        let mut first = Sampling::First.sampler(0, 0);
        let [objects, background] = first.balanced((0..10).collect(), (10..30).collect(), 8, 0.25);
        assert_eq!((objects, background), (vec![0, 1], vec![10, 11, 12, 13, 14, 15]));
        let [objects, background] = first.balanced(vec![3], vec![4], 8, 0.25);
        assert_eq!((objects, background), (vec![3], vec![4]));
    }

    #[test]
    fn a_seed_chooses_the_same_and_streams_differ() {
        let choose = |seed, image| {
            let mut sampler = Sampling::Random { seed }.sampler(1, image);
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
