use std::fmt;

use segkiln_core::{CoreError, Rle, Size};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
    ser::SerializeStruct,
};

use super::fields::Unsigned;

/// The mask of an object in one of COCO's three forms, as it is in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum CocoSegmentation {
    /// Polygons of vertices `[x0, y0, x1, y1, ...]` in pixels; the object is what is within any of them.
    Polygons(Vec<Vec<f64>>),
    /// Lengths of runs, of zeros and ones in turn, column by column.
    Runs {
        /// Height and width.
        size: [u32; 2],
        /// The lengths.
        counts: Vec<u32>,
    },
    /// Run lengths in COCO's compressed string encoding.
    Compressed {
        /// Height and width.
        size: [u32; 2],
        /// Encoded run lengths.
        counts: String,
    },
    /// A list that is none of these, which matters only where masks are wanted.
    Unknown,
}

impl CocoSegmentation {
    /// The mask on an image of `width` × `height` pixels. Polygons are filled as pycocotools fills them; of several, those
    /// with less than three vertices enclose nothing and are left out.
    ///
    /// # Errors
    /// [`CoreError`] if the mask is another image's by its size, has more or less pixels than that, or cannot be read;
    /// or if a polygon has an odd number of values or a coordinate that is not within ±10⁸, or none has three vertices.
    pub fn to_rle(&self, width: u32, height: u32) -> Result<Rle, CoreError> {
        if let Self::Runs { size, .. } | Self::Compressed { size, .. } = self
            && *size != [height, width]
        {
            let (first, second) = (Size { width: size[1], height: size[0] }, Size { width, height });
            return Err(CoreError::MaskMismatch { first, second });
        }
        match self {
            Self::Polygons(polygons) => match self.degenerate_parts() {
                parts if parts == polygons.len() || parts == 0 => Rle::from_polygons(width, height, polygons),
                _ => {
                    let whole: Vec<&[f64]> =
                        polygons.iter().map(Vec::as_slice).filter(|polygon| !is_degenerate(polygon)).collect();
                    Rle::from_polygons(width, height, &whole)
                }
            },
            Self::Unknown => Err(CoreError::MaskForm),
            Self::Runs { counts, .. } => Rle::new(width, height, counts),
            Self::Compressed { counts, .. } => Rle::from_string(width, height, counts),
        }
    }
}

impl CocoSegmentation {
    /// Number of polygons with less than three vertices.
    pub fn degenerate_parts(&self) -> usize {
        match self {
            Self::Polygons(polygons) => polygons.iter().filter(|polygon| is_degenerate(polygon)).count(),
            _ => 0,
        }
    }
}

fn is_degenerate(polygon: &[f64]) -> bool {
    polygon.len() < 6 && polygon.len().is_multiple_of(2)
}

impl From<&Rle> for CocoSegmentation {
    /// Compressed.
    fn from(mask: &Rle) -> Self {
        Self::Compressed { size: [mask.height(), mask.width()], counts: mask.to_coco_string() }
    }
}

impl Serialize for CocoSegmentation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = match self {
            Self::Polygons(polygons) => return polygons.serialize(serializer),
            Self::Unknown => return serializer.serialize_none(),
            Self::Runs { .. } | Self::Compressed { .. } => serializer.serialize_struct("CocoSegmentation", 2)?,
        };
        match self {
            Self::Polygons(_) | Self::Unknown => {}
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
impl<'de> Deserialize<'de> for CocoSegmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = CocoSegmentation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("polygons, or an object with size and counts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, polygons: A) -> Result<CocoSegmentation, A::Error> {
                let List { numbers, lists, other } = Deserialize::deserialize(SeqAccessDeserializer::new(polygons))?;
                let polygons = match (numbers.is_empty(), lists.is_empty(), other) {
                    (true, _, false) => polygons_of(lists),
                    // One polygon without the list around it.
                    (false, true, false) => Some(vec![numbers]),
                    _ => None,
                };
                Ok(polygons.map_or(CocoSegmentation::Unknown, CocoSegmentation::Polygons))
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<CocoSegmentation, A::Error> {
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
                    Counts::Runs(counts) => CocoSegmentation::Runs { size, counts },
                    Counts::Compressed(counts) => CocoSegmentation::Compressed { size, counts },
                })
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// Numbers and lists in a list, to any depth.
#[derive(Default)]
struct List {
    numbers: Vec<f64>,
    lists: Vec<List>,
    /// Whether something else is in it.
    other: bool,
}

/// The polygons in lists of coordinates, of pairs of coordinates, or in one list more than there should be.
fn polygons_of(lists: Vec<List>) -> Option<Vec<Vec<f64>>> {
    let is_flat = |list: &List| list.lists.is_empty() && !list.other;
    let is_pair = |list: &List| is_flat(list) && list.numbers.len() == 2;
    if lists.len() > 2 && lists.iter().all(is_pair) {
        return Some(vec![lists.into_iter().flat_map(|pair| pair.numbers).collect()]);
    }
    let mut polygons = Vec::with_capacity(lists.len());
    for list in lists {
        match list {
            List { other: true, .. } => return None,
            List { numbers, lists, .. } if lists.is_empty() => polygons.push(numbers),
            List { numbers, lists, .. } if numbers.is_empty() && lists.iter().all(is_pair) => {
                polygons.push(lists.into_iter().flat_map(|pair| pair.numbers).collect());
            }
            List { numbers, lists, .. } if numbers.is_empty() && lists.iter().all(is_flat) => {
                polygons.extend(lists.into_iter().map(|list| list.numbers));
            }
            _ => return None,
        }
    }
    Some(polygons)
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        enum Entry {
            Number(f64),
            List(List),
            Other,
        }

        struct AnyEntry;
        impl<'de> Visitor<'de> for AnyEntry {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list")
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Entry, E> {
                Ok(Entry::Number(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Entry, E> {
                Ok(Entry::Number(value as f64))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Entry, E> {
                Ok(Entry::Number(value as f64))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Entry, E> {
                Ok(Entry::Other)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Entry, E> {
                Ok(Entry::Other)
            }

            fn visit_unit<E: Error>(self) -> Result<Entry, E> {
                Ok(Entry::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Entry, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(Entry::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Entry, A::Error> {
                while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Entry::Other)
            }
        }
        impl<'de> Deserialize<'de> for Entry {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(AnyEntry)
            }
        }

        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<List, A::Error> {
                let mut list = List::default();
                while let Some(entry) = entries.next_element()? {
                    match entry {
                        Entry::Number(number) => list.numbers.push(number),
                        Entry::List(inner) => list.lists.push(inner),
                        Entry::Other => list.other = true,
                    }
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Entries)
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
