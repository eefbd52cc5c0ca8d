//! The elements of a DICOM file (PS3.5 and PS3.10), as far as images need them.
//!
//! The crate `dicom-object` is not used: it calls itself for each nested sequence, however deep, and takes the memory that a length
//! asks for before it looks at what is there, so that a small file can end the process.

use std::{borrow::Cow, io::Read};

use flate2::bufread::DeflateDecoder;

/// Sequences within sequences. Images have three.
const DEPTH: usize = 16;
const UNDEFINED: u32 = u32::MAX;

/// Group and element.
pub(super) type Tag = u32;

const ITEM: Tag = 0xFFFE_E000;
const ITEM_END: Tag = 0xFFFE_E00D;
const SEQUENCE_END: Tag = 0xFFFE_E0DD;
const TRANSFER_SYNTAX: Tag = 0x0002_0010;
pub(super) const PIXEL_DATA: Tag = 0x7FE0_0010;

/// Sequences that are looked into. Others are passed over.
pub(super) const SHARED_GROUPS: Tag = 0x5200_9229;
pub(super) const FRAME_GROUPS: Tag = 0x5200_9230;
pub(super) const PLANE_POSITION: Tag = 0x0020_9113;
pub(super) const PLANE_ORIENTATION: Tag = 0x0020_9116;
pub(super) const PIXEL_MEASURES: Tag = 0x0028_9110;
pub(super) const VALUE_TRANSFORMATION: Tag = 0x0028_9145;
const SEQUENCES: [Tag; 6] =
    [SHARED_GROUPS, FRAME_GROUPS, PLANE_POSITION, PLANE_ORIENTATION, PIXEL_MEASURES, VALUE_TRANSFORMATION];

/// Encoding of the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Encoding {
    explicit: bool,
    big: bool,
}

/// A data set: elements by rising tag, as they stand in the file.
#[derive(Debug, Default)]
pub(super) struct DataSet {
    elements: Vec<(Tag, Value)>,
    big: bool,
}

#[derive(Debug)]
enum Value {
    /// First byte and the byte after the last.
    Bytes(usize, usize),
    Items(Vec<DataSet>),
    /// Encapsulated pixel data: the offset table, then the fragments.
    Fragments(Vec<(usize, usize)>),
}

/// A file: its data set, with the bytes that it points into.
pub(super) struct DicomFile {
    bytes: Vec<u8>,
    pub data: DataSet,
    pub syntax: String,
}

/// Pixel data as they are stored.
pub(super) enum PixelBytes<'a> {
    Native(&'a [u8]),
    /// The offset table and the fragments.
    Encapsulated(&'a [u8], Vec<&'a [u8]>),
}

/// A tag as it is written: `(0028,0010)`.
pub(super) fn shown(tag: Tag) -> String {
    format!("({:04X},{:04X})", tag >> 16, tag & 0xFFFF)
}

impl DicomFile {
    /// Checks for the start of a DICOM file, with or without its preamble.
    pub fn is_dicom(bytes: &[u8]) -> bool {
        bytes.get(128..132) == Some(b"DICM") || matches!(bytes, [2 | 8, 0, _, 0, _, _, _, _, ..])
    }

