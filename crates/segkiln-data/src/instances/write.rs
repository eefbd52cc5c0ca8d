//! Objects in files: GeoJSON, CSV, COCO's annotations. Each is written as it comes; the file has its name when it is complete.

use std::{
    io::{self, Write},
    path::Path,
};

use serde_json::{Value, json};

use segkiln_core::Size;

use super::Object;
use crate::{DataError, Result, WholeFile, coco::CocoSegmentation, regions::GeoTags};

/// Transformation from columns and rows of a map to the coordinates that outlines are written in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// `x = a · column + b · row + c`, `y = d · column + e · row + f`.
    pub transform: [f64; 6],
    /// Number of the coordinate system in EPSG's list, if the file says.
    pub epsg: Option<u16>,
}

impl Placement {
    /// The coordinates of a scene; of a picture without any the pixels of level 0, where a pixel of the map is `scale` of these wide
    /// and high. `geo` are the tags of the map, or of the picture [scaled](GeoTags::scaled) to it.
    pub fn of(geo: &GeoTags, scale: [f64; 2]) -> Self {
        let pixels = [scale[0], 0.0, 0.0, 0.0, scale[1], 0.0];
        let transform = geo.transform().filter(|transform| transform.iter().all(|value| value.is_finite()));
        Self { transform: transform.unwrap_or(pixels), epsg: geo.epsg() }
    }

    /// The coordinates of a corner.
    pub fn apply(&self, [column, row]: [u32; 2]) -> [f64; 2] {
        let [a, b, c, d, e, f] = self.transform;
        let (column, row) = (f64::from(column), f64::from(row));
        [a * column + b * row + c, d * column + e * row + f]
    }

    /// Returns true if outlines that run counterclockwise on a screen do so in the coordinates too: `y` grows upwards there.
    fn turns_over(&self) -> bool {
        let [a, b, _, d, e, _] = self.transform;
        a * e - b * d < 0.0
    }
}

/// Options of a [`GeoJsonWriter`].
#[derive(Debug, Clone, PartialEq)]
pub struct GeoJsonOptions {
    /// Coordinates of the map.
    pub placement: Placement,
    /// Names of the classes, from class 0.
    pub names: Vec<String>,
    /// Corners nearer than this to the line without them are left out, in pixels of the map; 0: none are.
    pub simplify: f64,
}

/// Writes objects as a GeoJSON `FeatureCollection` (RFC 7946), a line each: outlines with holes in the scene's coordinates, and the
/// measures in pixels as properties. Coordinates other than WGS 84 are named by a member `crs`, as GDAL and QGIS do.
#[derive(Debug)]
pub struct GeoJsonWriter {
    file: WholeFile,
    options: GeoJsonOptions,
    is_first: bool,
}

impl GeoJsonWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// [`DataError::Io`] if it cannot be written, [`DataError::Option`] if the tolerance is negative or no number.
    pub fn create(path: impl AsRef<Path>, options: GeoJsonOptions) -> Result<Self> {
        if !(options.simplify >= 0.0 && options.simplify.is_finite()) {
            return Err(DataError::option("simplify", format!("must be 0 or more pixels, not {}", options.simplify)));
        }
        let mut file = WholeFile::create(path.as_ref())?;
        let crs = options.placement.epsg.map(|epsg| {
            let name = format!("urn:ogc:def:crs:EPSG::{epsg}");
            format!("\"crs\":{},", json!({ "type": "name", "properties": { "name": name } }))
        });
        file.put(|file| write!(file, "{{\"type\":\"FeatureCollection\",{}\"features\":[", crs.unwrap_or_default()))?;
        Ok(Self { file, options, is_first: true })
    }

    /// Adds an object.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn write(&mut self, object: &Object) -> Result<()> {
        let separator = if std::mem::take(&mut self.is_first) { "\n" } else { ",\n" };
        let feature = self.feature(object);
        self.file.put(|file| write!(file, "{separator}{feature}"))
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.file.put(|file| file.write_all(b"\n]}\n"))?;
        self.file.finish()
    }

    fn feature(&self, object: &Object) -> Value {
        let GeoJsonOptions { placement, names, simplify } = &self.options;
        let ring = |ring: &Vec<[u32; 2]>| {
            let mut corners: Vec<[f64; 2]> = ring.iter().chain(ring.first()).map(|at| placement.apply(*at)).collect();
            // Outlines run counterclockwise in the coordinates.
            if !placement.turns_over() {
                corners.reverse();
            }
            corners
        };
        let polygons: Vec<Vec<Vec<[f64; 2]>>> = object
            .polygons()
            .into_iter()
            .map(|polygon| if *simplify > 0.0 { polygon.simplified(*simplify) } else { polygon })
            .map(|polygon| polygon.rings().map(ring).collect())
            .collect();
        let geometry = match &polygons[..] {
            [polygon] => json!({ "type": "Polygon", "coordinates": polygon }),
            polygons => json!({ "type": "MultiPolygon", "coordinates": polygons }),
        };
        let bbox = object.bbox();
        let mut properties = json!({
            "class": object.class,
            "area": object.area(),
            "centroid": object.centroid(),
            "perimeter": object.perimeter(),
            "bbox": [bbox.left, bbox.top, bbox.width, bbox.height],
        });
        if let Some(name) = names.get(object.class as usize) {
            properties["name"] = name.as_str().into();
        }
        if let Some(score) = object.score {
            properties["score"] = score.into();
        }
        if !object.means.is_empty() {
            properties["means"] = object.means.clone().into();
        }
        json!({ "type": "Feature", "id": object.number, "properties": properties, "geometry": geometry })
    }
}

