use std::path::Path;

use super::super::{Geometry, geometry::check_spacing};
use crate::{DataError, Limits, Result};

/// Header of a NIfTI file: what a result carries over from the image that it was made of.
///
/// It keeps all bytes of the header and its extensions, in the byte order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct NiftiHeader {
    pub(super) bytes: Vec<u8>,
    /// Bytes between the header and the voxels: the extender and the extensions.
    pub(super) extension: Vec<u8>,
    pub(super) fields: &'static Fields,
    pub(super) order: Order,
    pub(super) geometry: Geometry,
    /// Product of the dimensions behind the third.
    pub(super) volumes: usize,
    pub(super) kind: Kind,
    /// Factor and summand of the stored values.
    pub(super) scale: Option<(f64, f64)>,
    /// First byte of the voxels in their file.
    pub(super) offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

/// Type of a stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Rgb,
    Rgba,
}

/// Byte offsets of the fields of a version.
#[derive(Debug, PartialEq)]
pub(super) struct Fields {
    pub version: u8,
    /// Size of the header.
    pub length: usize,
    magic: (usize, &'static [u8], &'static [u8]),
    pub dim: usize,
    pub datatype: usize,
    pub bitpix: usize,
    pixdim: usize,
    pub vox_offset: usize,
    pub slope: usize,
    pub inter: usize,
    /// `cal_max`, then `cal_min`.
    pub cal: usize,
    qform_code: usize,
    sform_code: usize,
    quatern: usize,
    qoffset: usize,
    srow: usize,
    units: usize,
    pub intent_p: usize,
    pub intent_code: usize,
    pub intent_name: usize,
}

/// NIfTI-1: <https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h>
pub(super) static VERSION_1: Fields = Fields {
    version: 1,
    length: 348,
    magic: (344, b"n+1\0", b"ni1\0"),
    dim: 40,
    datatype: 70,
    bitpix: 72,
    pixdim: 76,
    vox_offset: 108,
    slope: 112,
    inter: 116,
    cal: 124,
    qform_code: 252,
    sform_code: 254,
    quatern: 256,
    qoffset: 268,
    srow: 280,
    units: 123,
    intent_p: 56,
    intent_code: 68,
    intent_name: 328,
};

