//! Tags of a TIFF that say where its pixels lie.

/// Value of a tag.
#[derive(Debug, Clone, PartialEq)]
pub enum TagValue {
    /// Text.
    Ascii(String),
    /// Unsigned integers of 16 bits.
    Shorts(Vec<u16>),
    /// Fractions of unsigned integers of 32 bits.
    Rationals(Vec<[u32; 2]>),
    /// Floats of 64 bits.
    Doubles(Vec<f64>),
}

/// Place of a picture: the tags of GeoTIFF 1.1 (OGC 19-008) and the resolution of TIFF 6.0, as they are in the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GeoTags {
    /// Values by the number of the tag.
    pub(super) tags: Vec<(u16, TagValue)>,
}

/// Size of a pixel in the coordinates of the scene: `[x, y, z]`.
pub(super) const PIXEL_SCALE: u16 = 33_550;
/// Pairs of a place in the raster and a place in the scene: `[i, j, k, x, y, z]` each.
pub(super) const TIE_POINTS: u16 = 33_922;
/// Affine transformation from raster to scene, 4×4, row by row.
pub(super) const TRANSFORMATION: u16 = 34_264;
/// Keys of the coordinate system, four numbers each: key, place of the value (0: here), count, value.
const KEYS: u16 = 34_735;
/// Key: whether a place of the raster is a pixel's corner (1) or its middle (2).
const RASTER_TYPE: u16 = 1025;
/// Keys: number of a projected and of a geographic coordinate system in EPSG's list.
const SYSTEMS: [u16; 2] = [3072, 2048];
/// Pixels a unit, across and down.
const RESOLUTION: [u16; 2] = [282, 283];
/// 1: none, 2: inch, 3: centimeter.
const RESOLUTION_UNIT: u16 = 296;

/// Pixels an inch of screens.
const SCREENS: [f64; 2] = [72.0, 96.0];

impl GeoTags {
    /// The tags that are carried over: pixel scale, tie points, transformation, the coordinate system's keys, and the resolution.
    pub(super) const KNOWN: [u16; 9] =
        [RESOLUTION[0], RESOLUTION[1], RESOLUTION_UNIT, PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, KEYS, 34_736, 34_737];

    /// Tags by their numbers.
    pub fn of(tags: Vec<(u16, TagValue)>) -> Self {
        Self { tags }
    }

    /// Value of a tag by its number.
    pub fn get(&self, tag: u16) -> Option<&TagValue> {
        self.tags.iter().find(|(known, _)| *known == tag).map(|(_, value)| value)
    }

    fn doubles(&self, tag: u16) -> Option<&[f64]> {
        match self.get(tag)? {
            TagValue::Doubles(values) => Some(values),
            _ => None,
        }
    }

    /// Value of a key of the coordinate system.
    fn key(&self, key: u16) -> Option<u16> {
        let Some(TagValue::Shorts(keys)) = self.get(KEYS) else { return None };
        keys.as_chunks::<4>().0.iter().skip(1).find(|entry| entry[0] == key && entry[1] == 0).map(|entry| entry[3])
    }

    /// Number of the coordinate system in EPSG's list, if it has one.
    pub fn epsg(&self) -> Option<u16> {
        // From 32,767 on are the user's own.
        SYSTEMS.into_iter().find_map(|key| self.key(key)).filter(|epsg| (1024..32_767).contains(epsg))
    }

    /// Distance of a raster's whole numbers from a pixel's corner, across and down: none, or half a pixel.
    fn offset(&self) -> f64 {
        if self.key(RASTER_TYPE) == Some(2) { 0.5 } else { 0.0 }
    }

    /// The affine transformation from columns and rows, counted from the corner of the first pixel, to the scene's coordinates, as
    /// rasterio and GDAL have it: `x = a · column + b · row + c`, `y = d · column + e · row + f`. None if the file has none.
    pub fn transform(&self) -> Option<[f64; 6]> {
        let offset = self.offset();
        if let Some(matrix) = self.doubles(TRANSFORMATION)
            && let [a, b, _, c, d, e, _, f, ..] = matrix
        {
            return Some([*a, *b, c - offset * (a + b), *d, *e, f - offset * (d + e)]);
        }
        let (scale, tie) = (self.doubles(PIXEL_SCALE)?, self.doubles(TIE_POINTS)?);
        let ([sx, sy, ..], [i, j, _, x, y, ..]) = (scale, tie) else { return None };
        Some([*sx, 0.0, x - (i + offset) * sx, 0.0, -sy, y + (j + offset) * sy])
    }

