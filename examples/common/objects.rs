//! Objects of class maps, and the flags of the files that are written of them.

use std::path::{Path, PathBuf};

use segkiln::{
    core::Size,
    data::{
        DataError, Limits,
        instances::{
            GeoJsonOptions, GeoJsonWriter, InstanceOptions, IntensityImage, LabelRows, Placement, WatershedOptions,
            find_objects,
        },
        regions::{GeoTags, SampleType, TiffSink, TiffSinkOptions},
    },
};

/// Flags of the files that are written of the objects.
#[derive(clap::Args)]
pub struct Objects {
    /// Number the objects of the map, in STEM_instances.tif: connected pixels of one class, which a watershed on the distance to their
    /// border splits where objects touch
    #[arg(long)]
    instances: Option<Instances>,
    /// File for the outlines and measures of the objects, as GeoJSON; of a folder of images, the folder for such files
    #[arg(long, value_name = "FILE")]
    geojson: Option<PathBuf>,
    /// Corners of the outlines nearer than this to the line without them are left out, in pixels
    #[arg(long, value_name = "PIXELS", requires = "geojson", default_value_t = 0.0, value_parser = pixels)]
    simplify: f64,
}

/// Reads a distance in pixels.
fn pixels(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(pixels) if (0.0..=1e6).contains(&pixels) => Ok(pixels),
        _ => Err("must be a number of pixels from 0 to 1,000,000".into()),
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Instances {
    Components,
    Watershed,
}

/// Files that are written of a picture's objects.
pub struct ObjectFiles {
    numbers: Option<PathBuf>,
    geojson: Option<PathBuf>,
}

impl ObjectFiles {
    pub fn paths(&self) -> Vec<PathBuf> {
        self.numbers.iter().chain(&self.geojson).cloned().collect()
    }
}

impl Objects {
    /// Returns the files of the picture `stem`, one of several or the only one.
    pub fn files(&self, stem: &str, output: &Path, many: bool) -> ObjectFiles {
        let numbers = self.instances.map(|_| output.join(format!("{stem}_instances.tif")));
        let geojson = self.geojson.as_ref().map(|path| match many {
            true => path.join(format!("{stem}.geojson")),
            false => path.clone(),
        });
        ObjectFiles { numbers, geojson }
    }

    /// Finds the objects of a map and writes them. `geo` says where the map lies; its pixels are `scale` of the picture's.
    pub fn write(
        &self,
        map: &impl LabelRows,
        picture: IntensityImage<'_>,
        (geo, scale): (GeoTags, [f64; 2]),
        names: &[String],
        limits: Limits,
        files: &ObjectFiles,
    ) -> Result<(), DataError> {
        if files.paths().is_empty() {
            return Ok(());
        }
        let Size { width, height } = map.size();
        let placement = Placement::of(&geo, scale);
        let mut numbers = match &files.numbers {
            Some(path) => {
                let samples = SampleType::U32;
                Some(TiffSink::create(path, TiffSinkOptions { width, height, bands: 1, samples, geo, identity: None })?)
            }
            None => None,
        };
        let mut geojson = match &files.geojson {
            Some(path) => {
                let options = GeoJsonOptions { placement, names: names.to_vec(), simplify: self.simplify };
                Some(GeoJsonWriter::create(path, options)?)
            }
            None => None,
        };
        let watershed = matches!(self.instances, Some(Instances::Watershed)).then(WatershedOptions::default);
        let options = InstanceOptions { watershed, limits, ..InstanceOptions::default() };
        let row = |row: &[u32]| numbers.as_mut().map_or(Ok(()), |file| file.push_labels(row));
        let found = match &mut geojson {
            Some(file) => find_objects(map, Some(picture), &options, row, Some(&mut |object| file.write(&object)))?,
            None => find_objects(map, None, &options, row, None)?,
        };
        numbers.map_or(Ok(()), TiffSink::finish)?;
        geojson.map_or(Ok(()), GeoJsonWriter::finish)?;
        eprintln!("{} objects", found.objects);
        if found.left_whole > 0 {
            eprintln!("{} of them are too large to be split", found.left_whole);
        }
        Ok(())
    }
}
