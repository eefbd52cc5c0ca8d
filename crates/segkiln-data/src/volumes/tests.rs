//! Against nibabel, pydicom, SimpleITK and SciPy: `tests/parity/volumes.py` writes the fixtures.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::Deserialize;

use super::*;
use crate::{DataError, Limits};

#[derive(Deserialize)]
struct Expected {
    volumes: std::collections::BTreeMap<String, ExpectedVolume>,
    resampled: Vec<Resampled>,
    turned: Vec<Turned>,
    intensities: ExpectedIntensities,
}

#[derive(Deserialize)]
struct ExpectedVolume {
    size: [usize; 3],
    channels: usize,
    affine: [[f64; 4]; 4],
    codes: String,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Resampled {
    size: [usize; 3],
    target: [usize; 3],
    values: Vec<f32>,
    labels: Vec<u32>,
    nearest: Vec<f32>,
    linear: Vec<f32>,
    cubic: Vec<f32>,
    labels_nearest: Vec<u32>,
    /// -1 where two labels have the same weight.
    labels_linear: Vec<i64>,
}

#[derive(Deserialize)]
struct Turned {
    before: ExpectedVolume,
    after: ExpectedVolume,
}

#[derive(Deserialize)]
struct ExpectedIntensities {
    values: Vec<f32>,
    labels: Vec<u32>,
    statistics: [f32; 4],
    ct: Vec<f32>,
    z_score: Vec<f32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/volumes").join(name)
}

static EXPECTED: LazyLock<Expected> =
    LazyLock::new(|| serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap());

impl ExpectedVolume {
    fn volume(&self) -> Volume {
        Volume::new(Geometry::new(self.size, self.affine).unwrap(), self.channels, self.values.clone()).unwrap()
    }

    /// Asserts that a volume is the same: values to a unit of the last place, the affine to a hundred-thousandth.
    fn assert(&self, name: &str, volume: &Volume) {
        let geometry = volume.geometry();
        assert_eq!((geometry.size(), volume.channels()), (self.size, self.channels), "{name}");
        let apart = geometry.affine().iter().flatten().zip(self.affine.iter().flatten()).map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0.0, f64::max);
        assert!(apart < 1e-5, "{name}: {:?} for {:?}", geometry.affine(), self.affine);
        assert_eq!(geometry.axis_codes().to_string(), self.codes, "{name}");
        assert_close(name, volume.as_slice(), &self.values, 2e-7);
    }
}

/// Asserts that values agree to a share of their size, or of the greatest where they are small.
fn assert_close(name: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{name}");
    let greatest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!((actual - expected).abs() <= tolerance * greatest, "{name}, value {index}: {actual} for {expected}");
    }
}

fn read(name: &str) -> Volume {
    read_volume(fixture(name), &Limits::default()).unwrap().0
}

#[test]
fn volumes_are_those_of_nibabel_and_pydicom() {
    let expected = EXPECTED.volumes.iter();
    let is_read = |name: &str| cfg!(feature = "dicom") || name.contains(".nii") || name.contains(".hdr");
    let mut count = 0;
    for (name, volume) in expected.filter(|(name, _)| is_read(name)) {
        volume.assert(name, &read(name));
        count += 1;
    }
    assert!(count >= 20, "{count}");
    // A pair can be named by either of its files.
    assert_eq!(read("pair.img"), read("pair.hdr"));
}

/// The files that nibabel and pydicom carry: 100 MB that are not in this repository.
#[test]
fn packages() {
    let Ok(folder) = std::env::var("SEGKILN_VOLUMES") else {
        eprintln!("skipped: SEGKILN_VOLUMES names no folder, see tests/parity/volumes.py");
        return;
    };
    let found: std::collections::BTreeMap<String, ExpectedVolume> =
        serde_json::from_slice(&fs::read(Path::new(&folder).join("volumes.json")).unwrap()).unwrap();
    let mut read = 0;
    for (path, expected) in &found {
        match read_volume(path, &Limits::default()) {
            Ok((volume, _)) => expected.assert(path, &volume),
            Err(error) => {
                eprintln!("{error}");
                continue;
            }
        }
        read += 1;
    }
    eprintln!("{read} of {} files", found.len());
    // For the script to look at: labels with the headers of the fixtures, and of a series, which has none.
    let written = Path::new(&folder).join("written");
    fs::create_dir_all(&written).unwrap();
    for name in EXPECTED.volumes.keys().filter(|name| cfg!(feature = "dicom") || !name.ends_with(".dcm")) {
        let (volume, header) = read_volume(fixture(name), &Limits::default()).unwrap();
        let labels = (0..volume.geometry().voxels() as u32).map(|i| i % 5).collect();
        let labels = LabelVolume::new(volume.geometry().clone(), labels).unwrap();
        write_nifti_labels(written.join(format!("{name}.nii.gz")), &labels, header.as_ref()).unwrap();
    }
    assert!(read * 10 >= found.len() * 9, "{read} of {}", found.len());
}