    /// Micrometers a pixel, across and down: from the description of a slide ([OME-XML](https://docs.openmicroscopy.org), Aperio), or
    /// where the resolution has a unit. 72 and 96 pixels an inch are a screen's, which programs write where they know of none: none.
    pub fn microns_per_pixel(&self) -> Option<[f64; 2]> {
        let unit = match self.get(RESOLUTION_UNIT) {
            Some(TagValue::Shorts(unit)) if unit.first() == Some(&3) => 10_000.0,
            Some(TagValue::Shorts(unit)) if unit.first() == Some(&2) => 25_400.0,
            _ => return None,
        };
        let axis = |tag| match self.get(tag)? {
            TagValue::Rationals(values) => {
                let [numerator, denominator] = *values.first()?;
                let pixels = f64::from(numerator) / f64::from(denominator);
                (pixels.is_finite() && pixels > 0.0).then(|| unit / pixels)
            }
            _ => None,
        };
        let microns = [axis(RESOLUTION[0])?, axis(RESOLUTION[1])?];
        let is_screen = |pixels: f64| microns.iter().all(|microns| (microns * pixels / 25_400.0 - 1.0).abs() < 1e-3);
        (!SCREENS.into_iter().any(is_screen)).then_some(microns)
    }

    /// Puts the size of a slide's pixels into the tags of the resolution: what the description says is more exact, and often the only
    /// place.
    pub(super) fn describe(&mut self, description: &str) {
        let Some(microns) = described(description) else { return };
        let pixels = microns.map(|microns| 10_000.0 / microns);
        if !pixels.iter().all(|pixels| (0.01..4e6).contains(pixels)) {
            return;
        }
        self.tags.retain(|(tag, _)| !RESOLUTION.contains(tag) && *tag != RESOLUTION_UNIT);
        for (tag, pixels) in RESOLUTION.into_iter().zip(pixels) {
            self.tags.push((tag, TagValue::Rationals(vec![[(1000.0 * pixels).round() as u32, 1000]])));
        }
        self.tags.push((RESOLUTION_UNIT, TagValue::Shorts(vec![3])));
    }

    /// The tags of a picture whose pixels are `scale` times as wide and high.
    #[must_use]
    pub fn scaled(&self, scale: [f64; 2]) -> Self {
        let (mut tags, offset) = (self.tags.clone(), self.offset());
        for (tag, value) in &mut tags {
            match (*tag, value) {
                (PIXEL_SCALE, TagValue::Doubles(values)) => {
                    values.iter_mut().zip(scale).for_each(|(value, scale)| *value *= scale);
                }
                (TIE_POINTS, TagValue::Doubles(values)) => {
                    for point in values.chunks_mut(6) {
                        let places = point.iter_mut().zip(scale);
                        places.for_each(|(value, scale)| *value = (*value + offset) / scale - offset);
                    }
                }
                (TRANSFORMATION, TagValue::Doubles(values)) => {
                    for row in values.as_chunks_mut::<4>().0 {
                        row[3] += offset * ((scale[0] - 1.0) * row[0] + (scale[1] - 1.0) * row[1]);
                        row.iter_mut().zip(scale).for_each(|(value, scale)| *value *= scale);
                    }
                }
                (tag, TagValue::Rationals(values)) if RESOLUTION.contains(&tag) => {
                    let scale = scale[usize::from(tag == RESOLUTION[1])];
                    for [numerator, denominator] in values {
                        let pixels = f64::from(*numerator) / f64::from(*denominator) / scale;
                        if pixels.is_finite() && (0.0..4e6).contains(&pixels) {
                            [*numerator, *denominator] = [(pixels * 1000.0).round() as u32, 1000];
                        }
                    }
                }
                _ => {}
            }
        }
        Self { tags }
    }
}

/// Micrometers a pixel, across and down, that a description says.
fn described(description: &str) -> Option<[f64; 2]> {
    if let Some(rest) = description.split("MPP = ").nth(1).filter(|_| description.starts_with("Aperio")) {
        let number = rest.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?;
        return number.parse().ok().map(|microns| [microns; 2]);
    }
    if !description.contains("PhysicalSizeX") {
        return None;
    }
    // Without a DTD there is nothing that grows.
    let document = roxmltree::Document::parse(description.trim_end_matches('\0')).ok()?;
    let pixels = document.descendants().find(|node| node.tag_name().name() == "Pixels")?;
    let size = |axis: &str| {
        let value: f64 = pixels.attribute(format!("PhysicalSize{axis}").as_str())?.parse().ok()?;
        let unit = match pixels.attribute(format!("PhysicalSize{axis}Unit").as_str()).unwrap_or("µm") {
            // The letter and the sign.
            "µm" | "μm" => 1.0,
            "nm" => 1e-3,
            "mm" => 1e3,
            "cm" => 1e4,
            _ => return None,
        };
        Some(value * unit)
    };
    Some([size("X")?, size("Y")?])
}
