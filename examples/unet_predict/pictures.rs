//! Pictures, whole and by region.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use image::DynamicImage;
use segkiln::{
    LargeOptions, PredictError, Seams, SegmentOptions, Segmentation, Segmenter,
    data::{
        Cleaning, ColorMode, DataError, DecodeOptions, Image, Limits,
        instances::IntensityImage,
        read_dynamic,
        regions::{MemorySource, RegionSource, RowSink, TiffSource},
    },
};

use crate::{
    Args,
    common::Failure,
    images,
    large::{Flag, Large, Picture},
    objects::ObjectFiles,
};

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

/// Flags of what is written of pictures that are read by region.
#[derive(clap::Args)]
pub struct Results {
    /// Level of a TIFF that the results have the size of, whatever is read [default: what is read]
    #[arg(long, value_name = "N")]
    result_level: Option<usize>,
    /// Write the probabilities of a TIFF, a band a class, as STEM_probabilities.tif
    #[arg(long)]
    probabilities: bool,
}

impl Results {
    /// The picture, if it is one to be read by region.
    pub fn source(&self, large: &Large, path: &Path, decode: DecodeOptions) -> Result<Option<Picture>, DataError> {
        large.source(path, decode, &self.flags())
    }

    /// Whether the picture is none to be read by region, and nothing that is asked for needs that.
    pub fn is_read_whole(&self, large: &Large, path: &Path, decode: DecodeOptions) -> bool {
        large.is_read_whole(path, decode, &self.flags())
    }

    fn flags(&self) -> [Flag; 2] {
        [("result-level", self.result_level.is_some()), ("probabilities", self.probabilities)]
    }

    /// The files of a picture's map and of its probabilities.
    pub fn files(&self, stem: &str, folder: &Path) -> Vec<PathBuf> {
        let ends = [".tif", "_probabilities.tif"];
        ends[..1 + usize::from(self.probabilities)].iter().map(|end| folder.join(format!("{stem}{end}"))).collect()
    }
}

/// Segments a TIFF by region, and writes the map, the probabilities and the objects.
pub fn segment_large(
    args: &Args,
    segmenter: &Segmenter,
    source: &Picture,
    outputs: &[PathBuf],
    cleaning: Option<&Cleaning>,
    objects: &ObjectFiles,
) -> Result<(), PredictError> {
    let options = args.large.options(source, args.tile, args.overlap, args.tta);
    let result = LargeOptions { result_level: args.results.result_level, ..options.clone() };
    match segmenter.seams(source, &result)? {
        Seams::Margin(margin) => eprintln!("tiles of {} pixels with margins of {margin}: no seams", options.tile),
        Seams::Blended => eprintln!("tiles of {} pixels, blended: outputs depend on more than a margin", options.tile),
    }
    let output = &outputs[0];
    let identity = args.large.identity(&args.model, source.path(), args.decode.options());
    // A map that is cleaned is written as it is before, with the pixels that were looked at.
    let uncleaned = output.with_extension("uncleaned.tif");
    let sink = match cleaning {
        Some(_) => segmenter.map_sink(source, &uncleaned, &options, identity.clone())?,
        None => segmenter.map_sink(source, output, &result, identity.clone())?,
    };
    let probabilities = outputs.get(1).map(|path| segmenter.probability_sink(source, path, &result, identity));
    let sinks = (sink, probabilities.transpose()?);
    if sinks.rows_written() > 0 {
        eprintln!("going on after row {}", sinks.rows_written());
    }
    segmenter.segment_large(source, &result, sinks, args.large.progress())?;
    let limits: Limits = args.decode.options().limits;
    let open = |path: &Path| TiffSource::open(path, DecodeOptions { limits, ..DecodeOptions::default() });
    if let Some(cleaning) = cleaning {
        let sink = segmenter.map_sink(source, output, &result, None)?;
        segmenter.clean_large(cleaning, &open(&uncleaned)?, output, &limits, sink)?;
        // Nothing reads it any more.
        let _ = fs::remove_file(&uncleaned);
    }
    let (map, level) = (open(output)?, result.result_level.unwrap_or(result.level));
    let picture = IntensityImage { source, level };
    let [full, level] = [source.levels()[0], source.levels()[level]];
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
