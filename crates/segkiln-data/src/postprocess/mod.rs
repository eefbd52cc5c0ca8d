//! Cleaning of class maps: small components, holes, all but the largest component, opening and closing, class by class.

mod rows;

use std::{
    fs,
    path::{Path, PathBuf},
};

use segkiln_core::LabelMap;
use serde::{Deserialize, Serialize};

use crate::{
    DataError, DecodeOptions, Limits, Result,
    instances::{LabelRows, each_row},
    regions::{GeoTags, MapRows, RowSink, SampleType, TiffSink, TiffSinkOptions, TiffSource},
    text,
};

/// A change of one class's pixels. Pixels that it takes away become class 0; those that it adds were class 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CleaningStep {
    /// Takes away components (connected over corners too) of fewer pixels than this: scikit-image's `remove_small_objects` with
    /// `max_size` of one less.
    MinArea(u64),
    /// Takes away all components but the largest, of several the first.
    Largest,
    /// Adds what is enclosed: SciPy's `binary_fill_holes`. Other classes' pixels within stay.
    FillHoles,
    /// Takes away what no disc of this radius in pixels fits into: scikit-image's `binary_opening` with `disk(radius)`.
    Opening(u32),
    /// Adds what no disc of this radius outside fits into: `binary_closing` with `disk(radius)`.
    Closing(u32),
}

impl CleaningStep {
    /// Steps that [`Cleaning::choose`] tries of each class, in this order.
    pub const TRIED: [Self; 9] = [
        Self::Largest,
        Self::FillHoles,
        Self::Closing(1),
        Self::Closing(3),
        Self::Opening(1),
        Self::Opening(3),
        Self::MinArea(16),
        Self::MinArea(64),
        Self::MinArea(256),
    ];
}

/// Steps that clean class maps, one after the other.
///
/// ```
/// use segkiln_core::LabelMap;
/// use segkiln_data::{Cleaning, CleaningStep};
///
/// // 1 1 0 1
/// let map = LabelMap::new(4, 1, vec![1, 1, 0, 1])?;
/// let cleaning = Cleaning { steps: vec![(1, CleaningStep::Largest)] };
/// assert_eq!(cleaning.apply(map)?.as_slice(), [1, 1, 0, 0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cleaning {
    /// The class, at least 1, and what is done to it.
    pub steps: Vec<(u32, CleaningStep)>,
}

