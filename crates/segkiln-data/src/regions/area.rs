//! The part of a picture that is looked at: tissue of a slide, the parcels of a scene.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use segkiln_core::{LabelMap, Size};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{GeoTags, Level, Region, RegionPixels, RegionSource, edges::Edges};
use crate::{DataError, Limits, MaskFormat, Result, read_labels, text};

/// A part of a picture, of any shape. Copies share it.
#[derive(Debug, Clone, PartialEq)]
pub struct Area(Arc<Shape>);

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    /// Of the whole picture, at any resolution; labels other than 0 are of the area.
    Mask(LabelMap),
    /// In pixels of level 0, counted from the corner of the first.
    Polygons(Edges),
}

impl Area {
    /// Pixels other than 0 of a mask of the whole picture, at any resolution.
    ///
    /// # Errors
    /// [`DataError::Option`] if the mask has no pixels.
    pub fn of_mask(mask: LabelMap) -> Result<Self> {
        if mask.as_slice().is_empty() {
            return Err(DataError::option("mask", "it has no pixels"));
        }
        Ok(Self(Arc::new(Shape::Mask(mask))))
    }

    /// Reads the mask of a whole picture, at any resolution: an image whose pixels other than 0 are of the area.
    ///
    /// # Errors
    /// Those of [`read_labels`].
    pub fn read_mask(path: impl AsRef<Path>, limits: Limits) -> Result<Self> {
        Self::of_mask(read_labels(path, &MaskFormat::Binary, &limits)?)
    }

    /// Reads polygons of a GeoJSON file (RFC 7946), in the coordinates of the scene, or in pixels of level 0 if the picture has no
    /// place on the earth.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Json`] with the place in the file, [`DataError::Decode`] if a polygon is none, or none meets the
    /// picture.
    pub fn read_geojson(path: impl AsRef<Path>, source: &impl RegionSource) -> Result<Self> {
        ScenePolygons::read(path)?.area(source)
    }

    /// Whether a rectangle, `[left, top, right, bottom]` in pixels of level 0, has points of the area in it.
    pub fn touches(&self, rectangle: [f64; 4], picture: Size) -> bool {
        match &*self.0 {
            Shape::Mask(mask) => {
                // Products of fractions may be a little more than the whole numbers that they are.
                const ROUNDING: f64 = 1e-6;
                let span = |from: f64, to: f64, pixels: u32, mask: u32| {
                    let scale = f64::from(mask) / f64::from(pixels.max(1));
                    let end = ((to * scale - ROUNDING).ceil() as usize).min(mask as usize);
                    // Beyond the picture, and of less than the rounding, there is nothing.
                    ((from * scale + ROUNDING) as usize).min(end)..end
                };
                let [left, top, right, bottom] = rectangle;
                let columns = span(left, right, picture.width, mask.width());
                let width = mask.width() as usize;
                span(top, bottom, picture.height, mask.height())
                    .any(|y| mask.as_slice()[y * width..][columns.clone()].iter().any(|label| *label > 0))
            }
            Shape::Polygons(edges) => edges.touch(rectangle),
        }
    }
}

/// Polygons of a file, in the coordinates of a scene: one file may be of many pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct ScenePolygons {
    path: PathBuf,
    polygons: Vec<Rings>,
}

