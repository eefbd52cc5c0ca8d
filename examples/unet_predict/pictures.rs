//! Pictures, whole and by region.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use image::DynamicImage;
use segkiln::{
    PredictError, Seams, SegmentOptions, Segmentation, Segmenter,
    data::{
        Cleaning, ColorMode, DecodeOptions, Image, Limits,
        instances::IntensityImage,
        read_dynamic,
        regions::{MemorySource, RegionSource, TiffSource},
    },
};

use crate::{Args, common::Failure, images, large::Picture, objects::ObjectFiles};

/// Segments an image in memory, and writes its objects.
pub fn segment_whole(
    args: &Args,
    segmenter: &Segmenter,
    path: &Path,
    (options, cleaning): (&SegmentOptions, Option<&Cleaning>),
    objects: &ObjectFiles,
) -> Result<(Segmentation, DynamicImage), PredictError> {
    let decode = args.decode.options();
    let image = read_dynamic(path, decode)?;
    let mut result = segmenter.segment_with(&image, options)?;
    if let Some(cleaning) = cleaning {
        result = result.cleaned(cleaning)?;
    }
    if objects.paths().is_empty() {
        return Ok((result, image));
    }
    let color = if image.color().has_color() { ColorMode::Rgb } else { ColorMode::Gray };
    let source = MemorySource::new(Image::from_dynamic(&image, color), path);
    // A small scene has its place too.
    let geo = TiffSource::open(path, decode).map(|source| source.geo()).unwrap_or_default();
    let (names, picture) = (segmenter.classes().names(), IntensityImage { source: &source, level: 0 });
    args.objects.write(result.map(), picture, (geo, [1.0; 2]), names, decode.limits, objects)?;
    Ok((result, image))
}

/// Segments a TIFF by region, and writes the map and its objects.
pub fn segment_large(
    args: &Args,
    segmenter: &Segmenter,
    source: &Picture,
    output: &Path,
    objects: &ObjectFiles,
) -> Result<(), PredictError> {
    let options = args.large.options(source, args.tile, args.overlap, args.tta);
    match segmenter.seams(source, &options)? {
        Seams::Margin(margin) => eprintln!("tiles of {} pixels with margins of {margin}: no seams", options.tile),
        Seams::Blended => eprintln!("tiles of {} pixels, blended: outputs depend on more than a margin", options.tile),
    }
    let identity = args.large.identity(&args.model, source.path(), args.decode.options());
    let sink = segmenter.map_sink(source, output, &options, identity)?;
    if sink.rows_written() > 0 {
        eprintln!("going on after row {}", sink.rows_written());
    }
    segmenter.segment_large(source, &options, sink, args.large.progress())?;
    let limits: Limits = args.decode.options().limits;
    let map = TiffSource::open(output, DecodeOptions { limits, ..DecodeOptions::default() })?;
    let picture = IntensityImage { source, level: options.level };
    let [full, level] = [source.levels()[0], source.levels()[options.level]];
    let scale = [f64::from(full.width) / f64::from(level.width), f64::from(full.height) / f64::from(level.height)];
    Ok(args.objects.write(&map, picture, (map.geo(), scale), segmenter.classes().names(), limits, objects)?)
}

/// Returns the images by the name of their results, which must differ.
pub fn inputs(input: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut images: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in images::images(input)? {
        let stem = images::stem(&path);
        if let Some(other) = images.insert(stem.clone(), path.clone()) {
            let (one, two) = (other.display(), path.display());
            return Err(format!("{one} and {two} would both be written to {stem}.png; rename one").into());
        }
    }
    for stem in images.keys() {
        if let Some(other) = stem.strip_suffix("_overlay").and_then(|other| images.get(other)) {
            return Err(format!("the overlay of {} would overwrite {stem}.png; rename one", other.display()).into());
        }
    }
    Ok(images)
}
