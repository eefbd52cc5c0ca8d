//! Files of weights, and weights by torchvision's name for them.

use std::path::{Path, PathBuf};

use segkiln::models::weights::Published;

use crate::common::Failure;

/// The file that `given` names: itself, or the network's weights that torchvision calls so, such as `DEFAULT`. They are
/// downloaded where they are not in the cache, if they are for so many classes.
pub fn file(network: &str, given: &Path, classes: Option<usize>) -> Result<PathBuf, Failure> {
    let name = given.to_str().filter(|name| !name.contains(['/', '\\', '.']) && !given.exists());
    let Some(name) = name else { return Ok(given.into()) };
    let published = Published::by_name(network, name).map_err(|error| format!("{name} is no file, and {error}"))?;
    let learned = published.data.classes();
    if let Some(classes) = classes.filter(|classes| *classes != learned) {
        return Err(format!("{network}'s published weights are for {learned} classes, not {classes}").into());
    }
    let mut shown = 0;
    Ok(published.file(|done, total| {
        const MEGA: u64 = 1_000_000;
        let total = total.unwrap_or(done).max(1);
        // Ten lines.
        if done * 10 / total > shown {
            shown = done * 10 / total;
            eprintln!("{}: {} of {} MB", published.file, done / MEGA, total / MEGA);
        }
    })?)
}