    /// Reads the elements. `most` bounds what a deflated file may unpack to.
    ///
    /// Errors say what is wrong at which tag.
    pub fn parse(bytes: Vec<u8>, most: u64) -> Result<Self, String> {
        let explicit = Encoding { explicit: true, big: false };
        let start = if bytes.get(128..132) == Some(b"DICM") { 132 } else { 0 };
        let mut meta = Walker { bytes: &bytes, at: start, encoding: explicit };
        let mut syntax = None;
        // The group 2 is explicit and little-endian, whatever comes after it.
        while meta.peek_group() == Some(2) {
            let (tag, length) = meta.header()?;
            let (from, to) = meta.take(tag, length, bytes.len())?;
            if tag == TRANSFER_SYNTAX {
                syntax = Some(text(&bytes[from..to]));
            }
        }
        let at = meta.at;
        let syntax = syntax.unwrap_or_else(|| {
            // Files of before Part 10: told by whether letters stand where the type would.
            let letters = bytes.get(at + 4..at + 6).is_some_and(|vr| vr.iter().all(u8::is_ascii_uppercase));
            if letters { "1.2.840.10008.1.2.1".into() } else { "1.2.840.10008.1.2".into() }
        });
        let (bytes, at) = match syntax.as_str() {
            "1.2.840.10008.1.2.1.99" => {
                let mut unpacked = Vec::new();
                DeflateDecoder::new(&bytes[at..])
                    .take(most.saturating_add(1))
                    .read_to_end(&mut unpacked)
                    .map_err(|error| format!("its deflated data are damaged: {error}"))?;
                if unpacked.len() as u64 > most {
                    return Err(format!(
                        "its deflated data are over the limit of {most} bytes; raise `Limits` if that is true"
                    ));
                }
                (unpacked, 0)
            }
            _ => (bytes, at),
        };
        let encoding = match syntax.as_str() {
            "1.2.840.10008.1.2" => Encoding { explicit: false, big: false },
            "1.2.840.10008.1.2.2" => Encoding { explicit: true, big: true },
            _ => explicit,
        };
        let mut walker = Walker { bytes: &bytes, at, encoding };
        let data = walker.data_set(bytes.len(), false, 0)?;
        Ok(Self { bytes, data, syntax })
    }

    /// Characters of an element, without the spaces around them.
    pub fn text(&self, data: &DataSet, tag: Tag) -> Option<String> {
        self.value(data, tag).map(text).filter(|text| !text.is_empty())
    }

    /// Numbers that are written as characters, with `\` between them.
    pub fn decimals(&self, data: &DataSet, tag: Tag) -> Result<Option<Vec<f64>>, String> {
        let Some(text) = self.text(data, tag) else { return Ok(None) };
        let number = |part: &str| {
            let number = part.trim().parse().ok().filter(|number: &f64| number.is_finite());
            number.ok_or_else(|| format!("{part:?} is no number"))
        };
        text.split('\\').map(number).collect::<Result<_, _>>().map(Some)
    }

    /// The `N` numbers of an attribute; another count is an error.
    pub fn numbers<const N: usize>(&self, data: &DataSet, tag: Tag) -> Result<Option<[f64; N]>, String> {
        let Some(numbers) = self.decimals(data, tag)? else { return Ok(None) };
        let count = numbers.len();
        numbers.try_into().map(Some).map_err(|_| format!("it has {count} numbers, and needs {N}"))
    }

    /// An unsigned number of 16 bits.
    pub fn short(&self, data: &DataSet, tag: Tag) -> Option<u16> {
        let bytes = self.value(data, tag)?.first_chunk()?;
        Some(if data.big { u16::from_be_bytes(*bytes) } else { u16::from_le_bytes(*bytes) })
    }

    fn value(&self, data: &DataSet, tag: Tag) -> Option<&[u8]> {
        match data.get(tag)? {
            Value::Bytes(from, to) => self.bytes.get(*from..*to),
            _ => None,
        }
    }

    /// The pixel data, if there are any.
    pub fn pixels(&self) -> Option<PixelBytes<'_>> {
        match self.data.get(PIXEL_DATA)? {
            Value::Bytes(from, to) => Some(PixelBytes::Native(&self.bytes[*from..*to])),
            Value::Fragments(fragments) => {
                let mut all = fragments.iter().map(|(from, to)| &self.bytes[*from..*to]);
                let table = all.next().unwrap_or_default();
                Some(PixelBytes::Encapsulated(table, all.collect()))
            }
            Value::Items(_) => None,
        }
    }

    /// True for big-endian numbers.
    pub fn is_big(&self) -> bool {
        self.data.big
    }
}

impl DataSet {
    fn get(&self, tag: Tag) -> Option<&Value> {
        self.elements.iter().find(|(known, _)| *known == tag).map(|(_, value)| value)
    }

