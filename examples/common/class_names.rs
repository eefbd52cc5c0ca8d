//! The flag that names a network's classes.

use std::{fs::File, io::Read, path::PathBuf};

use segkiln::core::Classes;

use crate::common::Failure;

/// Names of a network's classes.
#[derive(clap::Args)]
pub struct ClassNames {
    /// Names of the classes, the background first: voc, coco, or a file with a name a line [default: those of the published
    /// weights or of the training, else numbers]
    #[arg(long, value_name = "voc|coco|FILE")]
    class_names: Option<PathBuf>,
}

impl ClassNames {
    pub fn classes(&self) -> Result<Option<Classes>, Failure> {
        /// Bytes of a file of names.
        const MOST: u64 = 1 << 20;
        let Some(path) = &self.class_names else { return Ok(None) };
        Ok(Some(match path.to_str() {
            Some("voc") => Classes::voc(),
            Some("coco") => Classes::coco(),
            _ => {
                let mut text = String::new();
                let read = File::open(path).and_then(|file| file.take(MOST).read_to_string(&mut text));
                read.map_err(|error| format!("--class-names {}: {error}", path.display()))?;
                let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
                Classes::new(names).map_err(|error| format!("--class-names {}: {error}", path.display()))?
            }
        }))
    }
}