/// Writes the measures of objects as a table with commas between its columns (RFC 4180).
#[derive(Debug)]
pub struct CsvWriter {
    file: WholeFile,
    names: Vec<String>,
    bands: usize,
}

impl CsvWriter {
    /// Begins a file; `names` are those of the classes, from class 0, `bands` how many means an object has.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn create(path: impl AsRef<Path>, names: &[String], bands: usize) -> Result<Self> {
        let mut file = WholeFile::create(path.as_ref())?;
        let means: String = (0..bands).map(|band| format!(",mean_{band}")).collect();
        file.put(|file| {
            writeln!(file, "number,class,name,area,centroid_x,centroid_y,perimeter,left,top,width,height,score{means}")
        })?;
        Ok(Self { file, names: names.to_vec(), bands })
    }

    /// Adds an object. A score and means that it does not have are left empty.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn write(&mut self, object: &Object) -> Result<()> {
        let name = self.names.get(object.class as usize).map_or("", String::as_str);
        let quoted = name.contains([',', '"', '\n', '\r']).then(|| format!("\"{}\"", name.replace('"', "\"\"")));
        let ([x, y], bbox) = (object.centroid(), object.bbox());
        let mean = |band: usize| object.means.get(band).map_or(",".into(), |mean| format!(",{mean}"));
        let means: String = (0..self.bands).map(mean).collect();
        let Object { number, class, .. } = object;
        let (name, area, perimeter) = (quoted.as_deref().unwrap_or(name), object.area(), object.perimeter());
        let place = format!("{},{},{},{}", bbox.left, bbox.top, bbox.width, bbox.height);
        let score = object.score.map(|score| score.to_string()).unwrap_or_default();
        self.file
            .put(|file| writeln!(file, "{number},{class},{name},{area},{x},{y},{perimeter},{place},{score}{means}"))
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn finish(self) -> Result<()> {
        self.file.finish()
    }
}

/// Writes objects as COCO's annotations of one picture, with masks as compressed runs, and `score` where they have one.
#[derive(Debug)]
pub struct CocoWriter {
    file: WholeFile,
    size: Size,
    is_first: bool,
}

impl CocoWriter {
    /// Begins a file for the picture `file_name` of so many pixels; `names` are those of the classes, of which class 0 is no category.
    ///
    /// # Errors
    /// [`DataError::Encode`] if the picture has 2³² pixels or more, which COCO's runs cannot count; [`DataError::Io`].
    pub fn create(path: impl AsRef<Path>, file_name: &str, size: Size, names: &[String]) -> Result<Self> {
        let path = path.as_ref();
        let Size { width, height } = size;
        if width.checked_mul(height).is_none() {
            let reason = format!("the runs of COCO cannot count {width}x{height} pixels; write GeoJSON or CSV");
            return Err(DataError::Encode { path: path.into(), reason });
        }
        let mut file = WholeFile::create(path)?;
        let images = json!([{ "id": 1, "file_name": file_name, "width": width, "height": height }]);
        let category = |(id, name): (usize, &String)| json!({ "id": id, "name": name });
        let categories: Value = names.iter().enumerate().skip(1).map(category).collect();
        file.put(|file| write!(file, "{{\"images\":{images},\n\"categories\":{categories},\n\"annotations\":["))?;
        Ok(Self { file, size, is_first: true })
    }

    /// Adds an object.
    ///
    /// # Errors
    /// [`DataError::Encode`] if it is not within the picture, [`DataError::Io`].
    pub fn write(&mut self, object: &Object) -> Result<()> {
        let separator = if std::mem::take(&mut self.is_first) { "\n" } else { ",\n" };
        let (Size { width, height }, bbox) = (self.size, object.bbox());
        if bbox.left + bbox.width > width || bbox.top + bbox.height > height {
            let reason = format!("object {} is not within {width}x{height} pixels", object.number);
            return Err(DataError::Encode { path: self.file.path().into(), reason });
        }
        let mask = object
            .to_rle(width, height)
            .map_err(|error| DataError::Encode { path: self.file.path().into(), reason: error.to_string() })?;
        let segmentation = CocoSegmentation::Compressed { size: [height, width], counts: mask.to_coco_string() };
        let mut annotation = json!({
            "id": object.number,
            "image_id": 1,
            "category_id": object.class,
            "bbox": [bbox.left, bbox.top, bbox.width, bbox.height],
            "area": object.area(),
            "segmentation": segmentation,
            "iscrowd": 0,
        });
        if let Some(score) = object.score {
            annotation["score"] = score.into();
        }
        self.file.put(|file| write!(file, "{separator}{annotation}"))
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn finish(mut self) -> Result<()> {
        self.file.put(|file| file.write_all(b"\n]}\n"))?;
        self.file.finish()
    }
}

impl WholeFile {
    fn put(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<()> {
        write(self).map_err(|error| DataError::io("write", self.path(), error))
    }
}
