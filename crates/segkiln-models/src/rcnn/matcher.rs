use rayon::prelude::*;

use super::Corners;

/// What a box is matched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The object with this index.
    Object(usize),
    /// None: it is background.
    Background,
    /// Neither clearly an object nor clearly none: it does not count.
    Between,
}

/// Gives each box the object that it overlaps most, if it does so enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matcher {
    /// Least overlap of an object's box.
    pub foreground: f32,
    /// Overlap below which a box is background.
    pub background: f32,
    /// Whether the boxes that overlap an object most are its own in any case, however little that is.
    pub low_quality: bool,
}

impl Matcher {
    /// What each of `boxes` is matched to. Without objects, all is background.
    pub fn matches(&self, objects: &[Corners], boxes: &[Corners]) -> Vec<Match> {
        /// Boxes of a task.
        const BLOCK: usize = 4096;
        if objects.is_empty() {
            return vec![Match::Background; boxes.len()];
        }
        let best: Vec<(usize, f32)> = boxes
            .par_chunks(BLOCK)
            .flat_map_iter(|boxes| {
                boxes.iter().map(|candidate| {
                    let overlaps = objects.iter().map(|object| overlap(*object, *candidate)).enumerate();
                    overlaps.fold((0, f32::MIN), |best, next| if next.1 > best.1 { next } else { best })
                })
            })
            .collect();
        let mut matches: Vec<Match> = best
            .iter()
            .map(|(object, overlap)| match overlap {
                overlap if *overlap >= self.foreground => Match::Object(*object),
                overlap if *overlap >= self.background => Match::Between,
                _ => Match::Background,
            })
            .collect();
        if self.low_quality {
            let most: Vec<f32> = objects
                .par_iter()
                .map(|object| boxes.iter().map(|candidate| overlap(*object, *candidate)).fold(0.0, f32::max))
                .collect();
            matches.par_chunks_mut(BLOCK).zip(boxes.par_chunks(BLOCK)).zip(best.par_chunks(BLOCK)).for_each(
                |((matches, boxes), best)| {
                    for ((found, candidate), (object, _)) in matches.iter_mut().zip(boxes).zip(best) {
                        // An object that no box touches has no best boxes; in torchvision all are, which serves nobody.
                        let own =
                            |(object, most): (&Corners, &f32)| *most > 0.0 && overlap(*object, *candidate) == *most;
                        if objects.iter().zip(&most).any(own) {
                            // As in torchvision, the object is the one that the box overlaps most.
                            *found = Match::Object(*object);
                        }
                    }
                },
            );
        }
        matches
    }
}

/// Intersection over union in f32.
fn overlap([ax1, ay1, ax2, ay2]: Corners, [bx1, by1, bx2, by2]: Corners) -> f32 {
    let width = (ax2.min(bx2) - ax1.max(bx1)).max(0.0);
    let height = (ay2.min(by2) - ay1.max(by1)).max(0.0);
    let both = width * height;
    both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_part_boxes() {
        let objects = [[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]];
        let boxes = [
            [0.0, 0.0, 10.0, 8.0],  // 0.8 of the first
            [20.0, 0.0, 30.0, 5.0], // 0.5 of the second
            [0.0, 0.0, 10.0, 2.0],  // 0.2 of the first
            [50.0, 50.0, 60.0, 60.0],
        ];
        let matcher = Matcher { foreground: 0.7, background: 0.3, low_quality: false };
        let expected = [Match::Object(0), Match::Between, Match::Background, Match::Background];
        assert_eq!(matcher.matches(&objects, &boxes), expected);
        let generous = Matcher { low_quality: true, ..matcher };
        let expected = [Match::Object(0), Match::Object(1), Match::Background, Match::Background];
        assert_eq!(generous.matches(&objects, &boxes), expected);
        assert_eq!(generous.matches(&[], &boxes), [Match::Background; 4]);
        assert_eq!(generous.matches(&[[90.0, 90.0, 91.0, 91.0]], &boxes), [Match::Background; 4]);
    }
}
