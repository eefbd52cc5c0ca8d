//! Folders of images: all of them in the order of the numbers in their names, or those of a pattern.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    vec,
};

use image::DynamicImage;

use super::{FrameRate, FrameSink, FrameSource};
use crate::{DataError, DecodeOptions, EXTENSIONS, Result, codecs};

/// A name with a number in it, such as `frame_%06d.png`.
pub(super) struct Pattern {
    folder: PathBuf,
    before: String,
    digits: usize,
    after: String,
}

impl Pattern {
    /// The pattern, if the path's last part is one.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (before, rest) = name.split_once('%')?;
        let (digits, after) = rest.split_once('d')?;
        // C's %d and %06d; %6d, which pads with spaces, is no pattern.
        let digits = match digits.strip_prefix('0') {
            Some(digits) => digits.parse().ok().filter(|digits| *digits <= 20)?,
            None if digits.is_empty() => 1,
            None => return None,
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(Self { folder: folder.into(), before: before.into(), digits, after: after.into() })
    }

    fn file(&self, number: u64) -> PathBuf {
        let Self { before, digits, after, .. } = self;
        self.folder.join(format!("{before}{number:0digits$}{after}", digits = *digits))
    }

    /// The number of a file of the pattern.
    fn number(&self, name: &str) -> Option<u64> {
        let number = name.strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        let is_padded = number.len() == self.digits || number.len() > self.digits && !number.starts_with('0');
        (is_padded && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.parse().ok())?
    }
}

/// Compares names with their numbers as numbers: `frame9` comes before `frame10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |name: &str| name.bytes().take_while(u8::is_ascii_digit).count();
        let (first, second) = (digits(a), digits(b));
        if first > 0 && second > 0 {
            let [x, y] = [&a[..first], &b[..second]].map(|number| number.trim_start_matches('0'));
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y)).then(first.cmp(&second));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[first..], &b[second..]);
            continue;
        }
        let (mut left, mut right) = (a.chars(), b.chars());
        match (left.next(), right.next()) {
            (Some(x), Some(y)) if x == y => (a, b) = (left.as_str(), right.as_str()),
            (x, y) => return x.cmp(&y),
        }
    }
}

/// A folder that is read.
pub(super) struct Source {
    files: vec::IntoIter<PathBuf>,
    options: DecodeOptions,
}

impl Source {
    pub fn new(path: &Path, options: DecodeOptions) -> Result<Self> {
        let pattern = Pattern::of(path);
        let folder = pattern.as_ref().map_or(path, |pattern| &pattern.folder);
        let io = |source| DataError::io("list the folder", folder, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            // Names that are no Unicode are those of no frames.
            names.extend(name.to_str().map(str::to_owned));
        }
        let files = match &pattern {
            Some(pattern) => {
                let mut numbers: Vec<u64> = names.iter().filter_map(|name| pattern.number(name)).collect();
                numbers.sort_unstable();
                let gap = numbers.windows(2).position(|pair| pair[1] != pair[0] + 1);
                if let Some(at) = gap {
                    let missing = pattern.file(numbers[at] + 1);
                    let reason = format!("lacks {} between {} and {}", missing.display(), numbers[at], numbers[at + 1]);
                    return Err(DataError::Film { film: path.into(), reason });
                }
                numbers.into_iter().map(|number| pattern.file(number)).collect()
            }
            None => {
                let is_image = |name: &String| {
                    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
                    let known = extension.is_some_and(|extension| EXTENSIONS.contains(&&*extension.to_lowercase()));
                    known && !name.starts_with('.')
                };
                names.retain(is_image);
                names.sort_by(|a, b| natural(a, b));
                names.into_iter().map(|name| folder.join(name)).collect::<Vec<_>>()
            }
        };
        if files.is_empty() {
            let reason = format!("has no frames; images of the formats {} are", EXTENSIONS.join(", "));
            return Err(DataError::Film { film: path.into(), reason });
        }
        Ok(Self { files: files.into_iter(), options })
    }

    /// A film of one image.
    pub fn one(path: &Path, options: DecodeOptions) -> Self {
        Self { files: vec![path.to_owned()].into_iter(), options }
    }
}

impl FrameSource for Source {
    fn rate(&self) -> Option<FrameRate> {
        None
    }

    fn next_frame(&mut self) -> Result<Option<DynamicImage>> {
        self.files.next().map(|file| codecs::read_dynamic(file, self.options)).transpose()
    }
}

/// A folder that is written, of PNG files numbered from 0.
pub(super) struct Sink {
    pattern: Pattern,
    frames: u64,
}

impl Sink {
    pub fn new(path: &Path) -> Result<Self> {
        let pattern = match Pattern::of(path) {
            Some(pattern) if !pattern.after.to_lowercase().ends_with(".png") => {
                return Err(DataError::Film {
                    film: path.into(),
                    reason: "must end in .png: frames are PNG files".into(),
                });
            }
            Some(pattern) => pattern,
            None => Pattern { folder: path.into(), before: String::new(), digits: 6, after: ".png".into() },
        };
        let folder = &pattern.folder;
        fs::create_dir_all(folder).map_err(|source| DataError::io("create", folder, source))?;
        Ok(Self { pattern, frames: 0 })
    }
}

impl FrameSink for Sink {
    fn write_frame(&mut self, frame: &DynamicImage) -> Result<()> {
        codecs::write_image(self.pattern.file(self.frames), frame)?;
        self.frames += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_numbers() {
        let mut names = ["f10.png", "f9.png", "f1.png", "f010.png", "e11.png", "f", "f10b.png"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["e11.png", "f", "f1.png", "f9.png", "f10.png", "f10b.png", "f010.png"]);
    }

    #[test]
    fn patterns_are_those_of_c() {
        let pattern = Pattern::of(Path::new("a/frame_%03d.png")).unwrap();
        assert_eq!(pattern.file(7), Path::new("a/frame_007.png"));
        let numbers =
            ["frame_007.png", "frame_1000.png", "frame_07.png", "frame_0007.png", "frame_-01.png", "x_007.png"];
        assert_eq!(numbers.map(|name| pattern.number(name)), [Some(7), Some(1000), None, None, None, None]);
        assert_eq!(Pattern::of(Path::new("%d.png")).unwrap().file(12), Path::new("./12.png"));
        for none in ["100%.png", "%5d.png", "%0999d.png", "%s.png"] {
            assert!(Pattern::of(Path::new(none)).is_none(), "{none}");
        }
    }
}