impl Cleaning {
    /// Reads steps from a file of JSON, as `serde_json` writes them:
    /// `{"steps": [[1, "fill_holes"], [1, {"min_area": 64}], [2, "largest"]]}`.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Json`] with the place in the file, [`DataError::Option`] if a step is for class 0.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        /// Bytes of more steps than anybody takes.
        const MOST: u64 = 1 << 20;
        let path = path.as_ref();
        let bytes = text::read_bytes(path, MOST)?;
        // Of damaged UTF-16, which is no JSON, the place is named too.
        let bytes = text::without_mark(&bytes).unwrap_or(bytes.as_slice().into());
        let cleaning: Self = serde_json::from_slice(&bytes).map_err(|error| DataError::Json {
            path: path.into(),
            line: error.line(),
            column: error.column(),
            reason: error.to_string(),
        })?;
        if cleaning.steps.iter().any(|(class, _)| *class == 0) {
            return Err(DataError::option("steps", format!("{}: {BACKGROUND}", path.display())));
        }
        Ok(cleaning)
    }

    /// Cleans a map.
    ///
    /// # Errors
    /// [`DataError::Option`] if a step is for class 0, [`DataError::Held`] if the map has
    /// more components than fit 2 GiB.
    pub fn apply(&self, mut map: LabelMap) -> Result<LabelMap> {
        for (class, step) in &self.steps {
            map = clean(&map, *class, *step)?;
        }
        Ok(map)
    }

    /// Cleans a map of any size by rows, and gives them to a sink: the result is that of [`apply`](Self::apply).
    ///
    /// What is between two steps is written to files, compressed, whose names are `scratch` with an end of their own; they are removed
    /// when they are no longer needed. Labels are at most `most`.
    ///
    /// Memory: for steps by components 12 bytes for each, and 4 for each run of pixels without a neighbor above; for discs the rows
    /// around one, 4 bytes a pixel; both up to the limits.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply) and of [`LabelRows::rows`], [`DataError::Held`] with what is over the limits,
    /// [`DataError::Io`] if a file cannot be written.
    pub fn apply_to_rows<M: LabelRows>(
        &self,
        map: &M,
        most: u32,
        scratch: &Path,
        limits: &Limits,
        mut sink: impl RowSink,
    ) -> Result<()> {
        let size = map.size();
        let samples = match most {
            0..=0xff => SampleType::U8,
            0x100..=0xffff => SampleType::U16,
            _ => SampleType::U32,
        };
        let create = |path: &Path| {
            let (geo, identity) = (GeoTags::default(), None);
            let options = TiffSinkOptions { width: size.width, height: size.height, bands: 1, samples, geo, identity };
            TiffSink::create(path, options)
        };
        let mut before: Option<(Between, TiffSource)> = None;
        let (last, steps) = match self.steps.split_last() {
            Some((last, steps)) => (Some(last), steps),
            None => (None, &self.steps[..]),
        };
        for (index, (class, step)) in steps.iter().enumerate() {
            let between = Between::new(scratch, index);
            let mut file = create(&between.0)?;
            let row = |row: &[u32]| file.push_labels(row);
            match &before {
                Some((_, map)) => rows::clean(map, *class, *step, limits, row)?,
                None => rows::clean(map, *class, *step, limits, row)?,
            }
            file.finish()?;
            let source = TiffSource::open(&between.0, DecodeOptions::from(limits))?;
            before = Some((between, source));
        }
        let mut top = 0;
        let mut row = |labels: &[u32]| {
            sink.push_rows(MapRows { top, labels, probabilities: &[] })?;
            top += 1;
            Ok(())
        };
        match (last, &before) {
            (Some((class, step)), Some((_, map))) => rows::clean(map, *class, *step, limits, row)?,
            (Some((class, step)), None) => rows::clean(map, *class, *step, limits, row)?,
            (None, _) => each_row(map, |_, labels| row(labels))?,
        }
        sink.finish()
    }

    /// Chooses steps on validation data: of each class from 1 to `classes` - 1 each of [`CleaningStep::TRIED`] is kept with which the
    /// mean of `score` over pairs of a predicted and the true map becomes greater than without, as nnU-Net chooses (Isensee et al., 2021).
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn choose(
        maps: &[(LabelMap, LabelMap)],
        classes: u32,
        score: impl Fn(&LabelMap, &LabelMap) -> f64,
    ) -> Result<Self> {
        let mut predicted: Vec<LabelMap> = maps.iter().map(|(predicted, _)| predicted.clone()).collect();
        let mean = |predicted: &[LabelMap]| {
            let scores = predicted.iter().zip(maps).map(|(predicted, (_, truth))| score(predicted, truth));
            scores.sum::<f64>() / maps.len().max(1) as f64
        };
        let (mut best, mut steps) = (mean(&predicted), Vec::new());
        for (class, step) in (1..classes).flat_map(|class| CleaningStep::TRIED.map(|step| (class, step))) {
            let cleaned: Vec<LabelMap> = predicted.iter().map(|map| clean(map, class, step)).collect::<Result<_>>()?;
            let found = mean(&cleaned);
            if found > best {
                (best, predicted) = (found, cleaned);
                steps.push((class, step));
            }
        }
        Ok(Self { steps })
    }
}

/// Why a step is not for class 0.
const BACKGROUND: &str = "class 0 is the background; give a class from 1 on";

fn clean(map: &LabelMap, class: u32, step: CleaningStep) -> Result<LabelMap> {
    let mut labels = Vec::with_capacity(map.as_slice().len());
    rows::clean(map, class, step, &Limits::default(), |row| {
        labels.extend_from_slice(row);
        Ok(())
    })?;
    Ok(LabelMap::new(map.width(), map.height(), labels).expect("each row was handed over"))
}

/// A map between two steps: it is removed when it is no longer needed.
struct Between(PathBuf);

