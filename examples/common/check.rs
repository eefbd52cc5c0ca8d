//! Faults of data sets as lines of JSON.

use segkiln::data::CheckReport;
use serde_json::{json, to_string};

use crate::common::{Failure, say};

/// Lists the faults that were found, the first 100 of them, and their number.
pub fn tell(report: &CheckReport) -> Result<(), Failure> {
    for problem in &report.problems {
        say(to_string(problem)?)?;
    }
    say(json!({ "problems": report.count, "images": report.images }))?;
    Ok(())
}
