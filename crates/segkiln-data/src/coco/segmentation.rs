use std::fmt;

use segkiln_core::{CoreError, Rle};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
    ser::SerializeStruct,
};

use super::fields::Unsigned;

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

// Written out, because serde's untagged enums copy all of a mask before they look at it, and cannot say where in it
// something is wrong.
impl<'de> Deserialize<'de> for Segmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Segmentation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("polygons, or an object with size and counts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, polygons: A) -> Result<Segmentation, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(polygons)).map(Segmentation::Polygons)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Segmentation, A::Error> {
                #[derive(Deserialize)]
                struct Mask {
                    size: Vec<Unsigned>,
                    counts: Counts,
                }
                let Mask { size, counts } = Deserialize::deserialize(MapAccessDeserializer::new(fields))?;
                let [Unsigned(height), Unsigned(width)] = size[..] else {
                    return Err(A::Error::custom("`size` is not [height, width]"));
                };
                let size = [height, width];
                Ok(match counts {
                    Counts::Runs(counts) => Segmentation::Runs { size, counts },
                    Counts::Compressed(counts) => Segmentation::Compressed { size, counts },
                })
            }
        }
        deserializer.deserialize_any(Form)
    }
}

enum Counts {
    Runs(Vec<u32>),
    Compressed(String),
}

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Counts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of runs or a string")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, runs: A) -> Result<Counts, A::Error> {
                let runs = Vec::<Unsigned>::deserialize(SeqAccessDeserializer::new(runs))?;
                Ok(Counts::Runs(runs.into_iter().map(|Unsigned(run)| run).collect()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Counts, E> {
                Ok(Counts::Compressed(text.into()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Counts, E> {
                Ok(Counts::Compressed(text))
            }
        }
        deserializer.deserialize_any(Form)
    }
}
