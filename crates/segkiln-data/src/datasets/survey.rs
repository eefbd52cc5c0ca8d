use std::{collections::HashMap, path::Path};

use rayon::prelude::*;

use segkiln_core::Size;

use super::ImageFiles;
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
/// assert_eq!((survey.gray, survey.one_size, survey.longest_side), (true, true, 6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// Whether all channels of all pixels agree.
    pub gray: bool,
    /// Whether all images have one width and height.
    pub one_size: bool,
    /// Longest side of an image in pixels.
    pub longest_side: u32,
}

/// An image of a survey.
struct Seen {
    gray: bool,
    size: Size,
    turned: bool,
    /// Bits of an integer sample; none of floats.
    bits: Option<u8>,
    /// The largest value: of integers as a share of their range.
    most: f32,
    has_target: bool,
}

impl Survey {
    /// Reads every sample. Warned of are images with an orientation tag, images of very different ranges, images that two of the data
    /// sets share, and data sets whose masks are all background.
    ///
    /// # Errors
    /// The error of a sample, or [`DataError::Several`](crate::DataError::Several).
    pub fn of<D: ImageFiles + ?Sized>(datasets: &[&D]) -> Result<Self> {
        Self::of_some(datasets, usize::MAX)
    }

    /// [`of`](Self::of) at most `most` images, taken evenly from all: enough to notice mixed ranges in a set of many images.
    ///
    /// # Errors
    /// As [`of`](Self::of), for those images.
    pub fn of_some<D: ImageFiles + ?Sized>(datasets: &[&D], most: usize) -> Result<Self> {
        let total: usize = datasets.iter().map(|dataset| dataset.image_count()).sum();
        let step = total.div_ceil(most.max(1)).max(1);
        let mut faults = Faults::default();
        let mut all: Vec<(&Path, Seen)> = Vec::new();
        for dataset in datasets {
            let indices: Vec<usize> = (0..dataset.image_count()).step_by(step).collect();
            let seen: Vec<Result<Seen>> = indices.par_iter().map(|index| seen(*dataset, *index)).collect();
            let before = all.len();
            for (index, seen) in indices.into_iter().zip(seen) {
                all.extend(faults.take(seen).map(|seen| (dataset.image_path(index), seen)));
            }
            warn_of_background(&all[before..]);
        }
        faults.finish()?;
        warn_of_shared(datasets);
        warn_of_tags(&all);
        warn_of_ranges(&all);
        warn_of_floats(&all);
        let first = all.first().map(|(_, seen)| seen.size);
        Ok(Self {
            gray: all.iter().all(|(_, seen)| seen.gray),
            one_size: all.iter().all(|(_, seen)| Some(seen.size) == first),
            longest_side: all.iter().map(|(_, seen)| seen.size.width.max(seen.size.height)).max().unwrap_or(0),
        })
    }
}

fn seen<D: ImageFiles + ?Sized>(dataset: &D, index: usize) -> Result<Seen> {
    let (image, facts, has_target) = dataset.read_with_target(index)?;
    let agree = |pixel: &[f32]| pixel.iter().all(|value| *value == pixel[0]);
    let most = image.as_slice().iter().copied().fold(0.0, f32::max);
    Ok(Seen {
        gray: image.as_slice().chunks_exact(image.channels()).all(|pixel| agree(&pixel[..pixel.len().min(3)])),
        size: image.size(),
        turned: facts.orientation_tag != 1,
        bits: facts.bits,
        most,
        has_target,
    })
}

fn warn_of_background(all: &[(&Path, Seen)]) {
    if let Some((path, _)) = all.first().filter(|_| all.iter().all(|(_, seen)| !seen.has_target)) {
        let count = all.len();
        let cure =
            "there is nothing to learn or to find; are the masks those of these images, and read in the right format?";
        warn(
            warn::NO_FOREGROUND,
            path,
            format_args!("its mask and those of all {count} images are background alone: {cure}"),
        );
    }
}