impl Between {
    fn new(path: &Path, index: usize) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".step{index}"));
        Self(name.into())
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        // One that was not written is not there.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise() -> LabelMap {
        let labels = (0..61 * 83u32).map(|at| (at % 83, at / 83));
        let labels = labels.map(|(x, y)| {
            let disc = (0..30u32)
                .any(|k| (x.abs_diff(37 * k % 83)).pow(2) + (y.abs_diff(23 * k % 61)).pow(2) <= (4 + k % 5).pow(2));
            u32::from(disc != ((5 * y + 3 * x + x * y / 3 + y * y / 7) % 11 == 0))
        });
        LabelMap::new(83, 61, labels.collect()).unwrap()
    }

    /// `tests/parity/instances.py`.
    #[test]
    fn steps_are_those_of_scikit_image_and_scipy() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/instances.json");
        let fixture: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        for (name, step) in [
            ("opening_1", CleaningStep::Opening(1)),
            ("opening_3", CleaningStep::Opening(3)),
            ("closing_1", CleaningStep::Closing(1)),
            ("closing_3", CleaningStep::Closing(3)),
            ("fill_holes", CleaningStep::FillHoles),
            ("min_area", CleaningStep::MinArea(12)),
            ("largest", CleaningStep::Largest),
        ] {
            let runs: Vec<u32> = serde_json::from_value(fixture["cleaned"][name].clone()).unwrap();
            let runs = runs.as_chunks::<2>().0.iter();
            let expected: Vec<u32> = runs.flat_map(|[value, count]| vec![*value; *count as usize]).collect();
            let found = clean(&noise(), 1, step).unwrap();
            assert!(found.as_slice() == expected, "{name}");
            assert!(found != noise(), "{name} changes nothing");
        }
    }

    #[test]
    fn steps_are_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clean.json");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            Cleaning::read(&path)
        };
        // Some editors put a byte-order mark before it.
        for mark in ["", "\u{feff}"] {
            let text = r#"{"steps": [[1, "fill_holes"], [2, {"min_area": 64}]]}"#;
            let steps = read(&format!("{mark}{text}")).unwrap().steps;
            assert_eq!(steps, [(1, CleaningStep::FillHoles), (2, CleaningStep::MinArea(64))]);
        }
        for (text, reason) in [
            ("{\n\"steps\": [[1, \"grow\"]]}", "line 2"),
            (r#"{"steps": [[1]]}"#, "clean.json"),
            (r#"{"steps": [], "step": [[1, "largest"]]}"#, "`step`"),
            (r#"{"steps": [[0, "largest"]]}"#, "clean.json: class 0"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn other_classes_stay() {
        // A ring of 1 around a 2 and a 0.
        let map = LabelMap::new(4, 3, vec![1, 1, 1, 1, 1, 2, 0, 1, 1, 1, 1, 1]).unwrap();
        let found = clean(&map, 1, CleaningStep::FillHoles).unwrap();
        assert_eq!(found.as_slice(), [1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1]);
        assert_eq!(clean(&map, 3, CleaningStep::Largest).unwrap(), map);
        assert!(clean(&map, 0, CleaningStep::Largest).is_err());
        assert!(clean(&LabelMap::filled(0, 3, 0), 1, CleaningStep::Opening(1)).is_ok());
    }

    #[test]
    fn maps_in_files_are_cleaned_as_those_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clean.tif");
        let steps = [(1, CleaningStep::FillHoles), (1, CleaningStep::Opening(1)), (1, CleaningStep::MinArea(20))];
        for count in 0..=3 {
            let cleaning = Cleaning { steps: steps[..count].to_vec() };
            let options = TiffSinkOptions {
                width: 83,
                height: 61,
                bands: 1,
                samples: SampleType::U8,
                geo: GeoTags::default(),
                identity: None,
            };
            let sink = TiffSink::create(&path, options).unwrap();
            cleaning.apply_to_rows(&noise(), 1, &path, &Limits::default(), sink).unwrap();
            let found = TiffSource::open(&path, DecodeOptions::default()).unwrap().rows(0, 61).unwrap();
            assert!(found == cleaning.apply(noise()).unwrap().as_slice(), "{count} steps");
            let files = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(files, 1, "what was between the steps is removed");
        }
    }

    #[test]
    fn steps_that_help_are_chosen() {
        // Two squares, one of them with a hole, and specks.
        let truth = |x: u32, y: u32| u32::from((4..12).contains(&y) && ((3..11).contains(&x) || (16..24).contains(&x)));
        let speck = |x: u32, y: u32| (x, y) == (6, 7) || (x, y) == (29, 2) || (x, y) == (0, 15);
        let map = |f: &dyn Fn(u32, u32) -> u32| {
            LabelMap::new(32, 16, (0..512).map(|at| f(at % 32, at / 32)).collect()).unwrap()
        };
        let predicted = map(&|x, y| if speck(x, y) { 1 - truth(x, y) } else { truth(x, y) });
        let truth = map(&truth);
        let agreement =
            |a: &LabelMap, b: &LabelMap| a.as_slice().iter().zip(b.as_slice()).filter(|(a, b)| a == b).count() as f64;
        let chosen = Cleaning::choose(&[(predicted.clone(), truth.clone())], 2, agreement).unwrap();
        assert_eq!(chosen.apply(predicted).unwrap(), truth);
        assert!(!chosen.steps.contains(&(1, CleaningStep::Largest)), "{chosen:?}");
        let text = serde_json::to_string(&chosen).unwrap();
        assert_eq!(serde_json::from_str::<Cleaning>(&text).unwrap(), chosen);
        // Nothing helps where all is right.
        assert_eq!(Cleaning::choose(&[(truth.clone(), truth)], 2, agreement).unwrap(), Cleaning::default());
    }
}
