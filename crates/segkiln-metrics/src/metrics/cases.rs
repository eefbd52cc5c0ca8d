use std::fmt::Write;

use super::surface::{SurfaceDistances, percentile};
use crate::{MetricsError, Result};

/// Figures of one label in one case.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseFigures {
    /// Name of the case.
    pub case: String,
    /// The label.
    pub label: u32,
    /// Dice coefficient; `None` if neither volume has the label.
    pub dice: Option<f64>,
    /// 95th percentile of the Hausdorff distance in millimeters, infinite if only one volume has the label; `None` if neither has.
    pub hausdorff_95: Option<f64>,
    /// Share of both surfaces within the tolerance of the other; `None` if neither volume has the label.
    pub surface_dice: Option<f64>,
    /// Predicted volume in cubic millimeters.
    pub predicted_mm3: f64,
    /// Target volume in cubic millimeters.
    pub target_mm3: f64,
}

/// One of the figures of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CaseFigure {
    /// [`CaseFigures::dice`].
    Dice,
    /// [`CaseFigures::hausdorff_95`].
    Hausdorff95,
    /// [`CaseFigures::surface_dice`].
    SurfaceDice,
}

impl CaseFigure {
    /// All of them, in the order of the columns.
    pub const ALL: [Self; 3] = [Self::Dice, Self::Hausdorff95, Self::SurfaceDice];

    /// Name of the column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dice => "dice",
            Self::Hausdorff95 => "hausdorff_95_mm",
            Self::SurfaceDice => "surface_dice",
        }
    }

    fn of(self, figures: &CaseFigures) -> Option<f64> {
        match self {
            Self::Dice => figures.dice,
            Self::Hausdorff95 => figures.hausdorff_95,
            Self::SurfaceDice => figures.surface_dice,
        }
    }
}

/// Minimum, quartiles and maximum of a figure over cases, linear between neighbors as in NumPy. Missed labels, whose distance
/// is infinite, count as the worst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quartiles {
    /// Cases that have the figure.
    pub cases: usize,
    /// The least.
    pub minimum: f64,
    /// Percentile 25.
    pub lower: f64,
    /// Percentile 50.
    pub median: f64,
    /// Percentile 75.
    pub upper: f64,
    /// The greatest.
    pub maximum: f64,
}

/// Figures of volumes, case by case and label by label, in millimeters.
///
/// A mean over slices or over all voxels hides the case in which a small structure was missed: medical segmentation is judged by
/// the distribution over cases.
///
/// ```
/// use segkiln_metrics::metrics::{CaseFigure, CaseTable};
///
/// let mut table = CaseTable::new(vec![1], 2.0)?;
/// // 1 slice of 2 rows of 3 voxels, which are 5 mm deep
/// table.add("patient 1", &[0, 1, 1, 0, 1, 1], &[0, 1, 1, 0, 1, 1], [1, 2, 3], [5.0, 1.0, 1.0])?;
/// table.add("patient 2", &[0, 0, 1, 0, 0, 1], &[0, 1, 1, 0, 1, 1], [1, 2, 3], [5.0, 1.0, 1.0])?;
/// let dice = table.quartiles(1, CaseFigure::Dice).unwrap();
/// assert_eq!((dice.minimum, dice.maximum), (2.0 / 3.0, 1.0));
/// assert!(table.to_csv().contains("patient 1,1,1,0,1,20,20"));
/// # Ok::<(), segkiln_metrics::MetricsError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CaseTable {
    labels: Vec<u32>,
    tolerance: f64,
    rows: Vec<CaseFigures>,
}

impl CaseTable {
    /// Creates a table for labels, with the tolerance of the surface Dice in millimeters.
    ///
    /// # Errors
    /// No label, or a tolerance that is negative or not finite.
    pub fn new(labels: Vec<u32>, tolerance: f64) -> Result<Self> {
        if labels.is_empty() {
            return Err(MetricsError::Empty("the labels of a table of cases"));
        }
        if !(tolerance.is_finite() && tolerance >= 0.0) {
            return Err(MetricsError::OutOfRange {
                name: "tolerance",
                expected: "finite and not negative",
                value: tolerance,
            });
        }
        Ok(Self { labels, tolerance, rows: Vec::new() })
    }

