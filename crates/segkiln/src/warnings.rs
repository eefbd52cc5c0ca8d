//! Warnings of this library's crates, collected so that a program can show each kind once.
//!
//! The crates hand their warnings to [`log`], each kind under a target of its own that begins with `segkiln::`. Where a
//! program has no logger of its own, [`collect`] keeps them.
//!
//! ```
//! segkiln::warnings::collect();
//! // Two TIFFs of several pages are read here.
//! for warning in segkiln::warnings::collected() {
//!     eprintln!("warning: {warning}");
//! }
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Mutex, PoisonError},
};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;

/// Warnings of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Name of the kind, such as `pages`.
    pub kind: String,
    /// Number of different warnings of the kind.
    pub count: usize,
    /// The first of them in alphabetical order, whichever thread came first.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.count {
            0 | 1 => Ok(()),
            count => write!(f, " (and {} more like it)", count - 1),
        }
    }
}

const TARGET: &str = "segkiln::";

/// Texts by kind.
struct Collector(Mutex<BTreeMap<String, BTreeSet<String>>>);

static COLLECTOR: Collector = Collector(Mutex::new(BTreeMap::new()));

impl Log for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn && metadata.target().starts_with(TARGET)
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(kind) = record.target().strip_prefix(TARGET).filter(|_| self.enabled(record.metadata())) {
            let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.entry(kind.to_owned()).or_default().insert(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

impl Collector {
    fn collected(&self) -> Vec<Warning> {
        let kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let warning = |(kind, texts): (&String, &BTreeSet<String>)| {
            let text = texts.first()?.clone();
            Some(Warning { kind: kind.clone(), count: texts.len(), text })
        };
        kinds.iter().filter_map(warning).collect()
    }
}

/// Begins to keep warnings; false where the program has another logger already.
pub fn collect() -> bool {
    let is_set = log::set_logger(&COLLECTOR).is_ok();
    if is_set {
        log::set_max_level(LevelFilter::Warn);
    }
    is_set
}

/// The warnings so far, sorted by kind.
pub fn collected() -> Vec<Warning> {
    COLLECTOR.collected()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_and_others_left_out() {
        let collector = Collector(Mutex::default());
        let send = |level, target: &str, text: &str| {
            collector.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
        };
        send(Level::Warn, "segkiln::pages", "b.tif: it has 2 pages");
        send(Level::Warn, "segkiln::pages", "a.tif: it has 3 pages");
        send(Level::Warn, "segkiln::pages", "a.tif: it has 3 pages");
        send(Level::Warn, "other", "nothing of ours");
        send(Level::Info, "segkiln::weights", "peeled");
        let [warning] = collector.collected().try_into().unwrap();
        assert_eq!((warning.kind.as_str(), warning.count), ("pages", 2));
        assert_eq!(warning.to_string(), "a.tif: it has 3 pages (and 1 more like it)");
    }
}
