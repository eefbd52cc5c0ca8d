use burn::tensor::{Tensor, TensorData};
use segkiln_core::{LabelMap, Size};

use crate::{ExplainError, Map, Question, Result};

/// Scores of the image while the pixels of a map are taken away, or given back, the strongest first: Petsiuk et al., BMVC 2018,
/// <https://arxiv.org/abs/1806.07421>. A good explanation has a low deletion area and a high insertion area.
#[derive(Debug, Clone, PartialEq)]
pub struct Faithfulness {
    /// Scores of the image as more and more of it gets the mean color, from the whole image to none of it.
    pub deletion: Vec<f32>,
    /// Scores of the mean color as more and more of the image is shown.
    pub insertion: Vec<f32>,
    /// Mean of the deletion curve (trapezoids), in the target's unit.
    pub deletion_area: f64,
    /// Mean of the insertion curve.
    pub insertion_area: f64,
}

/// Measures the deletion and insertion curves of a map with `steps` equal steps.
///
/// # Errors
/// If the map is not of the image's size, or `steps` is 0.
pub fn faithfulness(question: &Question<'_>, map: &Map, steps: usize) -> Result<Faithfulness> {
    let [height, width] = question.size();
    check_size("the map", map.size(), Size { width: width as u32, height: height as u32 })?;
    if steps == 0 {
        return Err(ExplainError::Option { option: "steps", reason: "must be at least 1".into() });
    }
    let pixels = height * width;
    let mut order: Vec<usize> = (0..pixels).collect();
    // Of equal values the first comes first.
    order.sort_by(|a, b| map.as_slice()[*b].total_cmp(&map.as_slice()[*a]));
    let mut rank = vec![0; pixels];
    order.into_iter().enumerate().for_each(|(at, pixel)| rank[pixel] = at);
    let x = &question.x;
    let curve = |keeps_first: bool| {
        question.scores(steps + 1, |step| {
            let count = pixels * step / steps;
            let seen = rank.iter().map(|rank| f32::from((*rank < count) == keeps_first)).collect::<Vec<f32>>();
            Ok(x.clone() * Tensor::from_data(TensorData::new(seen, [1, 1, height, width]), &x.device()))
        })
    };
    let (deletion, insertion) = (curve(false)?, curve(true)?);
    let area = |curve: &[f32]| {
        let pairs = curve.windows(2).map(|pair| f64::from(pair[0] + pair[1]) / 2.0);
        pairs.sum::<f64>() / steps as f64
    };
    Ok(Faithfulness { deletion_area: area(&deletion), insertion_area: area(&insertion), deletion, insertion })
}

/// Whether the strongest pixel of a map lies in a mask: the pointing game, Zhang et al., ECCV 2016,
/// <https://arxiv.org/abs/1608.00507>.
///
/// # Errors
/// If the two differ in size, or the mask is empty.
pub fn points_at(map: &Map, mask: &LabelMap) -> Result<bool> {
    check_size("the mask", mask.size(), map.size())?;
    if mask.as_slice().iter().all(|label| *label == 0) {
        return Err(ExplainError::EmptyMask);
    }
    let most = map.range()[1];
    let strongest = map.as_slice().iter().position(|value| *value == most);
    Ok(strongest.is_some_and(|pixel| mask.as_slice()[pixel] != 0))
}

fn check_size(what: &'static str, found: Size, expected: Size) -> Result<()> {
    if found == expected { Ok(()) } else { Err(ExplainError::Size { what, found, expected }) }
}