fn warn_of_shared<D: ImageFiles + ?Sized>(datasets: &[&D]) {
    let mut known: HashMap<&Path, usize> = HashMap::new();
    let mut shared: Vec<&Path> = Vec::new();
    for (number, dataset) in datasets.iter().enumerate() {
        for path in (0..dataset.image_count()).map(|index| dataset.image_path(index)) {
            if *known.entry(path).or_insert(number) != number {
                shared.push(path);
            }
        }
    }
    if let Some(path) = shared.first() {
        let count = shared.len();
        let cure = "figures of images that were learned from say little; list each image once";
        warn(warn::SHARED_IMAGES, path, format_args!("it is in two splits, as {count} images are: {cure}"));
    }
}

/// Warns where floats reach a multiple of what integers do, which are scaled to `[0, 1]`, or a part of it.
fn warn_of_floats(all: &[(&Path, Seen)]) {
    let brightest = |is_float: bool| {
        let of_kind = all.iter().filter(|(_, seen)| seen.bits.is_none() == is_float && seen.most > 0.0);
        of_kind.max_by(|a, b| a.1.most.total_cmp(&b.1.most))
    };
    let (Some((path, float)), Some((other, whole))) = (brightest(true), brightest(false)) else { return };
    let ratio = float.most / whole.most;
    if ratio < APART && ratio * APART > 1.0 {
        return;
    }
    let text = "images of two ranges are mixed; save all in one format, or scale the floats to [0, 1]";
    warn(
        warn::MIXED_RANGES,
        path,
        format_args!(
            "its floats reach {}, where the integers of {} are read as up to {}: {text}",
            float.most,
            other.display(),
            whole.most
        ),
    );
}

fn warn_of_tags(all: &[(&Path, Seen)]) {
    let mut turned = all.iter().filter(|(_, seen)| seen.turned);
    if let Some((path, _)) = turned.next() {
        let count = 1 + turned.count();
        let text = "applied unless `Orientation::Keep` is given; masks must be drawn on what is then read";
        warn(warn::ORIENTATION, path, format_args!("{count} images have an orientation tag, which is {text}"));
    }
}

/// Ratio of brightness from which on images are of two ranges.
const APART: f32 = 8.0;