#[test]
fn labels_are_whole_numbers() {
    let (labels, _) = read_nifti_labels(fixture("uint8.nii.gz"), &Limits::default()).unwrap();
    let values = read("uint8.nii.gz");
    assert!(labels.as_slice().iter().zip(values.as_slice()).all(|(label, value)| *label as f32 == *value));
    let message = |name: &str| read_nifti_labels(fixture(name), &Limits::default()).unwrap_err().to_string();
    assert!(message("int8.nii.gz").contains("is no label"));
    assert!(message("float32.nii.gz").contains("is this the image?"));
    assert!(message("four_dimensions.nii.gz").contains("one volume"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.nii");
    write_nifti(&path, &values, None).unwrap();
    assert_eq!(read_nifti_labels(&path, &Limits::default()).unwrap().0.as_slice(), labels.as_slice());
}

/// Bytes of a header in which two differ.
fn differing(a: &NiftiHeader, b: &NiftiHeader) -> Vec<usize> {
    let pairs = a.as_bytes().iter().zip(b.as_bytes()).enumerate();
    pairs.filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect()
}

#[test]
fn results_have_the_header_of_their_image() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "extended.nii.gz",
        "big_scaled.nii.gz",
        "second_version_big.nii.gz",
        "qform_only.nii.gz",
        "pair.hdr",
        "micrometers.nii.gz",
    ] {
        let (volume, header) = read_nifti(fixture(name), &Limits::default()).unwrap();
        for (most, end) in [(3, ".nii"), (300, ".nii.gz"), (70_000, ".nii")] {
            let labels = (0..volume.geometry().voxels() as u32).map(|i| if i == 7 { most } else { i % 3 }).collect();
            let labels = LabelVolume::new(volume.geometry().clone(), labels).unwrap();
            let path = folder.path().join(format!("{most}{end}"));
            write_nifti_labels(&path, &labels, Some(&header)).unwrap();
            let (back, back_header) = read_nifti_labels(&path, &Limits::default()).unwrap();
            assert_eq!(back, labels, "{name}");
            // Type, scaling, calibration, intent, place of the voxels and magic; nothing else.
            let allowed = match header.version() {
                1 => [56..72, 72..74, 108..120, 124..132, 328..348, 70..72],
                _ => [4..12, 12..16, 80..104, 168..208, 504..524, 0..0],
            };
            let others = differing(&header, &back_header);
            assert!(others.iter().all(|at| allowed.iter().any(|range| range.contains(at))), "{name}: {others:?}");
        }
        let path = folder.path().join("values.nii.gz");
        write_nifti(&path, &volume, Some(&header)).unwrap();
        let (back, back_header) = read_nifti(&path, &Limits::default()).unwrap();
        assert_eq!(back, volume, "{name}");
        assert_eq!(back_header.geometry(), header.geometry());
        // Files are written in one way only.
        let first = fs::read(&path).unwrap();
        write_nifti(&path, &volume, Some(&header)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
    }
    // The extension is carried over too.
    let (volume, header) = read_nifti(fixture("extended.nii.gz"), &Limits::default()).unwrap();
    let path = folder.path().join("extended.nii");
    write_nifti(&path, &volume, Some(&header)).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.windows(13).any(|bytes| bytes == b"kept as it is"));
    assert_eq!(
        fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_none_or(|e| e == "part"))
            .count(),
        0
    );
}

