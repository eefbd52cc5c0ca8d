use std::path::Path;

use burn::data::dataset::Dataset;
use rayon::prelude::*;

use super::FolderDataset;
use crate::{
    Result,
    problem::Faults,
    warn::{self, warn},
};

/// Properties that the images of some data sets have in common, after a look at every one of them.
///
/// ```
/// # use segkiln_core::{Classes, LabelMap};
/// use segkiln_data::{MaskFormat, datasets::{FolderDataset, FolderOptions, Survey}};
/// # use segkiln_data::{write_image, write_labels};
///
/// # let root = tempfile::tempdir()?;
/// # for folder in ["images", "labels"] { std::fs::create_dir(root.path().join(folder))?; }
/// # write_image(root.path().join("images/a.bmp"), &image::DynamicImage::new_luma8(6, 4))?;
/// # write_labels(root.path().join("labels/a.png"), &LabelMap::filled(6, 4, 255))?;
/// let options = FolderOptions { mask: MaskFormat::Binary, ..Default::default() };
/// let dataset = FolderDataset::open(root.path(), &Classes::binary(), options)?;
/// let survey = Survey::of(&[&dataset])?;
/// assert_eq!((survey.grey, survey.one_size, survey.longest_side), (true, true, 6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// Whether all channels of all pixels agree.
    pub grey: bool,
    /// Whether all images have one width and height.
    pub one_size: bool,
    /// Longest side of an image in pixels.
    pub longest_side: u32,
}

/// An image of a survey.
struct Seen {
    grey: bool,
    size: (u32, u32),
    turned: bool,
    /// Bits of an integer sample, and the largest value as a share of their range.
    reach: Option<(u8, f32)>,
}

impl Survey {
    /// Reads every sample. Images with an orientation tag and integer images of very different ranges are warned of.
    ///
    /// # Errors
    /// What is wrong with a sample, or [`DataError::Several`](crate::DataError::Several).
    pub fn of(datasets: &[&FolderDataset]) -> Result<Self> {
        let mut faults = Faults::default();
        let mut all: Vec<(&Path, Seen)> = Vec::new();
        for dataset in datasets {
            let seen: Vec<Result<Seen>> =
                (0..dataset.len()).into_par_iter().map(|index| seen(dataset, index)).collect();
            for (index, seen) in seen.into_iter().enumerate() {
                all.extend(faults.take(seen).map(|seen| (dataset.image_path(index), seen)));
            }
        }
        faults.finish()?;
        warn_of_tags(&all);
        warn_of_ranges(&all);
        let first = all.first().map(|(_, seen)| seen.size);
        Ok(Self {
            grey: all.iter().all(|(_, seen)| seen.grey),
            one_size: all.iter().all(|(_, seen)| Some(seen.size) == first),
            longest_side: all.iter().map(|(_, seen)| seen.size.0.max(seen.size.1)).max().unwrap_or(0),
        })
    }
}

fn seen(dataset: &FolderDataset, index: usize) -> Result<Seen> {
    let (sample, facts) = dataset.read(index)?;
    let image = sample.image;
    let agree = |pixel: &[f32]| pixel.iter().all(|value| *value == pixel[0]);
    let most = image.as_slice().iter().copied().fold(0.0, f32::max);
    Ok(Seen {
        grey: image.as_slice().chunks_exact(image.channels()).all(|pixel| agree(&pixel[..pixel.len().min(3)])),
        size: (image.width(), image.height()),
        turned: facts.orientation_tag != 1,
        reach: facts.bits.map(|bits| (bits, most)),
    })
}

fn warn_of_tags(all: &[(&Path, Seen)]) {
    let mut turned = all.iter().filter(|(_, seen)| seen.turned);
    if let Some((path, _)) = turned.next() {
        let count = 1 + turned.count();
        let text = "applied unless `Orientation::Keep` is given; masks must be drawn on what is then read";
        warn(warn::ORIENTATION, path, format_args!("{count} images have an orientation tag, which is {text}"));
    }
}