/// NIfTI-2: <https://nifti.nimh.nih.gov/pub/dist/doc/nifti2.h>
pub(super) static VERSION_2: Fields = Fields {
    version: 2,
    length: 540,
    magic: (4, b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n"),
    dim: 16,
    datatype: 12,
    bitpix: 14,
    pixdim: 104,
    vox_offset: 168,
    slope: 176,
    inter: 184,
    cal: 192,
    qform_code: 344,
    sform_code: 348,
    quatern: 352,
    qoffset: 376,
    srow: 400,
    units: 500,
    intent_p: 80,
    intent_code: 504,
    intent_name: 508,
};

impl Kind {
    fn of_code(code: i64) -> std::result::Result<Self, String> {
        Ok(match code {
            2 => Self::U8,
            4 => Self::I16,
            8 => Self::I32,
            16 => Self::F32,
            64 => Self::F64,
            128 => Self::Rgb,
            256 => Self::I8,
            512 => Self::U16,
            768 => Self::U32,
            1024 => Self::I64,
            1280 => Self::U64,
            2304 => Self::Rgba,
            32 | 1792 | 2048 => return Err("complex values are not read; save their magnitude".into()),
            1536 => return Err("floats of 128 bits are not read; save them as float64".into()),
            1 => return Err("single bits are not read; save them as uint8".into()),
            _ => return Err(format!("{code} is no type of NIfTI")),
        })
    }

    /// Code and bits in the header.
    pub fn code(self) -> (i16, i16) {
        let code = match self {
            Self::U8 => 2,
            Self::I16 => 4,
            Self::I32 => 8,
            Self::F32 => 16,
            Self::F64 => 64,
            Self::Rgb => 128,
            Self::I8 => 256,
            Self::U16 => 512,
            Self::U32 => 768,
            Self::I64 => 1024,
            Self::U64 => 1280,
            Self::Rgba => 2304,
        };
        (code, (self.bytes() * self.samples() * 8) as i16)
    }

    /// Values of a voxel.
    pub fn samples(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Rgba => 4,
            _ => 1,
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Rgb | Self::Rgba => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Calls `take` with each value of `bytes`.
    pub fn each(self, order: Order, bytes: &[u8], mut take: impl FnMut(f64)) {
        macro_rules! numbers {
            ($type:ty) => {
                for bytes in bytes.as_chunks::<{ size_of::<$type>() }>().0 {
                    take(match order {
                        Order::Little => <$type>::from_le_bytes(*bytes),
                        Order::Big => <$type>::from_be_bytes(*bytes),
                    } as f64)
                }
            };
        }
        match self {
            Self::U8 | Self::Rgb | Self::Rgba => bytes.iter().for_each(|byte| take((*byte).into())),
            Self::I8 => numbers!(i8),
            Self::U16 => numbers!(u16),
            Self::I16 => numbers!(i16),
            Self::U32 => numbers!(u32),
            Self::I32 => numbers!(i32),
            Self::U64 => numbers!(u64),
            Self::I64 => numbers!(i64),
            Self::F32 => numbers!(f32),
            Self::F64 => numbers!(f64),
        }
    }
}

impl NiftiHeader {
    /// The layout and byte order of a file, by its first four bytes.
    pub(super) fn layout(size: [u8; 4]) -> Option<(&'static Fields, Order)> {
        let of = |value: i32| match value {
            348 => Some(&VERSION_1),
            540 => Some(&VERSION_2),
            _ => None,
        };
        let little = of(i32::from_le_bytes(size)).map(|fields| (fields, Order::Little));
        little.or_else(|| of(i32::from_be_bytes(size)).map(|fields| (fields, Order::Big)))
    }

    /// Reads and checks the fields. `single` is whether the voxels are in the same file.
    pub(super) fn parse(
        path: &Path,
        bytes: Vec<u8>,
        (fields, order): (&'static Fields, Order),
        single: bool,
        limits: &Limits,
    ) -> Result<Self> {
        let raw = Raw { bytes: &bytes, fields, order };
        let refused = |field: &str, reason: String| DataError::volume(path, field, reason);
        let (at, one, pair) = fields.magic;
        let magic = &bytes[at..at + one.len()];
        if magic != one && magic != pair {
            let reason = format!("{} is not NIfTI's; files of ANALYZE 7.5 are not read", magic.escape_ascii());
            return Err(refused("magic", reason));
        }
        if single != (magic == one) {
            let reason = match single {
                true => "says that the voxels are in a file of their own; give it the extension hdr",
                false => "says that the voxels are in this file; give it the extension nii",
            };
            return Err(refused("magic", reason.into()));
        }
        let (size, volumes) = raw.dimensions(path)?;
        let kind = raw.integer(fields.datatype, 2);
        let kind = Kind::of_code(kind).map_err(|reason| refused("datatype", reason))?;
        for (axis, (length, most)) in
            size.iter().zip([limits.max_width, limits.max_height, limits.max_width]).enumerate()
        {
            if *length > most as usize {
                let reason = format!("{length} voxels are over the limit of {most}; raise `Limits` if that is true");
                return Err(refused(&format!("dim[{}]", axis + 1), reason));
            }
        }
        let [width, height, depth] = size;
        let values = [height, depth, volumes, kind.samples()]
            .iter()
            .try_fold(width as u64, |product, length| product.checked_mul(*length as u64));
        let produced = values.and_then(|values| values.checked_mul(kind.bytes().max(4) as u64));
        if produced.is_none_or(|bytes| bytes > limits.max_bytes) {
            let reason = format!(
                "{width}x{height}x{depth} voxels in {volumes} volumes are over the limit of {} bytes; raise `Limits` if that \
                 is true",
                limits.max_bytes
            );
            return Err(refused("dim", reason));
        }
        let geometry = raw.geometry(path, size)?;
        let offset = raw.number(fields.vox_offset, 0);
        let least = if single { fields.length + 4 } else { 0 };
        // Zero is what some programs write for the least.
        let offset = if offset == 0.0 { least as f64 } else { offset };
        if offset < least as f64 || offset.fract() != 0.0 || offset > limits.max_bytes as f64 {
            let reason = format!("{offset} is no place of voxels; it must be a whole number from {least} on");
            return Err(refused("vox_offset", reason));
        }
        let (slope, inter) = (raw.float(fields.slope, 0), raw.float(fields.inter, 0));
        let scale = match slope {
            slope if slope == 0.0 || !slope.is_finite() => None,
            _ if !inter.is_finite() => {
                return Err(refused("scl_inter", format!("{inter} beside a valid slope of {slope}; set it to 0")));
            }
            _ => Some((slope, inter)).filter(|scale| *scale != (1.0, 0.0)),
        };
        let extension = Vec::new();
        Ok(Self { bytes, extension, fields, order, geometry, volumes, kind, scale, offset: offset as u64 })
    }

    /// A header of this library's own: version 1, or 2 where a dimension is over 32,767.
    pub(super) fn new(geometry: &Geometry, volumes: usize) -> Self {
        let short = geometry.size().iter().chain([&volumes]).all(|length| i16::try_from(*length).is_ok());
        let fields = if short { &VERSION_1 } else { &VERSION_2 };
        let mut header = Self {
            bytes: vec![0; fields.length],
            extension: vec![0; 4],
            fields,
            order: Order::Little,
            geometry: geometry.clone(),
            // None yet, so that the size is written.
            volumes: 0,
            kind: Kind::F32,
            scale: None,
            offset: fields.length as u64 + 4,
        };
        header.bytes[..4].copy_from_slice(&(fields.length as i32).to_le_bytes());
        // Millimeters and seconds.
        header.bytes[fields.units] = 2 | 8;
        for dimension in 0..8 {
            header.put_number(fields.pixdim, dimension, 1.0);
        }
        header.put_place(geometry);
        header
    }

    /// Version of the format: 1 or 2.
    pub fn version(&self) -> u8 {
        self.fields.version
    }

    /// Size and place of the voxels, in millimeters whatever the unit of the file is.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Whether the file says which way its axes run: by an sform or a qform, whose code is above 0. Without one the geometry is the
    /// spacing alone, as nibabel fills it up.
    pub fn has_directions(&self) -> bool {
        let raw = Raw { bytes: &self.bytes, fields: self.fields, order: self.order };
        raw.code(self.fields.sform_code) > 0 || raw.code(self.fields.qform_code) > 0
    }

    /// All bytes of the header, as they are in the file: 348 of version 1, 540 of version 2.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes it the header of a single file with voxels of this type.
    pub(super) fn put_kind(&mut self, kind: Kind) {
        let (fields, (code, bits)) = (self.fields, kind.code());
        self.put(fields.datatype, code.to_le_bytes());
        self.put(fields.bitpix, bits.to_le_bytes());
        self.put_number(fields.slope, 0, 1.0);
        self.put_number(fields.inter, 0, 0.0);
        if self.extension.len() < 4 {
            self.extension.resize(4, 0);
        }
        let offset = fields.length + self.extension.len();
        match fields.version {
            1 => self.put_number(fields.vox_offset, 0, offset as f64),
            _ => self.put(fields.vox_offset, (offset as i64).to_le_bytes()),
        }
        let (at, single, _) = fields.magic;
        self.bytes[at..at + single.len()].copy_from_slice(single);
    }

    /// Clears calibration and intent, which describe the image's values.
    pub(super) fn clear_meaning(&mut self) {
        let fields = self.fields;
        for (at, i) in
            [(fields.cal, 0), (fields.cal, 1), (fields.intent_p, 0), (fields.intent_p, 1), (fields.intent_p, 2)]
        {
            self.put_number(at, i, 0.0);
        }
        match fields.version {
            1 => self.put(fields.intent_code, [0; 2]),
            _ => self.put(fields.intent_code, [0; 4]),
        }
        self.put(fields.intent_name, [0; 16]);
    }

    /// Writes the size, where it is another than the header's.
    ///
    /// # Errors
    /// If NIfTI-1's 16 bits cannot hold it.
    pub(super) fn put_size(&mut self, size: [usize; 3], volumes: usize) -> std::result::Result<(), String> {
        if (size, volumes) == (self.geometry.size(), self.volumes) && self.kind.samples() == 1 {
            return Ok(());
        }
        let [depth, height, width] = size;
        let rank = if volumes == 1 { 3 } else { 4 };
        let dim = [rank, width, height, depth, volumes, 1, 1, 1];
        if self.fields.version == 1 && dim.iter().any(|length| i16::try_from(*length).is_err()) {
            return Err(format!(
                "{size:?} voxels in {volumes} volumes do not fit the header of NIfTI-1; write it without one"
            ));
        }
        for (i, length) in dim.into_iter().enumerate() {
            match self.fields.version {
                1 => self.put(self.fields.dim + 2 * i, (length as i16).to_le_bytes()),
                _ => self.put(self.fields.dim + 8 * i, (length as i64).to_le_bytes()),
            }
        }
        Ok(())
    }

    /// Writes the geometry as the sform alone.
    pub(super) fn put_place(&mut self, geometry: &Geometry) {
        let fields = self.fields;
        let unit = Raw { bytes: &self.bytes, fields, order: self.order }.unit();
        for (i, length) in geometry.spacing().iter().rev().enumerate() {
            self.put_number(fields.pixdim, i + 1, length / unit);
        }
        for (i, value) in geometry.affine()[..3].iter().flatten().enumerate() {
            self.put_number(fields.srow, i, value / unit);
        }
        for i in 0..3 {
            self.put_number(fields.quatern, i, 0.0);
            self.put_number(fields.qoffset, i, 0.0);
        }
        // Scanner's coordinates by the affine; none by the quaternion.
        match fields.version {
            1 => {
                self.put(fields.sform_code, 1i16.to_le_bytes());
                self.put(fields.qform_code, 0i16.to_le_bytes());
            }
            _ => {
                self.put(fields.sform_code, 1i32.to_le_bytes());
                self.put(fields.qform_code, 0i32.to_le_bytes());
            }
        }
    }

    /// Writes the `i`-th of the floats from `at` on.
    fn put_number(&mut self, at: usize, i: usize, value: f64) {
        match self.fields.version {
            1 => self.put(at + 4 * i, (value as f32).to_le_bytes()),
            _ => self.put(at + 8 * i, value.to_le_bytes()),
        }
    }

    /// Writes bytes, little end first, in the order of the header.
    fn put<const N: usize>(&mut self, at: usize, mut bytes: [u8; N]) {
        // Names are longer than any number, and have no order.
        if self.order == Order::Big && N <= 8 {
            bytes.reverse();
        }
        self.bytes[at..at + N].copy_from_slice(&bytes);
    }
}

/// Bytes of a header and how to read them.
struct Raw<'a> {
    bytes: &'a [u8],
    fields: &'static Fields,
    order: Order,
}

impl Raw<'_> {
    fn integer(&self, at: usize, bytes: usize) -> i64 {
        let bytes = &self.bytes[at..at + bytes];
        let mut wide = [0; 8];
        match self.order {
            Order::Little => wide[8 - bytes.len()..].copy_from_slice(bytes),
            Order::Big => bytes.iter().rev().zip(&mut wide[8 - bytes.len()..]).for_each(|(from, to)| *to = *from),
        }
        // The sign comes down with the value.
        i64::from_le_bytes(wide) >> (64 - 8 * bytes.len())
    }

    /// The `i`-th of the floats from `at` on.
    fn float(&self, at: usize, i: usize) -> f64 {
        let mut value = 0.0;
        match self.fields.version {
            1 => Kind::F32.each(self.order, &self.bytes[at + 4 * i..][..4], |x| value = x),
            _ => Kind::F64.each(self.order, &self.bytes[at + 8 * i..][..8], |x| value = x),
        }
        value
    }

    /// A field that is a float in version 1 and an integer in version 2.
    fn number(&self, at: usize, i: usize) -> f64 {
        match self.fields.version {
            1 => self.float(at, i),
            _ => self.integer(at + 8 * i, 8) as f64,
        }
    }

    fn code(&self, at: usize) -> i64 {
        self.integer(at, if self.fields.version == 1 { 2 } else { 4 })
    }

    /// Millimeters of a unit of the header. ITK and nnU-Net take meters and micrometers for what they are; nibabel's affine leaves
    /// them.
    fn unit(&self) -> f64 {
        match self.bytes[if self.order == Order::Big && self.fields.version == 2 {
            self.fields.units + 3
        } else {
            self.fields.units
        }] & 7
        {
            1 => 1000.0,
            3 => 0.001,
            _ => 1.0,
        }
    }

    /// Width, height and depth, and the product of the other dimensions.
    fn dimensions(&self, path: &Path) -> Result<([usize; 3], usize)> {
        let bytes = if self.fields.version == 1 { 2 } else { 8 };
        let dim = |i: usize| self.integer(self.fields.dim + bytes * i, bytes);
        let rank = dim(0);
        if !(1..=7).contains(&rank) {
            return Err(DataError::volume(path, "dim[0]", format!("{rank} dimensions; it must be from 1 to 7")));
        }
        let mut sizes = [1usize; 7];
        for (i, size) in sizes.iter_mut().enumerate().take(rank as usize) {
            *size = usize::try_from(dim(i + 1)).ok().filter(|size| *size > 0).ok_or_else(|| {
                DataError::volume(
                    path,
                    format!("dim[{}]", i + 1),
                    format!("{} voxels; it must be at least 1", dim(i + 1)),
                )
            })?;
        }
        let volumes = sizes[3..].iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let volumes = volumes.ok_or_else(|| DataError::volume(path, "dim", "more volumes than memory can have"))?;
        Ok(([sizes[0], sizes[1], sizes[2]], volumes))
    }

    /// The affine of the sform, else of the qform, else of the spacing alone, as nibabel chooses.
    fn geometry(&self, path: &Path, [width, height, depth]: [usize; 3]) -> Result<Geometry> {
        let fields = self.fields;
        let sizes = [width, height, depth];
        let (field, mut affine) = if self.code(fields.sform_code) > 0 {
            (
                "srow_x, srow_y, srow_z",
                [0, 1, 2].map(|row| [0, 1, 2, 3].map(|column| self.float(fields.srow, 4 * row + column))),
            )
        } else {
            // A dimension of one voxel needs no spacing.
            let length = |i: usize| match self.float(fields.pixdim, i + 1) {
                0.0 if sizes[i] == 1 => 1.0,
                length => length,
            };
            let spacing = [0, 1, 2].map(length);
            if self.code(fields.qform_code) > 0 {
                check_spacing(spacing).map_err(|_| {
                    let reason = format!("{spacing:?} must be positive and finite; correct the spacing");
                    DataError::volume(path, "pixdim[1..=3]", reason)
                })?;
                ("quatern_b, quatern_c, quatern_d", self.quaternion(path, spacing)?)
            } else {
                let spacing = spacing.map(f64::abs);
                // As nibabel: the first axis runs to the left, and the middle of the volume is the origin.
                let turned = [-spacing[0], spacing[1], spacing[2]];
                let row = |i: usize| {
                    let mut row = [0.0; 4];
                    row[i] = turned[i];
                    row[3] = -((sizes[i] - 1) as f64) / 2.0 * turned[i];
                    row
                };
                ("pixdim[1..=3]", [0, 1, 2].map(row))
            }
        };
        affine.iter_mut().flatten().for_each(|value| *value *= self.unit());
        let [x, y, z] = affine;
        Geometry::new([depth, height, width], [x, y, z, [0.0, 0.0, 0.0, 1.0]]).map_err(|error| match error {
            DataError::Option { reason, .. } => DataError::volume(path, field, reason),
            other => other,
        })
    }

    fn quaternion(&self, path: &Path, spacing: [f64; 3]) -> Result<[[f64; 4]; 3]> {
        /// nibabel's: a rotation by half a turn may be so far from a unit quaternion.
        const TOLERANCE: f64 = 3.0 * f32::EPSILON as f64;
        let [b, c, d] = [0, 1, 2].map(|i| self.float(self.fields.quatern, i));
        let square = 1.0 - (b * b + c * c + d * d);
        if !(square.is_finite() && square > -TOLERANCE) {
            let reason = format!("({b}, {c}, {d}) is longer than 1, and so no rotation; correct it or set an sform");
            return Err(DataError::volume(path, "quatern_b, quatern_c, quatern_d", reason));
        }
        let a = if square.abs() < TOLERANCE { 0.0 } else { square.sqrt() };
        let left_handed = match self.float(self.fields.pixdim, 0) {
            1.0 | 0.0 => 1.0,
            -1.0 => -1.0,
            other => {
                let reason = format!("{other} as the handedness must be 1 or -1");
                return Err(DataError::volume(path, "pixdim[0]", reason));
            }
        };
        let s = 2.0 / (a * a + b * b + c * c + d * d);
        let rotation = [
            [1.0 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)],
            [s * (b * c + a * d), 1.0 - s * (b * b + d * d), s * (c * d - a * b)],
            [s * (b * d - a * c), s * (c * d + a * b), 1.0 - s * (b * b + c * c)],
        ];
        let scale = [spacing[0], spacing[1], spacing[2] * left_handed];
        Ok([0, 1, 2].map(|row| {
            let [x, y, z] = [0, 1, 2].map(|axis| rotation[row][axis] * scale[axis]);
            [x, y, z, self.float(self.fields.qoffset, row)]
        }))
    }
}
