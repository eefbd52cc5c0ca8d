use super::{Explanation, Method};
use crate::{ExplainError, Map, Question, Result};

/// Fall of the score where a square of the image is covered with the mean color: Zeiler and Fergus, ECCV 2014,
/// <https://arxiv.org/abs/1311.2901>. Each pixel has the mean of the squares that cover it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Occlusion {
    /// Side of the square, in pixels; an eighth of the shorter side without.
    pub window: Option<usize>,
    /// Pixels from one square to the next; half a square without.
    pub stride: Option<usize>,
}

impl Method for Occlusion {
    fn name(&self) -> &'static str {
        "occlusion"
    }

    fn meaning(&self) -> &'static str {
        "How far the score falls where a square around the pixel is covered with the mean color. Red parts are needed for the score, \
         blue parts are in its way. No finer than the square."
    }

    fn explain(&self, question: &Question<'_>) -> Result<Explanation> {
        let [height, width] = question.size();
        let window = self.window.unwrap_or((height.min(width) / 8).max(1));
        let stride = self.stride.unwrap_or((window / 2).max(1));
        if window == 0 || stride == 0 || stride > window {
            let reason = format!(
                "needs a window of at least 1 pixel and a stride from 1 to the window, {window} and {stride} given"
            );
            return Err(ExplainError::Option { option: "occlusion", reason });
        }
        let starts = |side: usize| (0..=side.saturating_sub(window).div_ceil(stride)).map(move |index| index * stride);
        let squares: Vec<[usize; 4]> = starts(height)
            .flat_map(|top| starts(width).map(move |left| [top, left]))
            .map(|[top, left]| [top, (top + window).min(height), left, (left + window).min(width)])
            .collect();
        let x = &question.x;
        let [_, channels, ..] = x.dims();
        // The last image is the whole one.
        let scores = question.scores(squares.len() + 1, |index| {
            let Some([top, bottom, left, right]) = squares.get(index).copied() else { return Ok(x.clone()) };
            let part = [0..1, 0..channels, top..bottom, left..right];
            Ok(x.clone().slice_assign(part.clone(), x.clone().slice(part).zeros_like()))
        })?;
        let whole = f64::from(scores[squares.len()]);
        let (mut sums, mut counts) = (vec![0.0; height * width], vec![0.0; height * width]);
        for ([top, bottom, left, right], score) in squares.iter().zip(&scores) {
            for row in *top..*bottom {
                for column in *left..*right {
                    sums[row * width + column] += whole - f64::from(*score);
                    counts[row * width + column] += 1.0;
                }
            }
        }
        let mean = sums.iter().zip(&counts).map(|(sum, count): (&f64, &f64)| (sum / count) as f32).collect();
        Ok(Map::new([height, width], mean, true)?.into())
    }
}