#[test]
fn results_on_another_grid_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    for name in [
        "extended.nii.gz",
        "second_version_big.nii.gz",
        "four_dimensions.nii.gz",
        "colors.nii.gz",
        "micrometers.nii.gz",
    ] {
        let (volume, header) = read_nifti(fixture(name), &Limits::default()).unwrap();
        let other = volume.resized([3, 7, 2], [Interpolation::Linear; 3]).unwrap().reoriented("PSL".parse().unwrap());
        for header in [Some(&header), None] {
            write_nifti(&path, &other, header).unwrap();
            let (back, _) = read_nifti(&path, &Limits::default()).unwrap();
            assert_eq!(
                (back.geometry().size(), back.as_slice()),
                (other.geometry().size(), other.as_slice()),
                "{name}"
            );
            let affines = back.geometry().affine().iter().flatten().zip(other.geometry().affine().iter().flatten());
            // The affine has 32 bits in version 1.
            affines.for_each(|(a, b)| assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{name}: {a} for {b}"));
        }
    }
    // Longer than version 1 can say.
    let long = Geometry::with_spacing([1, 1, 40_000], [1.0; 3]).unwrap();
    let long = LabelVolume::new(long, vec![1; 40_000]).unwrap();
    write_nifti_labels(&path, &long, None).unwrap();
    let (back, header) = read_nifti_labels(&path, &Limits::default()).unwrap();
    assert_eq!((back, header.version()), (long.clone(), 2));
    let (_, first) = read_nifti(fixture("extended.nii.gz"), &Limits::default()).unwrap();
    assert!(write_nifti_labels(&path, &long, Some(&first)).unwrap_err().to_string().contains("NIfTI-1"));
    let many = Volume::new(Geometry::with_spacing([1; 3], [1.0; 3]).unwrap(), 40_000, vec![0.5; 40_000]).unwrap();
    write_nifti(&path, &many, None).unwrap();
    assert_eq!(read_nifti(&path, &Limits::default()).unwrap().0, many);
    assert!(write_nifti(&path, &many, Some(&first)).unwrap_err().to_string().contains("NIfTI-1"));
    let refused = write_nifti_labels(folder.path().join("a.png"), &long, None).unwrap_err().to_string();
    assert!(refused.contains("a.png") && refused.contains(".nii.gz"), "{refused}");
}

/// A file of version 1, unpacked.
fn unpacked(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut GzDecoder::new(&*fs::read(fixture(name)).unwrap()), &mut bytes).unwrap();
    bytes
}