    pub fn has(&self, tag: Tag) -> bool {
        self.get(tag).is_some()
    }

    /// Items of a sequence.
    pub fn items(&self, tag: Tag) -> &[Self] {
        match self.get(tag) {
            Some(Value::Items(items)) => items,
            _ => &[],
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let text: Cow<'_, str> = String::from_utf8_lossy(bytes);
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0').into()
}

/// Elements that are kept, so that memory does not grow with what else a file has.
pub(super) const MODALITY: Tag = 0x0008_0060;
pub(super) const DESCRIPTION: Tag = 0x0008_103E;
pub(super) const THICKNESS: Tag = 0x0018_0050;
pub(super) const BETWEEN_SLICES: Tag = 0x0018_0088;
pub(super) const SERIES: Tag = 0x0020_000E;
pub(super) const POSITION: Tag = 0x0020_0032;
pub(super) const ORIENTATION: Tag = 0x0020_0037;
pub(super) const SAMPLES: Tag = 0x0028_0002;
pub(super) const PHOTOMETRIC: Tag = 0x0028_0004;
pub(super) const FRAMES: Tag = 0x0028_0008;
pub(super) const ROWS: Tag = 0x0028_0010;
pub(super) const COLUMNS: Tag = 0x0028_0011;
pub(super) const SPACING: Tag = 0x0028_0030;
pub(super) const ALLOCATED: Tag = 0x0028_0100;
pub(super) const STORED: Tag = 0x0028_0101;
pub(super) const HIGH_BIT: Tag = 0x0028_0102;
pub(super) const REPRESENTATION: Tag = 0x0028_0103;
pub(super) const WINDOW_CENTER: Tag = 0x0028_1050;
pub(super) const WINDOW_WIDTH: Tag = 0x0028_1051;
pub(super) const INTERCEPT: Tag = 0x0028_1052;
pub(super) const SLOPE: Tag = 0x0028_1053;
pub(super) const WINDOW_FUNCTION: Tag = 0x0028_1056;
/// Table of values in place of slope and intercept.
pub(super) const MODALITY_LUT: Tag = 0x0028_3000;
/// Distances of the frames of a dose from its first.
pub(super) const FRAME_OFFSETS: Tag = 0x3004_000C;
const KEPT: [Tag; 25] = [
    MODALITY,
    DESCRIPTION,
    THICKNESS,
    BETWEEN_SLICES,
    SERIES,
    POSITION,
    ORIENTATION,
    SAMPLES,
    PHOTOMETRIC,
    FRAMES,
    ROWS,
    COLUMNS,
    SPACING,
    ALLOCATED,
    STORED,
    HIGH_BIT,
    REPRESENTATION,
    WINDOW_CENTER,
    WINDOW_WIDTH,
    INTERCEPT,
    SLOPE,
    WINDOW_FUNCTION,
    MODALITY_LUT,
    FRAME_OFFSETS,
    PIXEL_DATA,
];

struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
}

/// Type and length of an element.
#[derive(Clone, Copy)]
struct Length {
    vr: [u8; 2],
    bytes: u32,
}

impl Walker<'_> {
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
        let bytes = bytes.ok_or_else(|| {
            format!("it ends at byte {}, in the midst of an element, is it truncated?", self.bytes.len())
        })?;
        self.at += N;
        Ok(*bytes)
    }

    fn u16(&mut self) -> Result<u16, String> {
        let bytes = self.fixed()?;
        Ok(if self.encoding.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.fixed()?;
        Ok(if self.encoding.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn peek_group(&self) -> Option<u16> {
        self.bytes.get(self.at..)?.first_chunk().map(|group| u16::from_le_bytes(*group))
    }

    fn header(&mut self) -> Result<(Tag, Length), String> {
        let tag = u32::from(self.u16()?) << 16 | u32::from(self.u16()?);
        if !self.encoding.explicit || matches!(tag, ITEM | ITEM_END | SEQUENCE_END) {
            return Ok((tag, Length { vr: *b"  ", bytes: self.u32()? }));
        }
        let vr = self.fixed()?;
        let is_long = matches!(
            &vr,
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV"
        );
        let bytes = if is_long {
            self.fixed::<2>()?;
            self.u32()?
        } else {
            self.u16()?.into()
        };
        Ok((tag, Length { vr, bytes }))
    }

    /// The place of a value, which is passed over. It must lie before `end`: values that reach out of their item would be read
    /// again after it, and so twice as often at each depth.
    fn take(&mut self, tag: Tag, length: Length, end: usize) -> Result<(usize, usize), String> {
        let (from, left) = (self.at, end.saturating_sub(self.at));
        if length.bytes as usize > left {
            return Err(match length.bytes {
                UNDEFINED => format!("{} has no length", shown(tag)),
                bytes => format!("{} says {bytes} bytes where {left} are left, is it truncated?", shown(tag)),
            });
        }
        self.at += length.bytes as usize;
        Ok((from, self.at))
    }

    /// The elements up to a byte, or to the delimiter of the item.
    fn data_set(&mut self, end: usize, delimited: bool, depth: usize) -> Result<DataSet, String> {
        if depth > DEPTH {
            return Err(format!("sequences are nested more than {DEPTH} deep"));
        }
        let mut data = DataSet { elements: Vec::new(), big: self.encoding.big };
        while self.at < end {
            // Some programs pad the end of a file with zeros.
            if depth == 0 && self.bytes[self.at..end].iter().take(8).all(|byte| *byte == 0) {
                break;
            }
            let (tag, length) = self.header()?;
            if tag == ITEM_END && delimited {
                return Ok(data);
            }
            let value = if length.bytes == UNDEFINED && tag == PIXEL_DATA {
                Value::Fragments(self.fragments(end)?)
            } else if length.bytes == UNDEFINED {
                // Sequences of unknown type are implicit within (PS3.5, 6.2.2).
                let outer = self.encoding;
                if &length.vr == b"UN" {
                    self.encoding = Encoding { explicit: false, big: false };
                }
                let items = self.items(end, true, depth);
                self.encoding = outer;
                Value::Items(items?)
            } else if SEQUENCES.contains(&tag) {
                let (from, to) = self.take(tag, length, end)?;
                self.at = from;
                let items = self.items(to, false, depth)?;
                self.at = to;
                Value::Items(items)
            } else {
                let (from, to) = self.take(tag, length, end)?;
                Value::Bytes(from, to)
            };
            if (KEPT.contains(&tag) || SEQUENCES.contains(&tag)) && !data.has(tag) {
                data.elements.push((tag, value));
            }
        }
        match delimited {
            true => Err("an item has no end, is it truncated?".into()),
            false => Ok(data),
        }
    }

    fn items(&mut self, end: usize, delimited: bool, depth: usize) -> Result<Vec<DataSet>, String> {
        let mut items = Vec::new();
        while self.at < end {
            match self.header()? {
                (SEQUENCE_END, _) if delimited => return Ok(items),
                (ITEM, Length { bytes: UNDEFINED, .. }) => items.push(self.data_set(end, true, depth + 1)?),
                (ITEM, length) => {
                    let (from, to) = self.take(ITEM, length, end)?;
                    self.at = from;
                    items.push(self.data_set(to, false, depth + 1)?);
                    self.at = to;
                }
                (tag, _) => return Err(format!("{} where an item of a sequence must be", shown(tag))),
            }
        }
        match delimited {
            true => Err("a sequence has no end, is it truncated?".into()),
            false => Ok(items),
        }
    }

    fn fragments(&mut self, end: usize) -> Result<Vec<(usize, usize)>, String> {
        let mut fragments = Vec::new();
        loop {
            match self.header()? {
                (SEQUENCE_END, _) => return Ok(fragments),
                (ITEM, length) => fragments.push(self.take(ITEM, length, end)?),
                (tag, _) => return Err(format!("{} where a fragment of pixel data must be", shown(tag))),
            }
        }
    }
}
