use rayon::prelude::*;

use super::{Corners, iou};

/// Result of matching an anchor or a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The object with this index.
    Object(usize),
    /// No object: the box is background.
    Background,
    /// An overlap between the two thresholds: the box takes no part in the losses.
    Ignored,
}

/// Matches each box to the object that it overlaps most, by IoU thresholds; torchvision's `Matcher`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matcher {
    /// Least IoU of a box that is matched to an object.
    pub foreground_iou: f32,
    /// IoU below which a box is background.
    pub background_iou: f32,
    /// Whether each object keeps the boxes that overlap it most, however low their IoU is; torchvision's
    /// `allow_low_quality_matches`.
    pub allow_low_quality: bool,
}

impl Matcher {
    /// Matches each of `boxes`. Without objects all are background.
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
                    let overlaps = objects.iter().map(|object| iou(*object, *candidate)).enumerate();
                    overlaps.fold((0, f32::MIN), |best, next| if next.1 > best.1 { next } else { best })
                })
            })
            .collect();
        let mut matches: Vec<Match> = best
            .iter()
            .map(|(object, overlap)| match overlap {
                overlap if *overlap >= self.foreground_iou => Match::Object(*object),
                overlap if *overlap >= self.background_iou => Match::Ignored,
                _ => Match::Background,
            })
            .collect();
        if self.allow_low_quality {
            let most: Vec<f32> = objects
                .par_iter()
                .map(|object| boxes.iter().map(|candidate| iou(*object, *candidate)).fold(0.0, f32::max))
                .collect();
            matches.par_chunks_mut(BLOCK).zip(boxes.par_chunks(BLOCK)).zip(best.par_chunks(BLOCK)).for_each(
                |((matches, boxes), best)| {
                    for ((found, candidate), (object, _)) in matches.iter_mut().zip(boxes).zip(best) {
                        // An object that no box touches has no best boxes; in torchvision all are, which serves nobody.
                        let own = |(object, most): (&Corners, &f32)| *most > 0.0 && iou(*object, *candidate) == *most;
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
        let matcher = Matcher { foreground_iou: 0.7, background_iou: 0.3, allow_low_quality: false };
        let expected = [Match::Object(0), Match::Ignored, Match::Background, Match::Background];
        assert_eq!(matcher.matches(&objects, &boxes), expected);
        let generous = Matcher { allow_low_quality: true, ..matcher };
        let expected = [Match::Object(0), Match::Object(1), Match::Background, Match::Background];
        assert_eq!(generous.matches(&objects, &boxes), expected);
        assert_eq!(generous.matches(&[], &boxes), [Match::Background; 4]);
        assert_eq!(generous.matches(&[[90.0, 90.0, 91.0, 91.0]], &boxes), [Match::Background; 4]);
    }
}
