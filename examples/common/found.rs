//! Objects that `detect` finds in a picture, read whole or by region, and their outlines in a file.

use std::path::{Path, PathBuf};

use image::DynamicImage;
use segkiln::{
    Detector, LargeDetection, PredictError,
    core::{CoreError, Detection, Size},
    data::{
        DecodeOptions,
        instances::{GeoJsonOptions, GeoJsonWriter, Placement},
        read_dynamic,
        regions::{RegionSource, TiffSource},
    },
};

use crate::{
    images,
    large::{Large, Picture, WHOLE},
};

/// Objects of a picture.
pub struct Found {
    /// The objects in pixels of the level that was looked at.
    objects: Vec<LargeDetection>,
    /// The objects in the picture's pixels, with masks of its size.
    pub detections: Vec<Detection>,
    /// The picture, if it is not too large to be drawn.
    pub image: Option<DynamicImage>,
    /// Sizes of the level and of the picture.
    sizes: [Size; 2],
    placement: Placement,
}

impl Found {
    /// Finds the objects of a picture.
    pub fn of(
        path: &Path,
        detector: &Detector,
        large: &Large,
        tile: Option<u32>,
        decode: DecodeOptions,
    ) -> Result<Self, PredictError> {
        match large.source(path, decode, &[])? {
            Some(source) => Self::by_region(detector, large, &source, tile, decode),
            None => Self::whole(detector, path, decode),
        }
    }

    fn whole(detector: &Detector, path: &Path, decode: DecodeOptions) -> Result<Self, PredictError> {
        let image = read_dynamic(path, decode)?;
        let detections = detector.detect(&image)?;
        let objects = detections.iter().cloned().map(LargeDetection::from).collect();
        // A small scene has its place too.
        let geo = TiffSource::open(path, decode).map(|source| source.geo()).unwrap_or_default();
        let placement = Placement::of(&geo, [1.0; 2]);
        let sizes = [Size::from((image.width(), image.height())); 2];
        Ok(Self { objects, detections, image: Some(image), sizes, placement })
    }

    fn by_region(
        detector: &Detector,
        large: &Large,
        source: &Picture,
        tile: Option<u32>,
        decode: DecodeOptions,
    ) -> Result<Self, PredictError> {
        let options = large.options(source, tile, 0.25, false);
        let objects = detector.detect_large(source, &options, large.progress())?;
        let [level, full] = [options.level, 0].map(|level| source.levels()[level].size());
        let resized = |object: &LargeDetection| object.resized(level, full);
        let masks = objects.iter().map(|object| resized(object)?.in_picture(full.width, full.height));
        let detections = masks.collect::<Result<_, _>>().or_else(|error| {
            eprintln!("{}: results without masks, as {error}", source.path().display());
            objects.iter().map(|object| Ok(resized(object)?.detection)).collect::<Result<_, _>>()
        });
        let detections = detections.map_err(|error: CoreError| PredictError::Detection(error.into()))?;
        let is_small = u64::from(full.width) * u64::from(full.height) <= WHOLE;
        // What can only be read by region is not drawn.
        let image = is_small.then(|| read_dynamic(source.path(), decode).ok()).flatten();
        let placement = Placement::of(&source.geo(), [1.0; 2]);
        Ok(Self { objects, detections, image, sizes: [level, full], placement })
    }

    /// Writes the objects' outlines and measures, in the picture's pixels.
    pub fn write_geojson(&self, path: &Path, names: &[String]) -> Result<(), PredictError> {
        let options = GeoJsonOptions { placement: self.placement, names: names.to_vec(), simplify: 0.0 };
        let mut file = GeoJsonWriter::create(path, options)?;
        let [level, full] = self.sizes;
        for (number, object) in (1..).zip(&self.objects) {
            // One at a time, as masks of fine levels are large.
            let object = object.resized(level, full).map_err(|error| PredictError::Detection(error.into()))?;
            if let Some(object) = object.object(number) {
                file.write(&object)?;
            }
        }
        Ok(file.finish()?)
    }

    /// Returns how many objects of each class there are, in words.
    pub fn summary(&self, detector: &Detector) -> String {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for detection in &self.detections {
            let name = detector.name(detection);
            match counts.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        let parts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
        if parts.is_empty() { "nothing found".into() } else { parts.join(", ") }
    }
}

/// Returns the file of a picture's result: `target`, or a file in that folder where there are many pictures.
pub fn file_of(target: Option<&PathBuf>, many: bool, picture: &Path, extension: &str) -> Option<PathBuf> {
    let target = target?;
    Some(if many { target.join(format!("{}.{extension}", images::stem(picture))) } else { target.clone() })
}