    /// Adds a case: volumes of `size` voxels (depth, height, width) of `spacing` millimeters.
    ///
    /// # Errors
    /// The errors of [`SurfaceDistances::of_volumes`]; nothing is added then.
    pub fn add(
        &mut self,
        case: impl Into<String>,
        predicted: &[u32],
        target: &[u32],
        size: [usize; 3],
        spacing: [f64; 3],
    ) -> Result<()> {
        let case = case.into();
        let voxel: f64 = spacing.iter().product();
        let mut rows = Vec::with_capacity(self.labels.len());
        for &label in &self.labels {
            let distances = SurfaceDistances::of_volumes(predicted, target, size, label, spacing)?;
            let count = |labels: &[u32]| labels.iter().filter(|found| **found == label).count();
            let both = predicted.iter().zip(target).filter(|(p, t)| **p == label && **t == label).count();
            let (predicted, target) = (count(predicted), count(target));
            rows.push(CaseFigures {
                case: case.clone(),
                label,
                dice: (predicted + target > 0).then(|| 2.0 * both as f64 / (predicted + target) as f64),
                hausdorff_95: distances.hausdorff_percentile(95.0),
                surface_dice: distances.surface_dice(self.tolerance),
                predicted_mm3: predicted as f64 * voxel,
                target_mm3: target as f64 * voxel,
            });
        }
        self.rows.append(&mut rows);
        Ok(())
    }

    /// The figures, in the order in which the cases were added.
    pub fn rows(&self) -> &[CaseFigures] {
        &self.rows
    }

    /// The distribution of a figure of a label over the cases that have it; none where no case has.
    pub fn quartiles(&self, label: u32, figure: CaseFigure) -> Option<Quartiles> {
        let rows = self.rows.iter().filter(|row| row.label == label);
        let mut values: Vec<f64> = rows.filter_map(|row| figure.of(row)).collect();
        values.sort_unstable_by(f64::total_cmp);
        let (minimum, maximum) = (*values.first()?, *values.last()?);
        let [lower, median, upper] = [25.0, 50.0, 75.0].map(|percent| percentile(&values, percent));
        Some(Quartiles { cases: values.len(), minimum, lower, median, upper, maximum })
    }

    /// The table as CSV, a row a case and label; figures that a case does not have are empty, and infinite ones `inf`.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from("case,label,dice,hausdorff_95_mm,surface_dice,predicted_mm3,target_mm3\n");
        for row in &self.rows {
            let [dice, hausdorff, surface] = CaseFigure::ALL.map(|figure| shown(figure.of(row)));
            let (case, label) = (quoted(&row.case), row.label);
            let (predicted, target) = (row.predicted_mm3, row.target_mm3);
            writeln!(csv, "{case},{label},{dice},{hausdorff},{surface},{predicted},{target}")
                .expect("strings take all");
        }
        csv
    }

    /// The quartiles as CSV, a row a label and figure.
    pub fn summary_csv(&self) -> String {
        let mut csv = String::from("label,figure,cases,minimum,lower_quartile,median,upper_quartile,maximum\n");
        for &label in &self.labels {
            for figure in CaseFigure::ALL {
                let Some(of) = self.quartiles(label, figure) else { continue };
                let numbers = [of.minimum, of.lower, of.median, of.upper, of.maximum].map(|value| value.to_string());
                writeln!(csv, "{label},{},{},{}", figure.name(), of.cases, numbers.join(","))
                    .expect("strings take all");
            }
        }
        csv
    }
}

fn shown(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// A field of CSV (RFC 4180).
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_labels_are_the_worst_cases() {
        let mut table = CaseTable::new(vec![1, 2], 1.0).unwrap();
        let (size, spacing) = ([2, 1, 2], [1.0; 3]);
        table.add("a", &[1, 1, 0, 0], &[1, 1, 0, 0], size, spacing).unwrap();
        table.add("b, \"odd\"", &[0; 4], &[1, 1, 0, 0], size, spacing).unwrap();
        table.add("c", &[0; 4], &[0, 0, 0, 2], size, spacing).unwrap();
        let distances = table.quartiles(1, CaseFigure::Hausdorff95).unwrap();
        assert_eq!((distances.cases, distances.minimum), (2, 0.0));
        assert_eq!((distances.median, distances.maximum), (f64::INFINITY, f64::INFINITY));
        assert_eq!(table.quartiles(2, CaseFigure::Dice).unwrap().maximum, 0.0);
        assert_eq!(table.quartiles(3, CaseFigure::Dice), None);
        let csv = table.to_csv();
        assert!(csv.contains("\na,1,1,0,1,2,2\na,2,,,,0,0\n\"b, \"\"odd\"\"\",1,0,inf,0,0,2\n"), "{csv}");
        let summary = table.summary_csv();
        assert!(summary.contains("1,hausdorff_95_mm,2,0,inf,inf,inf,inf"), "{summary}");
        assert!(table.add("d", &[0; 4], &[0; 3], size, spacing).is_err());
        assert!(table.add("d", &[0; 4], &[0; 4], [2, 2, 2], spacing).is_err());
        assert!(table.add("d", &[0; 4], &[0; 4], size, [0.0, 1.0, 1.0]).is_err());
        assert_eq!(table.rows().len(), 6);
        assert!(CaseTable::new(vec![], 1.0).is_err() && CaseTable::new(vec![1], f64::NAN).is_err());
    }
}