#[test]
fn bad_nifti_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let message = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = read_nifti(&path, &Limits::default()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        error
    };
    let good = unpacked("int16.nii.gz");
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        message("a.nii", &changed)
    };
    for (at, bytes, part) in [
        (0, &b"gibberish"[..], "no header of NIfTI"),
        (344, b"n+3", "magic"),
        (344, b"ni1", "magic"),
        (344, &[0; 4], "ANALYZE"),
        (40, &8i16.to_le_bytes(), "dim[0]"),
        (42, &(-5i16).to_le_bytes(), "dim[1]"),
        (44, &[0, 0], "dim[2]"),
        (70, &32i16.to_le_bytes(), "datatype: complex"),
        (70, &1536i16.to_le_bytes(), "128 bits"),
        (70, &77i16.to_le_bytes(), "77 is no type"),
        (108, &100f32.to_le_bytes(), "vox_offset"),
        (108, &f32::NAN.to_le_bytes(), "vox_offset"),
        (108, &1e9f32.to_le_bytes(), "vox_offset"),
        (280, &[0; 16], "srow_x, srow_y, srow_z: is singular"),
        (280, &f32::NAN.to_le_bytes(), "must be finite"),
    ] {
        let error = changed(at, bytes);
        assert!(error.contains(part), "{error}");
    }
    // Lies about the size: of what is there, and of what memory has.
    let huge: Vec<u8> = [4, 32_000, 32_000, 32_000, 32_000].iter().flat_map(|n: &i16| n.to_le_bytes()).collect();
    assert!(changed(40, &huge).contains("over the limit"));
    let large: Vec<u8> = [3, 1000, 1000, 200].iter().flat_map(|n: &i16| n.to_le_bytes()).collect();
    assert!(changed(40, &large).contains("truncated"));
    assert!(message("b.nii", &good[..200]).contains("truncated"));
    assert!(message("b.nii", &good[..good.len() - 1]).contains("truncated"));
    assert!(message("empty.nii", b"").contains("empty"));
    // The same within gzip, and gzip that is broken.
    let packed = fs::read(fixture("int16.nii.gz")).unwrap();
    assert!(message("c.nii.gz", &packed[..packed.len() / 2]).contains("truncated"));
    assert!(message("c.nii.gz", &packed[..packed.len() - 4]).contains("gzip is damaged"));
    let mut flipped = packed.clone();
    let sum = flipped.len() - 6;
    flipped[sum] ^= 1;
    assert!(message("c.nii.gz", &flipped).contains("gzip is damaged"));
    let mut bomb = good.clone();
    bomb[40..48].copy_from_slice(&large);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&bomb).unwrap();
    encoder.write_all(&vec![0; 200_000]).unwrap();
    assert!(message("bomb.nii.gz", &encoder.finish().unwrap()).contains("truncated"));
    // Forms of the quaternion.
    let qform = unpacked("qform_only.nii.gz");
    let with = |at: usize, value: f32| {
        let mut changed = qform.clone();
        changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
        message("q.nii", &changed)
    };
    for (at, value, part) in
        [(76, 0.5, "pixdim[0]"), (84, -1.0, "pixdim[1..=3]"), (256, 2.0, "quatern_b"), (256, f32::NAN, "quatern_b")]
    {
        let error = with(at, value);
        assert!(error.contains(part), "{error}");
    }
    let mut floats = unpacked("float32.nii.gz");
    floats[352 + 4 * 31..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(message("nan.nii", &floats).contains("voxel (x 1, y 0, z 1): NaN"), "{}", message("nan.nii", &floats));
    fs::create_dir(folder.path().join("folder.nii")).unwrap();
    assert!(matches!(
        read_nifti(folder.path().join("folder.nii"), &Limits::default()),
        Err(DataError::NotAFile { .. })
    ));
    fs::copy(fixture("pair.hdr"), folder.path().join("alone.hdr")).unwrap();
    let alone = read_nifti(folder.path().join("alone.hdr"), &Limits::default()).unwrap_err().to_string();
    assert!(alone.contains("alone.img"), "{alone}");
    let small = Limits { max_bytes: 400, ..Limits::default() };
    assert!(read_nifti(fixture("float32.nii.gz"), &small).unwrap_err().to_string().contains("limit"));
}

#[test]
fn grids_are_resampled_as_by_scipy() {
    for case in &EXPECTED.resampled {
        let geometry = Geometry::with_spacing(case.size, [1.0; 3]).unwrap();
        let volume = Volume::new(geometry.clone(), 1, case.values.clone()).unwrap();
        let name = format!("{:?} to {:?}", case.size, case.target);
        for (by, expected, tolerance) in [
            (Interpolation::Nearest, &case.nearest, 0.0),
            (Interpolation::Linear, &case.linear, 2e-7),
            (Interpolation::Cubic, &case.cubic, 1e-6),
        ] {
            let actual = volume.resized(case.target, [by; 3]).unwrap();
            assert_close(&format!("{name} {by:?}"), actual.as_slice(), expected, tolerance);
        }
        let labels = LabelVolume::new(geometry, case.labels.clone()).unwrap();
        let target = labels.geometry().resized(case.target).unwrap();
        let nearest = labels.resized_to(&target, LabelInterpolation::Nearest).unwrap();
        assert_eq!(nearest.as_slice(), case.labels_nearest, "{name}");
        let linear = labels.resized_to(&target, LabelInterpolation::Linear).unwrap();
        let mut decided = 0;
        for (actual, expected) in
            linear.as_slice().iter().zip(&case.labels_linear).filter(|(_, expected)| **expected >= 0)
        {
            assert_eq!(i64::from(*actual), *expected, "{name}");
            decided += 1;
        }
        assert!(decided * 2 >= case.labels_linear.len());
    }
    let volume = read("int16.nii.gz");
    let cubic = Interpolation::Cubic;
    assert_eq!(volume.resampled([1.25, 1.3, 0.7], [cubic; 3]).unwrap().geometry().size(), [8, 6, 5]);
    for spacing in [[0.0, 1.0, 1.0], [f64::NAN, 1.0, 1.0], [1e-300; 3], [1e-4; 3]] {
        assert!(volume.resampled(spacing, [cubic; 3]).is_err());
    }
    assert_eq!(Interpolation::for_spacing([5.0, 0.7, 0.7]), [Interpolation::Nearest, cubic, cubic]);
    assert_eq!(Interpolation::for_spacing([2.0, 0.7, 0.7]), [cubic; 3]);
}

