use serde::{Deserialize, Serialize};

use crate::{DataError, Result};

/// A fault of a data set, as lists and programs show it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// The file or folder; empty where no file is at fault.
    pub file: String,
    /// The object, annotation or line in it, if one is at fault.
    pub object: Option<String>,
    /// The field, if one is at fault.
    pub field: Option<String>,
    /// Description of the fault.
    pub problem: String,
    /// Remedy; empty where the problem says it all.
    pub cure: String,
}

impl From<&DataError> for Problem {
    fn from(error: &DataError) -> Self {
        use DataError as E;
        let shown = |path: &std::path::PathBuf| path.display().to_string();
        let whole = error.to_string();
        let (file, object, field, text) = match error {
            E::Coco { path, entry, field, reason } => {
                (shown(path), Some(entry.clone()), Some(field.clone()), format!("{field} {reason}"))
            }
            E::Volume { path, field, reason } => (shown(path), None, Some(field.clone()), reason.clone()),
            E::Object { path, object, reason } => (shown(path), Some(object.to_string()), None, reason.clone()),
            E::List { path, line, reason } => (shown(path), Some(format!("line {line}")), None, reason.clone()),
            E::Json { path, line, column, reason } => {
                (shown(path), Some(format!("line {line}, column {column}")), None, reason.clone())
            }
            E::MissingPairs { images, reason, .. } => (shown(images), None, None, reason.clone()),
            E::DuplicateStem { first, .. } => (shown(first), None, None, whole),
            E::SizeMismatch { image, .. } | E::TargetSize { image, .. } => (shown(image), None, None, whole),
            E::Io { path, .. }
            | E::NoTarget { path, .. }
            | E::NotAFile { path }
            | E::EmptyFile { path }
            | E::FileSize { path, .. }
            | E::UnknownFormat { path }
            | E::Decode { path, .. }
            | E::TooLarge { path, .. }
            | E::NotFinite { path, .. }
            | E::MissingData { path, .. }
            | E::Encode { path, .. }
            | E::NotAMask { path, .. }
            | E::MaskValue { path, .. }
            | E::UnknownColor { path, .. }
            | E::LabelOutsideClasses { path, .. } => (shown(path), None, None, whole),
            _ => (String::new(), None, None, whole),
        };
        let text = text.strip_prefix(&file).map_or(&*text, |rest| rest.trim_start_matches([':', ',', ' ']));
        let (problem, cure) = text.split_once("; ").unwrap_or((text, ""));
        Self { file, object, field, problem: problem.into(), cure: cure.into() }
    }
}

/// Faults of a data set, of which the first are kept.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    errors: Vec<DataError>,
    more: usize,
}

impl Faults {
    /// Faults that are kept; the others are counted.
    pub const MOST: usize = 100;

    pub fn push(&mut self, error: DataError) {
        match error {
            DataError::Several { errors, more } => {
                errors.into_iter().for_each(|error| self.push(error));
                self.more += more;
            }
            error if self.errors.len() < Self::MOST => self.errors.push(error),
            _ => self.more += 1,
        }
    }

    /// The value, or none and a fault more.
    #[cfg(feature = "datasets")]
    pub fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// An error if there was a fault.
    pub fn finish(mut self) -> Result<()> {
        match (self.errors.len(), self.more) {
            (0, _) => Ok(()),
            (1, 0) => Err(self.errors.remove(0)),
            (_, more) => Err(DataError::Several { errors: self.errors, more }),
        }
    }
}

/// The faults of data sets that [`check`](crate::check) found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The first 100 faults.
    pub problems: Vec<Problem>,
    /// Faults in all.
    pub count: usize,
    /// Images that were looked at.
    pub images: usize,
}

impl CheckReport {
    #[cfg(feature = "datasets")]
    fn add(&mut self, error: &DataError) {
        match error {
            DataError::Several { errors, more } => {
                errors.iter().for_each(|error| self.add(error));
                self.count += more;
            }
            DataError::Dataset(error) => match std::error::Error::source(error).and_then(|e| e.downcast_ref()) {
                Some(inner) => self.add(inner),
                None => self.push(Problem {
                    file: String::new(),
                    object: None,
                    field: None,
                    problem: error.to_string(),
                    cure: String::new(),
                }),
            },
            error => self.push(error.into()),
        }
    }

    #[cfg(feature = "datasets")]
    fn push(&mut self, problem: Problem) {
        self.count += 1;
        if self.problems.len() < Faults::MOST {
            self.problems.push(problem);
        }
    }
}

/// Opens nothing and trains nothing: reads every sample of data sets and lists what is wrong with them. What could not be
/// opened is listed by its error.
///
/// ```
/// use segkiln_data::{check, datasets::{FolderDataset, FolderOptions}};
/// use segkiln_core::Classes;
///
/// let opened = FolderDataset::open("no/such/folder", &Classes::binary(), FolderOptions::default());
/// let report = check([opened]);
/// // Neither its images nor its labels.
/// assert_eq!((report.count, report.images), (2, 0));
/// assert!(report.problems[0].file.contains("no/such/folder"));
/// ```
#[cfg(feature = "datasets")]
pub fn check<T, D: burn::data::dataset::Dataset<crate::Sample<T>>>(
    datasets: impl IntoIterator<Item = Result<D>>,
) -> CheckReport {
    use rayon::prelude::*;
    let mut report = CheckReport::default();
    for dataset in datasets {
        match dataset {
            Err(error) => report.add(&error),
            Ok(dataset) => {
                report.images += dataset.len();
                let fault = |index| dataset.get(index).err().map(DataError::from);
                let faults: Vec<DataError> = (0..dataset.len()).into_par_iter().filter_map(fault).collect();
                faults.iter().for_each(|error| report.add(error));
            }
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "datasets")]
    #[test]
    fn faults_are_kept_up_to_a_number_and_counted_beyond() {
        let fault = |index: usize| DataError::List { path: "a.txt".into(), line: index, reason: "bad; mend it".into() };
        let mut faults = Faults::default();
        assert_eq!(faults.take(Ok(3)), Some(3));
        (0..103).for_each(|index| faults.push(fault(index)));
        let error = faults.finish().unwrap_err();
        assert!(error.to_string().starts_with("103 problems, the first: a.txt, line 0: bad"), "{error}");
        let problem = Problem::from(&fault(7));
        let (file, object) = (problem.file.as_str(), problem.object.as_deref());
        assert_eq!((file, object, problem.problem.as_str()), ("a.txt", Some("line 7"), "bad"));
        assert_eq!(problem.cure, "mend it");
        let mut one = Faults::default();
        one.push(fault(4));
        assert!(matches!(one.finish(), Err(DataError::List { line: 4, .. })));
    }
}