/// Warns where images of one kind reach an eighth of the brightness of others, as 12 bits in 16 do beside 8.
fn warn_of_ranges(all: &[(&Path, Seen)]) {
    const APART: f32 = 8.0;
    let reach = |seen: &Seen| seen.reach.filter(|(_, share)| *share > 0.0);
    let shares = || all.iter().filter_map(|(path, seen)| Some((*path, reach(seen)?)));
    let wide = shares().filter(|(_, (bits, _))| *bits > 8);
    let Some((dark_path, (bits, dark))) = wide.max_by(|a, b| (-a.1.1).total_cmp(&-b.1.1)) else { return };
    let all_dark = shares().filter(|(_, (bits, _))| *bits > 8).all(|(_, (_, share))| share * APART < 1.0);
    // One dark image among bright ones of its kind is nothing unusual.
    let brightest = shares().filter(|(_, (other, share))| (*other <= 8 && all_dark) || share >= &0.5);
    let Some((bright_path, (bright_bits, bright))) = brightest.max_by(|a, b| a.1.1.total_cmp(&b.1.1)) else { return };
    let dark_values = shares().filter(|(_, (bits, share))| *bits > 8 && share * APART < bright).count();
    if dark * APART >= bright || 4 * dark_values < shares().filter(|(_, (bits, _))| *bits > 8).count() {
        return;
    }
    let value = |bits: u8, share: f32| {
        let range = 2f64.powi(bits.into()) - 1.0;
        format!("{:.0} of {range:.0}", f64::from(share) * range)
    };
    warn(
        warn::MIXED_RANGES,
        dark_path,
        format_args!(
            "its values reach {}, those of {} {}: images of two ranges are mixed; rescale them to one range",
            value(bits, dark),
            bright_path.display(),
            value(bright_bits, bright)
        ),
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, Once};

    use image::{DynamicImage, GrayImage, ImageBuffer, Luma};
    use segkiln_core::{Classes, LabelMap};

    use super::*;
    use crate::{datasets::FolderOptions, write_image, write_labels};

    /// Keeps what is logged.
    struct Kept(Mutex<Vec<String>>);

    static KEPT: Kept = Kept(Mutex::new(Vec::new()));
    static ONCE: Once = Once::new();

    impl log::Log for Kept {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            if record.target() == warn::MIXED_RANGES {
                self.0.lock().unwrap().push(record.args().to_string());
            }
        }

        fn flush(&self) {}
    }

    fn surveyed(images: &[DynamicImage]) -> Vec<String> {
        ONCE.call_once(|| {
            log::set_logger(&KEPT).unwrap();
            log::set_max_level(log::LevelFilter::Warn);
        });
        let root = tempfile::tempdir().unwrap();
        for folder in ["images", "labels"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        for (index, image) in images.iter().enumerate() {
            write_image(root.path().join(format!("images/{index}.png")), image).unwrap();
            write_labels(root.path().join(format!("labels/{index}.png")), &LabelMap::filled(2, 2, 0)).unwrap();
        }
        let dataset = FolderDataset::open(root.path(), &Classes::binary(), FolderOptions::default()).unwrap();
        Survey::of(&[&dataset]).unwrap();
        std::mem::take(&mut *KEPT.0.lock().unwrap())
    }

    #[test]
    fn mixed_ranges_are_warned_of() {
        let eight = |most: u8| DynamicImage::from(GrayImage::from_raw(2, 2, vec![0, 1, most / 2, most]).unwrap());
        let wide = |most: u16| {
            DynamicImage::from(ImageBuffer::<Luma<u16>, _>::from_raw(2, 2, vec![0, 1, most / 2, most]).unwrap())
        };
        let warned = surveyed(&[eight(255), wide(4095), eight(250)]);
        let [text] = warned.as_slice() else { panic!("{warned:?}") };
        for part in ["1.png", "0.png", "4095 of 65535", "255 of 255", "rescale"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(surveyed(&[wide(65_535), wide(1023), wide(900)]).len(), 1);
        for alike in [&[eight(255), eight(20)][..], &[wide(4095), wide(3000)], &[eight(255), wide(60_000)]] {
            assert_eq!(surveyed(alike), [""; 0]);
        }
    }
}