#[test]
fn canonical_axes_are_those_of_nibabel() {
    for (index, case) in EXPECTED.turned.iter().enumerate() {
        let before = case.before.volume();
        let after = before.reoriented(AxisCodes::CANONICAL);
        case.after.assert(&index.to_string(), &after);
        let back = after.reoriented(before.geometry().axis_codes());
        assert_eq!(back.as_slice(), before.as_slice());
        case.before.assert(&format!("{index} back"), &back);
    }
}

#[test]
fn intensities_are_those_of_nnu_net() {
    let expected = &EXPECTED.intensities;
    let geometry = Geometry::with_spacing([10, 10, 12], [1.0; 3]).unwrap();
    let labels = LabelVolume::new(geometry.clone(), expected.labels.clone()).unwrap();
    let volume = Volume::new(geometry, 1, expected.values.clone()).unwrap();
    let of = ForegroundStatistics::of([(&volume, &labels)], None).unwrap();
    assert_close("statistics", &[of[0].lower, of[0].upper, of[0].mean, of[0].std], &expected.statistics, 1e-6);
    for (intensities, expected) in
        [(Intensities::Ct(of.clone()), &expected.ct), (Intensities::ZScore { nonzero: false }, &expected.z_score)]
    {
        let mut changed = volume.clone();
        intensities.apply(&mut changed).unwrap();
        assert_close(&format!("{intensities:?}"), changed.as_slice(), expected, 1e-6);
        let text = serde_json::to_string(&intensities).unwrap();
        assert_eq!(serde_json::from_str::<Intensities>(&text).unwrap(), intensities);
    }
    // What was cut away stays what it is.
    let mut masked =
        Volume::new(Geometry::with_spacing([1, 1, 4], [1.0; 3]).unwrap(), 1, vec![0.0, 1.0, 3.0, 0.0]).unwrap();
    Intensities::ZScore { nonzero: true }.apply(&mut masked).unwrap();
    assert_eq!(masked.as_slice(), [0.0, -1.0, 1.0, 0.0]);
    assert!(ForegroundStatistics::of([(&volume, &labels)], Some(1)).is_err());
    assert!(Intensities::Ct(vec![of[0]; 2]).apply(&mut volume.clone()).is_err());
    let unordered = ForegroundStatistics { lower: 2.0, upper: 1.0, ..of[0] };
    assert!(Intensities::Ct(vec![unordered]).apply(&mut volume.clone()).is_err());
}

#[cfg(feature = "dicom")]
mod dicom {
    use super::*;

    /// The files of the series, by their place.
    const IN_PLACE: [&str; 4] = ["c.dcm", "a.dcm", "d.dcm", "b.dcm"];