impl ScenePolygons {
    /// Reads a GeoJSON file (RFC 7946).
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Json`] with the place in the file, [`DataError::Decode`] if a polygon is none.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = text::read_bytes(path, MOST_BYTES)?;
        let bytes = text::without_mark(&bytes).ok_or_else(|| refused(path, "it is damaged UTF-16".into()))?;
        let file: GeoJson = serde_json::from_slice(&bytes).map_err(|error| DataError::Json {
            path: path.into(),
            line: error.line(),
            column: error.column(),
            reason: error.to_string(),
        })?;
        let mut polygons = Vec::new();
        file.collect(&mut polygons).map_err(|reason| refused(path, reason))?;
        Ok(Self { path: path.into(), polygons })
    }

    /// The area of a picture by its place, or in pixels of level 0 if it has none.
    ///
    /// # Errors
    /// [`DataError::Decode`] if a point has less than two coordinates, or no polygon meets the picture.
    pub fn area(&self, source: &impl RegionSource) -> Result<Area> {
        let refused = |reason: String| refused(&self.path, reason);
        let geo = source.geo();
        let to_pixels = inverse(&geo).ok_or_else(|| refused("the picture's transformation has no inverse".into()))?;
        let polygons: Option<Vec<_>> = self.polygons.iter().map(|rings| polygon(rings, to_pixels)).collect();
        let polygons =
            polygons.ok_or_else(|| refused("a point of its polygons has less than two coordinates".into()))?;
        let Level { width, height, .. } = source.levels()[0];
        let picture = [0.0, 0.0, width.into(), height.into()];
        let area = Area(Arc::new(Shape::Polygons(Edges::of(polygons))));
        if !area.touches(picture, Size { width, height }) {
            let system = match (geo.transform(), geo.epsg()) {
                (None, _) => "pixels of level 0".into(),
                (_, None) => "the scene's system".into(),
                (_, Some(epsg)) => format!("EPSG:{epsg}"),
            };
            let count = self.polygons.len();
            return Err(refused(format!(
                "none of its {count} polygons meets the picture; coordinates are in {system}"
            )));
        }
        Ok(area)
    }
}

fn refused(path: &Path, reason: String) -> DataError {
    DataError::Decode { path: path.into(), format: "GeoJSON", reason }
}

/// Largest file of polygons.
const MOST_BYTES: u64 = 1 << 30;

/// An object of GeoJSON, of whatever type.
#[derive(Deserialize)]
struct GeoJson {
    #[serde(rename = "type")]
    kind: String,
    features: Option<Vec<GeoJson>>,
    geometry: Option<Box<GeoJson>>,
    geometries: Option<Vec<GeoJson>>,
    coordinates: Option<Box<RawValue>>,
}

/// Rings of points with two coordinates or more.
type Rings = Vec<Vec<Vec<f64>>>;

impl GeoJson {
    /// Adds the polygons within; points and lines have no area.
    fn collect(self, polygons: &mut Vec<Rings>) -> std::result::Result<(), String> {
        let parts = self.features.into_iter().chain(self.geometries).flatten().chain(self.geometry.map(|part| *part));
        for part in parts {
            part.collect(polygons)?;
        }
        let number = polygons.len() + 1;
        let text = self.coordinates.as_deref().map_or("null", RawValue::get);
        let wrong = |error: serde_json::Error| format!("polygon {number} of it has no valid coordinates: {error}");
        match &*self.kind {
            "Polygon" => polygons.push(serde_json::from_str(text).map_err(wrong)?),
            "MultiPolygon" => polygons.extend(serde_json::from_str::<Vec<Rings>>(text).map_err(wrong)?),
            _ => {}
        }
        Ok(())
    }
}

/// From the scene's coordinates to pixels.
fn inverse(geo: &GeoTags) -> Option<[f64; 6]> {
    let [a, b, c, d, e, f] = geo.transform().unwrap_or([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let determinant = a * e - b * d;
    let [a, b, d, e] = [e, -b, -d, a].map(|value| value / determinant);
    let inverse = [a, b, -(a * c + b * f), d, e, -(d * c + e * f)];
    inverse.iter().all(|value| value.is_finite()).then_some(inverse)
}

/// The rings of a polygon in pixels; none if a point has less than two coordinates.
fn polygon(rings: &Rings, [a, b, c, d, e, f]: [f64; 6]) -> Option<Vec<Vec<[f64; 2]>>> {
    let point = |point: &Vec<f64>| match point[..] {
        [x, y, ..] => Some([a * x + b * y + c, d * x + e * y + f]),
        _ => None,
    };
    rings.iter().map(|ring| ring.iter().map(point).collect()).collect()
}

/// A picture of which only an area is looked at: [`RegionSource::is_wanted`] says no where a region does not touch it. Of several
/// areas what all have in common.
#[derive(Debug)]
pub struct SelectedSource<S> {
    source: S,
    areas: Vec<Area>,
}

impl<S: RegionSource> SelectedSource<S> {
    /// Selects what all areas touch, of none all.
    pub fn new(source: S, areas: Vec<Area>) -> Self {
        Self { source, areas }
    }
}

impl<S: RegionSource> RegionSource for SelectedSource<S> {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn levels(&self) -> &[Level] {
        self.source.levels()
    }

    fn bands(&self) -> usize {
        self.source.bands()
    }

    fn geo(&self) -> GeoTags {
        self.source.geo()
    }

    fn read(&self, level: usize, region: Region) -> Result<RegionPixels> {
        self.source.read(level, region)
    }

    fn is_wanted(&self, level: usize, region: Region) -> bool {
        let Some(size) = self.levels().get(level).map(Level::size) else { return true };
        let full = self.levels()[0].size();
        let scale = [f64::from(full.width) / f64::from(size.width), f64::from(full.height) / f64::from(size.height)];
        let [left, top] = [f64::from(region.left) * scale[0], f64::from(region.top) * scale[1]];
        let [width, height] = [f64::from(region.width) * scale[0], f64::from(region.height) * scale[1]];
        let rectangle = [left, top, left + width, top + height];
        self.source.is_wanted(level, region) && self.areas.iter().all(|area| area.touches(rectangle, full))
    }
}
