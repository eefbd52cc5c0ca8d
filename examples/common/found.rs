//! Objects that `detect` finds in a picture, read whole or by region, and their outlines in a file.

use std::path::{Path, PathBuf};

use image::DynamicImage;
use segkiln::{
    Detector, LargeDetection, PredictError,
    core::Detection,
    data::{
        DataError, DecodeOptions,
        instances::{GeoJsonOptions, GeoJsonWriter, Placement},
        read_dynamic,
        regions::{RegionSource, TiffSource},
    },
};

use crate::{
    images,
    large::{Large, Picture},
};

/// Objects of a picture.
pub struct Found {
    pub objects: Vec<LargeDetection>,
    /// The objects with masks of the picture's size.
    pub detections: Vec<Detection>,
    /// The picture, if it was read whole.
    pub image: Option<DynamicImage>,
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
        match large.source(path, decode)? {
            Some(source) => Self::by_region(detector, large, &source, tile),
            None => Self::whole(detector, path, decode),
        }
    }

    fn whole(detector: &Detector, path: &Path, decode: DecodeOptions) -> Result<Self, PredictError> {
        let image = read_dynamic(path, decode)?;
        let detections = detector.detect(&image)?;
        let objects = detections.iter().cloned().map(LargeDetection::from).collect();
        // A small scene has its place too.
        let geo = TiffSource::open(path, decode).map(|source| source.geo()).unwrap_or_default();
        Ok(Self { objects, detections, image: Some(image), placement: Placement::of(&geo, [1.0; 2]) })
    }

    fn by_region(
        detector: &Detector,
        large: &Large,
        source: &Picture,
        tile: Option<u32>,
    ) -> Result<Self, PredictError> {
        let options = large.options(source, tile, 0.25, false);
        let objects = detector.detect_large(source, &options, large.progress())?;
        let [full, level] = [source.levels()[0], source.levels()[options.level]];
        let masks = objects.iter().map(|object| object.in_picture(level.width, level.height));
        let detections = masks.collect::<Result<_, _>>().unwrap_or_else(|error| {
            eprintln!("{}: results without masks, as {error}", source.path().display());
            objects.iter().map(|object| object.detection.clone()).collect()
        });
        let scale = [f64::from(full.width) / f64::from(level.width), f64::from(full.height) / f64::from(level.height)];
        let placement = Placement::of(&source.geo().scaled(scale), scale);
        Ok(Self { objects, detections, image: None, placement })
    }

    /// Writes the objects' outlines and measures.
    pub fn write_geojson(&self, path: &Path, names: &[String]) -> Result<(), DataError> {
        let options = GeoJsonOptions { placement: self.placement, names: names.to_vec(), simplify: 0.0 };
        let mut file = GeoJsonWriter::create(path, options)?;
        for object in (1..).zip(&self.objects).filter_map(|(number, object)| object.object(number)) {
            file.write(&object)?;
        }
        file.finish()
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