    fn copied(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::copy(fixture("series").join(name), folder.path().join(name)).unwrap();
        }
        folder
    }

    fn refused(folder: &Path) -> String {
        read_dicom(folder, &Limits::default()).unwrap_err().to_string()
    }

    #[test]
    fn series_are_listed() {
        let folder = copied(&IN_PLACE);
        fs::write(folder.path().join("notes.txt"), "not DICOM").unwrap();
        let series = dicom_series(folder.path(), &Limits::default()).unwrap();
        let [series] = series.as_slice() else { panic!("{series:?}") };
        assert_eq!((series.uid.as_str(), series.modality.as_str(), series.files.len()), ("1.2.3.4", "CT", 4));
        assert_eq!(series.windows, [VoiWindow::linear(40.0, 80.0), VoiWindow::linear(400.0, 1800.0)]);
        assert_eq!(series.read(&Limits::default()).unwrap(), read("series"));
        // Of another series.
        let bytes = fs::read(folder.path().join("a.dcm")).unwrap();
        let other: Vec<u8> = replaced(&bytes, b"1.2.3.4\0", b"1.2.3.5\0");
        fs::write(folder.path().join("a.dcm"), other).unwrap();
        let error = refused(folder.path());
        assert!(error.contains("2 series") && error.contains("1.2.3.4, 1.2.3.5"), "{error}");
    }

    fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = bytes.windows(from.len()).position(|part| part == from).expect("the file has it");
        [&bytes[..at], to, &bytes[at + from.len()..]].concat()
    }

    #[test]
    fn series_that_are_no_volume_are_refused_by_name() {
        let error = refused(copied(&["c.dcm", "a.dcm", "b.dcm"]).path());
        assert!(
            error.contains("a slice is missing between") && error.contains("a.dcm") && error.contains("b.dcm"),
            "{error}"
        );
        assert!(error.contains("7.000 mm apart, others"), "{error}");

        let folder = copied(&IN_PLACE);
        fs::copy(fixture("series/a.dcm"), folder.path().join("again.dcm")).unwrap();
        let error = refused(folder.path());
        assert!(error.contains("again.dcm") && error.contains("same place"), "{error}");

        let folder = copied(&IN_PLACE);
        let bytes = fs::read(fixture("series/a.dcm")).unwrap();
        // Rows, (0028,0010), of 6.
        let rows = b"\x28\0\x10\0US\x02\0\x06\0";
        fs::write(folder.path().join("a.dcm"), replaced(&bytes, rows, b"\x28\0\x10\0US\x02\0\x05\0")).unwrap();
        let error = refused(folder.path());
        assert!(error.contains("a.dcm of the same series has 5x5") && error.contains("5x6 pixels"), "{error}");

        fs::write(folder.path().join("a.dcm"), replaced(&bytes, b"1.5\\0.75", b"1.5\\0.85")).unwrap();
        let error = refused(folder.path());
        assert!(error.contains("(0028,0030)") && error.contains("0.85"), "{error}");

        fs::write(folder.path().join("a.dcm"), &bytes[..bytes.len() - 1]).unwrap();
        let error = refused(folder.path());
        assert!(error.contains("a.dcm") && error.contains("truncated"), "{error}");

        fs::write(folder.path().join("a.dcm"), "nothing of the kind").unwrap();
        assert!(refused(folder.path()).contains("a.dcm"));
        assert!(refused(tempfile::tempdir().unwrap().path()).contains("no samples"));
        assert!(refused(Path::new("/nowhere/at/all.dcm")).contains("/nowhere/at/all.dcm"));
    }

    #[test]
    fn bad_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.dcm");
        let message = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = read_dicom(&path, &Limits::default()).unwrap_err().to_string();
            assert!(error.contains("a.dcm"), "{error}");
            error
        };
        let good = fs::read(fixture("rle.dcm")).unwrap();
        for (from, to, part) in [
            (&b"MONOCHROME2 "[..], &b"PALETTECOLOR"[..], "(0028,0004): PALETTECOLOR"),
            (b"\x28\0\0\x01US\x02\0\x10\0", b"\x28\0\0\x01US\x02\0\x01\0", "values of 1 bits"),
            (b"\x28\0\x01\x01US\x02\0\x10\0", b"\x28\0\x01\x01US\x02\0\x11\0", "do not lie in 16"),
            (b"\x28\0\x10\0US\x02\0\x06\0", b"\x28\0\x10\0US\x02\0\x07\0", "its RLE ends before its image"),
            (b"\x28\0\x10\0US\x02\0\x06\0", b"\x28\0\x10\0US\x02\0\x00\0", "5x0 pixels"),
            (b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.6\0", "is not read; save it"),
            (b"1.5\\0.75", b"1.5\\-.75", "must be above 0"),
            (b"1.5\\0.75", b"1.5\\a.75", "is no number"),
            (b"0.86272992\\", b"1.86272992\\", "(0020,0037)"),
        ] {
            let error = message(&replaced(&good, from, to));
            assert!(error.contains(part), "{error}");
        }
        // An empty table of values, behind the group's other elements.
        let at = good.windows(4).position(|tag| tag == b"\xE0\x7F\x10\0").unwrap();
        let table = [&good[..at], &b"\x28\0\0\x30SQ\0\0\0\0\0\0"[..], &good[at..]].concat();
        assert!(message(&table).contains("(0028,3000)"));
        let jpeg = fs::read(fixture("jpeg_lossless.dcm")).unwrap();
        let error = message(&replaced(&jpeg, b"\x28\0\x10\0US\x02\0\x06\0", b"\x28\0\x10\0US\x02\0\x09\0"));
        assert!(error.contains("5x6 pixels, where the header says 5x9"), "{error}");
        // Every shorter file is an error, or the same picture without its last padding; none ends the process.
        for name in ["rle.dcm", "jpeg_lossless.dcm", "jpeg_2000.dcm", "frames.dcm", "series/d.dcm", "series/b.dcm"] {
            let bytes = fs::read(fixture(name)).unwrap();
            for length in (0..bytes.len()).step_by(7) {
                fs::write(&path, &bytes[..length]).unwrap();
                let _ = read_dicom(&path, &Limits { max_bytes: 1 << 20, ..Limits::default() });
            }
            for at in (132..bytes.len()).step_by(5) {
                let mut changed = bytes.clone();
                changed[at] ^= 0xFF;
                fs::write(&path, changed).unwrap();
                let _ = read_dicom(&path, &Limits { max_bytes: 1 << 20, ..Limits::default() });
            }
        }
    }

    #[test]
    fn nested_sequences_and_lying_lengths_end_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep.dcm");
        let mut bytes = fs::read(fixture("series/a.dcm")).unwrap();
        bytes.truncate(bytes.windows(4).position(|tag| tag == b"\xE0\x7F\x10\0").unwrap());
        let start = bytes.len();
        for _ in 0..200_000 {
            bytes.extend_from_slice(b"\x28\0\x45\x91SQ\0\0\xFF\xFF\xFF\xFF\xFE\xFF\0\xE0\xFF\xFF\xFF\xFF");
        }
        fs::write(&path, &bytes).unwrap();
        let error = read_dicom(&path, &Limits::default()).unwrap_err().to_string();
        assert!(error.contains("nested more than 16 deep"), "{error}");
        // Items that reach out of their sequence, and would be read again after it.
        bytes.truncate(start);
        for _ in 0..10 {
            bytes.extend_from_slice(b"\x28\0\x45\x91SQ\0\0\x08\0\0\0\xFE\xFF\0\xE0\xFF\xFF\xFF\xFF");
        }
        fs::write(&path, &bytes).unwrap();
        let error = read_dicom(&path, &Limits::default()).unwrap_err().to_string();
        assert!(error.contains("an item has no end"), "{error}");
        bytes.truncate(start);
        bytes.extend_from_slice(b"\xE0\x7F\x10\0OW\0\0\xF0\xFF\xFF\xFF\0\0");
        fs::write(&path, &bytes).unwrap();
        let error = read_dicom(&path, &Limits::default()).unwrap_err().to_string();
        assert!(error.contains("(7FE0,0010) says 4294967280 bytes where 2 are left"), "{error}");
    }

    #[test]
    fn windows_are_those_of_the_standard() {
        // The example of PS3.3, C.11.2.1.2.1: center 2048, width 4096 and 12 bits leave values as they are.
        let all = VoiWindow::linear(2048.0, 4096.0);
        for value in [0.0f32, 1000.0, 4095.0] {
            assert!((all.apply(value) - value / 4095.0).abs() < 1e-6);
        }
        let step = VoiWindow::linear(100.0, 1.0);
        assert_eq!((step.apply(99.0), step.apply(100.0)), (0.0, 1.0));
        let exact = VoiWindow { function: WindowFunction::LinearExact, ..VoiWindow::linear(0.0, 10.0) };
        assert_eq!((exact.apply(-5.0), exact.apply(0.0), exact.apply(2.5)), (0.0, 0.5, 0.75));
        let sigmoid = VoiWindow { function: WindowFunction::Sigmoid, ..VoiWindow::linear(0.0, 4.0) };
        assert!((sigmoid.apply(1.0) - 1.0 / (1.0 + (-1f32).exp())).abs() < 1e-7);
    }
}
