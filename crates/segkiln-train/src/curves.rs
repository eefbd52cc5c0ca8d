//! Learning curves as a picture.

use std::path::Path;

use plotters::{coord::Shift, prelude::*};

use crate::{Result, TrainError, history::History};

const LOSS: &str = "loss";

/// Draws the losses on the left and the other validation metrics on the right, over the epochs.
///
/// # Errors
/// [`TrainError::Draw`].
pub fn draw(history: &History, path: &Path) -> Result<()> {
    let failed = |reason: String| TrainError::Draw { path: path.into(), reason };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (960, 400)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(error.to_string()))?;
        let (left, right) = area.split_horizontally(480);
        let points = |name: &str| -> Vec<(f64, f64)> {
            let epochs = history.epochs().iter();
            epochs.filter_map(|epoch| Some((epoch.epoch as f64, epoch.valid(name)?))).collect()
        };
        let train = history.epochs().iter().map(|epoch| (epoch.epoch as f64, epoch.train_loss)).collect();
        panel(&left, "loss", vec![("training".into(), train), ("validation".into(), points(LOSS))])
            .map_err(|error| failed(error.to_string()))?;
        let metrics = history.metrics().into_iter().filter(|name| *name != LOSS);
        panel(&right, "validation", metrics.map(|name| (name.to_owned(), points(name))).collect())
            .map_err(|error| failed(error.to_string()))?;
        area.present().map_err(|error| failed(error.to_string()))?;
    }
    crate::checkpoint::write_text(path, &svg)
}

type Series = (String, Vec<(f64, f64)>);

fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    mut series: Vec<Series>,
) -> std::result::Result<(), Box<dyn std::error::Error>>
where
    B::ErrorType: 'static,
{
    for (_, points) in &mut series {
        points.retain(|(_, value)| value.is_finite());
    }
    let values = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let last = values().map(|(epoch, _)| epoch).fold(2.0, f64::max);
    let low = values().map(|(_, value)| value).fold(f64::INFINITY, f64::min);
    let high = values().map(|(_, value)| value).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low < high { (low, high) } else { (low.min(0.0), high.max(1.0)) };
    let margin = (high - low) * 0.05;

    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(48)
        .build_cartesian_2d(1.0..last, low - margin..high + margin)?;
    chart.configure_mesh().x_desc("epoch").light_line_style(WHITE).x_label_formatter(&|x| format!("{x:.0}")).draw()?;
    for (index, (name, points)) in series.into_iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Epoch;

    #[test]
    fn curves_have_a_line_a_metric_and_survive_nan() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.svg");
        let mut history = History::default();
        draw(&history, &path).unwrap();
        for epoch in 1..=3 {
            history.push(Epoch {
                epoch,
                learning_rate: 0.1,
                train_loss: if epoch == 2 { f64::NAN } else { 1.0 / epoch as f64 },
                valid: vec![("loss".into(), 0.5), ("dice".into(), 0.9), ("iou".into(), 0.8)],
                seconds: 1.0,
            });
        }
        draw(&history, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for word in ["training", "validation", "dice", "iou", "epoch"] {
            assert!(svg.contains(word), "{word}");
        }
        assert!(!svg.contains("NaN"));
    }
}
