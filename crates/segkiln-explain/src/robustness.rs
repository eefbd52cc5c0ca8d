use std::error::Error;

use plotters::prelude::*;
use segkiln_core::LabelMap;
use segkiln_data::Image;
use segkiln_metrics::metrics::ConfusionMatrix;
use segkiln_models::SegmentationNetwork;

use crate::{Attack, ExplainError, Goal, Result, SegmentationSubject, Subject};

/// Figures of a network against the budget of an attack.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Name of the attack.
    pub attack: &'static str,
    /// One for each budget.
    pub points: Vec<CurvePoint>,
}

/// Figures at a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// The budget, in 255ths; 0 is the images as they are.
    pub epsilon: f64,
    /// Mean Dice coefficient of the classes that are there but for the first, the background.
    pub dice: f64,
    /// Mean IoU of the same classes.
    pub iou: f64,
    /// Share of pixels with the right class.
    pub pixel_accuracy: f64,
}

/// Measures how a network's figures fall with the budget of an attack that knows the network and the annotations.
///
/// # Errors
/// If an image cannot be read or attacked, or a budget is out of range.
pub fn robustness<M, E>(
    subject: &SegmentationSubject<M>,
    samples: impl IntoIterator<Item = Result<(Image, LabelMap), E>>,
    attack: &Attack,
    epsilons: &[f64],
) -> Result<Curve>
where
    M: SegmentationNetwork,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    if let Some(epsilon) = epsilons.iter().find(|epsilon| !(0.0..=255.0).contains(*epsilon)) {
        return Err(ExplainError::Budget { epsilon: *epsilon, most: 255.0 });
    }
    let classes = subject.classes();
    let matrix = || ConfusionMatrix::new(classes.count(), classes.ignore_index());
    let refuse = |reason: String| ExplainError::Option { option: "labels", reason };
    let mut matrices =
        epsilons.iter().map(|_| matrix().map_err(|error| refuse(error.to_string()))).collect::<Result<Vec<_>>>()?;
    for sample in samples {
        let (image, labels) = sample.map_err(|error| ExplainError::Sample(error.into()))?;
        let goal = Goal::Away(labels);
        let Goal::Away(labels) = &goal else { unreachable!("made above") };
        for (epsilon, matrix) in epsilons.iter().zip(&mut matrices) {
            let attacked = match *epsilon > 0.0 {
                true => Some(attack.with_epsilon(*epsilon).run(subject, &image, &goal)?.image),
                false => None,
            };
            let found = subject.predict(&subject.input(attacked.as_ref().unwrap_or(&image))?)?;
            matrix.update_maps(&found, labels).map_err(|error| refuse(error.to_string()))?;
        }
    }
    let mean = |figure: &dyn Fn(usize) -> Option<f64>| {
        let found: Vec<f64> = (1..classes.count()).filter_map(figure).collect();
        found.iter().sum::<f64>() / found.len().max(1) as f64
    };
    let points = epsilons.iter().zip(&matrices).map(|(epsilon, matrix)| CurvePoint {
        epsilon: *epsilon,
        dice: mean(&|class| matrix.dice(class)),
        iou: mean(&|class| matrix.iou(class)),
        pixel_accuracy: matrix.pixel_accuracy().unwrap_or(0.0),
    });
    Ok(Curve { attack: attack.name(), points: points.collect() })
}

impl Curve {
    /// A table with a line a budget.
    pub fn csv(&self) -> String {
        let mut text = String::from("epsilon,dice,iou,pixel_accuracy\n");
        for CurvePoint { epsilon, dice, iou, pixel_accuracy } in &self.points {
            text += &format!("{epsilon},{dice:.6},{iou:.6},{pixel_accuracy:.6}\n");
        }
        text
    }

    /// The curves as a picture.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|error| ExplainError::Option { option: "plot", reason: error.to_string() })?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> std::result::Result<(), Box<dyn Error>> {
        let area = SVGBackend::with_string(svg, (560, 400)).into_drawing_area();
        area.fill(&WHITE)?;
        let most = self.points.iter().map(|point| point.epsilon).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{} against {}", "figures", self.attack), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..most, 0.0..1.0)?;
        chart.configure_mesh().x_desc("budget, in 255ths").light_line_style(WHITE).draw()?;
        type Value = fn(&CurvePoint) -> f64;
        let curves: [(&str, Value); 3] = [
            ("Dice", |point| point.dice),
            ("IoU", |point| point.iou),
            ("pixel accuracy", |point| point.pixel_accuracy),
        ];
        for (index, (name, value)) in curves.into_iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let mut points: Vec<(f64, f64)> = self.points.iter().map(|point| (point.epsilon, value(point))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2)));
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw()?;
        area.present()?;
        Ok(())
    }
}