/// Warns where images of one kind reach an eighth of the brightness of others, as 12 bits in 16 do beside 8.
fn warn_of_ranges(all: &[(&Path, Seen)]) {
    let reach = |seen: &Seen| seen.bits.map(|bits| (bits, seen.most)).filter(|(_, share)| *share > 0.0);
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

    use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb};
    use segkiln_core::{Classes, Instances, LabelMap};

    use super::*;
    use crate::{
        datasets::{DetectionDataset, DetectionEntry, FolderDataset, FolderOptions},
        write_image, write_labels,
    };

    /// Keeps what is logged.
    struct Kept(Mutex<Vec<String>>);

    static KEPT: Kept = Kept(Mutex::new(Vec::new()));
    static ONCE: Once = Once::new();

    impl log::Log for Kept {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            if [warn::MIXED_RANGES, warn::SHARED_IMAGES, warn::NO_FOREGROUND].contains(&record.target()) {
                self.0.lock().unwrap().push(record.args().to_string());
            }
        }

        fn flush(&self) {}
    }

    /// One test at a time reads what was logged.
    static TURN: Mutex<()> = Mutex::new(());

    fn listen() -> std::sync::MutexGuard<'static, ()> {
        ONCE.call_once(|| {
            log::set_logger(&KEPT).unwrap();
            log::set_max_level(log::LevelFilter::Warn);
        });
        TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn heard() -> Vec<String> {
        std::mem::take(&mut *KEPT.0.lock().unwrap())
    }

    fn surveyed(images: &[DynamicImage]) -> Vec<String> {
        let _turn = listen();
        let root = tempfile::tempdir().unwrap();
        for folder in ["images", "labels"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        for (index, image) in images.iter().enumerate() {
            // PNG has no floats.
            let extension = if matches!(image, DynamicImage::ImageRgb32F(_)) { "tif" } else { "png" };
            write_image(root.path().join(format!("images/{index}.{extension}")), image).unwrap();
            write_labels(root.path().join(format!("labels/{index}.png")), &LabelMap::filled(2, 2, 1)).unwrap();
        }
        let dataset = FolderDataset::open(root.path(), &Classes::binary(), FolderOptions::default()).unwrap();
        Survey::of(&[&dataset]).unwrap();
        let warned = heard();
        // Objects in the same images.
        let entry = |index: usize| DetectionEntry {
            name: index.to_string(),
            image: dataset.image_path(index).into(),
            instances: Instances::new(2, 2, Vec::new()).unwrap(),
        };
        let objects = DetectionDataset::new((0..images.len()).map(entry).collect(), Classes::binary()).unwrap();
        let both: [&dyn ImageFiles; 1] = [&objects];
        Survey::of(&both).unwrap();
        assert_eq!(heard(), warned);
        warned
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
        // A look at some of many.
        let all: Vec<_> = (0..9).map(|index| if index % 2 == 0 { eight(255) } else { wide(4095) }).collect();
        assert_eq!(surveyed(&all).len(), 1);
        for alike in [&[eight(255), eight(20)][..], &[wide(4095), wide(3000)], &[eight(255), wide(60_000)]] {
            assert_eq!(surveyed(alike), [""; 0]);
        }
    }
    #[test]
    fn floats_of_another_range_than_integers_are_warned_of() {
        let eight = || DynamicImage::from(GrayImage::from_raw(2, 2, vec![0, 1, 99, 200]).unwrap());
        let floats = |most: f32| {
            let values = [0.0, 0.1, most / 2.0, most].iter().flat_map(|value| [*value; 3]).collect();
            DynamicImage::from(ImageBuffer::<Rgb<f32>, _>::from_raw(2, 2, values).unwrap())
        };
        let warned = surveyed(&[eight(), floats(255.0), floats(90.0)]);
        let [text] = warned.as_slice() else { panic!("{warned:?}") };
        for part in ["1.tif", "0.png", "floats reach 255", "[0, 1]"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(surveyed(&[eight(), floats(0.5)]), [""; 0]);
        assert_eq!(surveyed(&[floats(255.0), floats(2.0)]), [""; 0]);
    }

    #[test]
    fn shared_images_and_masks_of_background_are_warned_of() {
        let _turn = listen();
        let root = tempfile::tempdir().unwrap();
        for folder in ["images", "labels"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        for (name, label) in [("a", 0), ("b", 0), ("c", 1)] {
            write_image(root.path().join(format!("images/{name}.png")), &DynamicImage::new_luma8(2, 2)).unwrap();
            write_labels(root.path().join(format!("labels/{name}.png")), &LabelMap::filled(2, 2, label)).unwrap();
        }
        let open = |stems: &[&str]| {
            let stems = Some(stems.iter().map(ToString::to_string).collect());
            let options = FolderOptions { stems, ..FolderOptions::default() };
            FolderDataset::open(root.path(), &Classes::binary(), options).unwrap()
        };
        Survey::of(&[&open(&["a", "c"]), &open(&["b", "c"])]).unwrap();
        let warned = heard();
        let [text] = warned.as_slice() else { panic!("{warned:?}") };
        assert!(text.contains("c.png") && text.contains("in two splits") && text.contains("once"), "{text}");
        Survey::of(&[&open(&["a", "b"]), &open(&["c"])]).unwrap();
        let warned = heard();
        let [text] = warned.as_slice() else { panic!("{warned:?}") };
        assert!(text.contains("a.png") && text.contains("all 2 images are background alone"), "{text}");
    }
}
