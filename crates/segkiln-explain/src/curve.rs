//! Robustness curve: figures of a network against the budget of an attack, as a table and as a plot.

use std::error::Error;

use plotters::prelude::*;

use crate::{ExplainError, Result};

/// Figures of a network against the budget of an attack.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Name of the attack.
    pub attack: &'static str,
    /// One for each budget; all have the same figures.
    pub points: Vec<CurvePoint>,
}

/// Figures at a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct CurvePoint {
    /// The budget, in 255ths; 0 is the images as they are.
    pub epsilon: f64,
    /// Figures from 0 to 1, by their names in tables.
    pub figures: Vec<(&'static str, f64)>,
}

impl CurvePoint {
    /// The figure of a name.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

impl Curve {
    /// Names of the figures.
    fn names(&self) -> Vec<&'static str> {
        self.points.first().map_or(Vec::new(), |point| point.figures.iter().map(|(name, _)| *name).collect())
    }

    /// The points as CSV, a line for each budget: `epsilon`, then the figures by their names.
    pub fn csv(&self) -> String {
        let mut text = format!("epsilon,{}\n", self.names().join(","));
        for CurvePoint { epsilon, figures } in &self.points {
            let figures: Vec<String> = figures.iter().map(|(_, value)| format!("{value:.6}")).collect();
            text += &format!("{epsilon},{}\n", figures.join(","));
        }
        text
    }

    /// The figures as an SVG plot of 560x400 pixels.
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
            .caption(self.attack, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..most, 0.0..1.0)?;
        chart.configure_mesh().x_desc("budget, in 255ths").light_line_style(WHITE).draw()?;
        for (index, name) in self.names().into_iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let value = |point: &CurvePoint| (point.epsilon, point.figures[index].1);
            let mut points: Vec<(f64, f64)> = self.points.iter().map(value).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
                .label(name.replace('_', " "))
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2)));
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw()?;
        area.present()?;
        Ok(())
    }
}
