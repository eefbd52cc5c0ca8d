use std::path::Path;

use segkiln_core::Instances;
use sha2::{Digest, Sha256};

use super::{
    Cityscapes, CocoDetection, DetectionDataset, Dsb2018, FolderDataset, VocDetection, VocSegmentation, pairs::Pairs,
};
use crate::{DataError, FileFacts, Image, Result, Sample};

/// Data set whose images are files, all of them known when it is opened.
///
/// ```
/// # use segkiln_core::{Classes, LabelMap};
/// use segkiln_data::datasets::{FolderDataset, FolderOptions, ImageFiles};
/// # use segkiln_data::{write_image, write_labels};
///
/// # let root = tempfile::tempdir()?;
/// # for folder in ["images", "labels"] { std::fs::create_dir(root.path().join(folder))?; }
/// # write_image(root.path().join("images/a.png"), &image::DynamicImage::new_rgb8(4, 4))?;
/// # write_labels(root.path().join("labels/a.png"), &LabelMap::filled(4, 4, 1))?;
/// let dataset = FolderDataset::open(root.path(), &Classes::binary(), FolderOptions::default())?;
/// assert_eq!((dataset.image_count(), dataset.fingerprint()?.len()), (1, 64));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait ImageFiles: Sync {
    /// Number of images.
    fn image_count(&self) -> usize;

    /// File of an image.
    ///
    /// # Panics
    /// If `index` is past the end.
    fn image_path(&self, index: usize) -> &Path;

    /// Reads an image with the facts of its file, and checks its target.
    ///
    /// # Errors
    /// As the data set's `get`.
    fn read_image(&self, index: usize) -> Result<(Image, FileFacts)>;

    /// [`read_image`](Self::read_image), and whether the target has anything but background; true where that cannot be said.
    ///
    /// # Errors
    /// As [`read_image`](Self::read_image).
    fn read_with_target(&self, index: usize) -> Result<(Image, FileFacts, bool)> {
        self.read_image(index).map(|(image, facts)| (image, facts, true))
    }

    /// SHA-256 of the names, the sizes of all files and the annotated objects, in hexadecimal digits: it tells whether a
    /// training goes on with the data that it began with.
    ///
    /// # Errors
    /// If a file is no longer there.
    fn fingerprint(&self) -> Result<String>;
}

pub(crate) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds the size of a file.
pub(crate) fn add_file(hash: &mut Sha256, path: &Path) -> Result<()> {
    let meta = std::fs::metadata(path).map_err(|source| DataError::io("read", path, source))?;
    hash.update([0]);
    hash.update(meta.len().to_le_bytes());
    Ok(())
}

fn add_objects(hash: &mut Sha256, instances: &Instances) {
    hash.update([instances.width(), instances.height()].map(u32::to_le_bytes).as_flattened());
    for instance in instances.as_slice() {
        hash.update([1, instance.crowd.into(), instance.difficult.into()]);
        hash.update(instance.label().to_le_bytes());
        hash.update(instance.bbox.xyxy().map(f64::to_le_bytes).as_flattened());
        for count in instance.mask.iter().flat_map(|mask| mask.counts()) {
            hash.update(count.to_le_bytes());
        }
    }
}

impl ImageFiles for Pairs {
    fn image_count(&self) -> usize {
        self.pairs.len()
    }

    fn image_path(&self, index: usize) -> &Path {
        &self.pairs[index].image
    }

    fn read_image(&self, index: usize) -> Result<(Image, FileFacts)> {
        self.read(index).map(|(sample, facts)| (sample.image, facts))
    }

    fn read_with_target(&self, index: usize) -> Result<(Image, FileFacts, bool)> {
        let (Sample { image, target, .. }, facts) = self.read(index)?;
        let void = self.classes.ignore_index();
        let has_target = target.as_slice().iter().any(|label| *label != 0 && Some(*label) != void);
        Ok((image, facts, has_target))
    }

    fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for pair in &self.pairs {
            hash.update(pair.name.as_bytes());
            add_file(&mut hash, &pair.image)?;
            add_file(&mut hash, &pair.mask)?;
        }
        Ok(hexadecimal(hash))
    }
}

impl ImageFiles for DetectionDataset {
    fn image_count(&self) -> usize {
        self.entries().len()
    }

    fn image_path(&self, index: usize) -> &Path {
        &self.entries()[index].image
    }

    fn read_image(&self, index: usize) -> Result<(Image, FileFacts)> {
        self.read(index)
    }

    fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for name in self.classes().names() {
            hash.update(name.as_bytes());
            hash.update([0]);
        }
        for entry in self.entries() {
            hash.update(entry.name.as_bytes());
            add_file(&mut hash, &entry.image)?;
            add_objects(&mut hash, &entry.instances);
        }
        Ok(hexadecimal(hash))
    }
}

macro_rules! image_files {
    ($($set:ident . $field:tt),+ $(,)?) => {$(
        impl ImageFiles for $set {
            fn image_count(&self) -> usize {
                self.$field.image_count()
            }

            fn image_path(&self, index: usize) -> &Path {
                self.$field.image_path(index)
            }

            fn read_image(&self, index: usize) -> Result<(Image, FileFacts)> {
                self.$field.read_image(index)
            }

            fn read_with_target(&self, index: usize) -> Result<(Image, FileFacts, bool)> {
                self.$field.read_with_target(index)
            }

            fn fingerprint(&self) -> Result<String> {
                self.$field.fingerprint()
            }
        }
    )+};
}

image_files!(FolderDataset.0, VocSegmentation.0, Cityscapes.0, Dsb2018.0, CocoDetection.dataset, VocDetection.dataset);

#[cfg(test)]
mod tests {
    use image::DynamicImage;
    use segkiln_core::{BBox, Classes, Instance};

    use super::*;
    use crate::{datasets::DetectionEntry, write_image};

    #[test]
    fn a_fingerprint_tells_names_sizes_and_objects() {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("a.bmp");
        write_image(&image, &DynamicImage::new_rgb8(8, 6)).unwrap();
        let of = |name: &str, x: f64, label: u32, crowd: bool| {
            let mut instance = Instance::new(BBox::new(x, 1.0, 5.0, 4.0).unwrap(), label).unwrap();
            instance.crowd = crowd;
            let instances = Instances::new(8, 6, vec![instance]).unwrap();
            let entry = DetectionEntry { name: name.into(), image: image.clone(), instances };
            let classes = Classes::new(["background", "a", "b"]).unwrap();
            DetectionDataset::new(vec![entry], classes).unwrap().fingerprint().unwrap()
        };
        let first = of("a", 1.0, 1, false);
        assert_eq!(of("a", 1.0, 1, false), first);
        for other in [of("b", 1.0, 1, false), of("a", 1.5, 1, false), of("a", 1.0, 2, false), of("a", 1.0, 1, true)] {
            assert_ne!(other, first);
        }
        write_image(&image, &DynamicImage::new_rgb8(8, 7)).unwrap();
        assert_ne!(of("a", 1.0, 1, false), first);
    }
}
