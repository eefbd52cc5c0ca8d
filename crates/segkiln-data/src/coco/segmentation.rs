use segkiln_core::{CoreError, Rle};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::json::{Fault, Reader};

/// The mask of an object in one of COCO's three forms, as it is in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Segmentation {
    /// Polygons of vertices `[x0, y0, x1, y1, ...]` in pixels; the object is what is within any of them.
    Polygons(Vec<Vec<f64>>),
    /// Lengths of runs, of zeros and ones in turn, column by column.
    Runs {
        /// Height and width.
        size: [u32; 2],
        /// The lengths.
        counts: Vec<u32>,
    },
    /// The same in COCO's characters.
    Compressed {
        /// Height and width.
        size: [u32; 2],
        /// The characters.
        counts: String,
    },
}

impl Segmentation {
    /// The mask on an image of `width` × `height` pixels. Polygons are filled as pycocotools fills them.
    ///
    /// # Errors
    /// [`CoreError`] if the mask is another image's by its size, has more or less pixels than that, or cannot be read;
    /// or if a polygon has less than three vertices, an odd number of values or a coordinate that is not within ±10⁸.
    pub fn to_rle(&self, width: u32, height: u32) -> Result<Rle, CoreError> {
        if let Self::Runs { size, .. } | Self::Compressed { size, .. } = self
            && *size != [height, width]
        {
            return Err(CoreError::MaskMismatch { first: [size[1], size[0]], second: [width, height] });
        }
        match self {
            Self::Polygons(polygons) => Rle::from_polygons(width, height, polygons),
            Self::Runs { counts, .. } => Rle::new(width, height, counts),
            Self::Compressed { counts, .. } => Rle::from_string(width, height, counts),
        }
    }

    /// None for an empty list, as many write who have boxes alone.
    pub(super) fn parse(reader: &mut Reader) -> Result<Option<Self>, Fault> {
        if reader.at_array() {
            let polygons = reader.list(|reader| reader.list(Reader::number))?;
            return Ok((!polygons.is_empty()).then_some(Self::Polygons(polygons)));
        }
        let (mut size, mut counts) = (None, None);
        reader.object(|reader, key| {
            match key {
                "size" => {
                    let before = reader.clone();
                    size = match reader.list(Reader::unsigned)?[..] {
                        [height, width] => Some([height, width]),
                        _ => return Err(before.fault("is not [height, width]")),
                    };
                }
                "counts" if reader.at_array() => counts = Some(Err(reader.list(Reader::unsigned)?)),
                "counts" => counts = Some(Ok(reader.string()?.into_owned())),
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        let size = super::needed(size, "size", reader)?;
        Ok(Some(match super::needed(counts, "counts", reader)? {
            Ok(counts) => Self::Compressed { size, counts },
            Err(counts) => Self::Runs { size, counts },
        }))
    }
}

impl From<&Rle> for Segmentation {
    /// Compressed.
    fn from(mask: &Rle) -> Self {
        Self::Compressed { size: [mask.height(), mask.width()], counts: mask.to_coco_string() }
    }
}

impl Serialize for Segmentation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = match self {
            Self::Polygons(polygons) => return polygons.serialize(serializer),
            Self::Runs { .. } | Self::Compressed { .. } => serializer.serialize_struct("Segmentation", 2)?,
        };
        match self {
            Self::Polygons(_) => {}
            Self::Runs { size, counts } => {
                fields.serialize_field("size", size)?;
                fields.serialize_field("counts", counts)?;
            }
            Self::Compressed { size, counts } => {
                fields.serialize_field("size", size)?;
                fields.serialize_field("counts", counts)?;
            }
        }
        fields.end()
    }
}
