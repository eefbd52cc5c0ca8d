//! Films of `tests/parity/films.py` and damaged ones.

use std::{fs, path::PathBuf, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, RgbImage};

use super::*;
use crate::{Limits, codecs};

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/films")).join(name)
}

fn read(path: impl AsRef<Path>) -> Result<Vec<DynamicImage>> {
    Film::open(path, &FilmOptions::default())?.collect()
}

/// Frame `t` of the script's second film.
fn square(t: u32) -> RgbImage {
    RgbImage::from_fn(8, 6, |x, y| {
        let inside = (t..t + 2).contains(&x) && (2..4).contains(&y);
        Rgb(if inside { [255, 0, 0] } else { [0, 0, 255] })
    })
}

fn y4m(header: &str, frames: &[&[u8]]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.y4m");
    let mut bytes = format!("YUV4MPEG2 {header}\n").into_bytes();
    frames.iter().for_each(|frame| bytes.extend([b"FRAME\n", *frame].concat()));
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[track_caller]
fn error_of(path: impl AsRef<Path>, words: &[&str]) -> usize {
    let mut good = 0;
    let error = match Film::open(path, &FilmOptions::default()) {
        Ok(film) => film.filter_map(|frame| frame.map(|_| good += 1).err()).last().expect("there is an error"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    good
}

#[test]
fn colors_are_those_of_ffmpeg() {
    let names = [
        "mono",
        "mono_limited",
        "444_limited_601",
        "444_full_709",
        "422_limited_601",
        "420jpeg_limited_601",
        "420_full_601",
        "420mpeg2_limited_709",
        "420paldv_limited_601",
        "420p10_limited_601",
        "444p10_full_709",
    ];
    for name in names {
        let matrix = Some(if name.ends_with("709") { Matrix::Bt709 } else { Matrix::Bt601 });
        let film =
            Film::open(fixture(&format!("{name}.y4m")), &FilmOptions { matrix, ..FilmOptions::default() }).unwrap();
        assert_eq!(film.rate(), Some(FrameRate { numerator: 30_000, denominator: 1001 }));
        let values: Vec<u8> = film.flat_map(|frame| frame.unwrap().as_bytes().to_vec()).collect();
        let truth = fs::read(fixture(&format!("{name}.rgb"))).unwrap();
        assert_eq!(values.len(), truth.len(), "{name}");
        let worst = match name.contains("p10") {
            false => values.iter().zip(&truth).map(|(a, b)| u16::from(a.abs_diff(*b))).max(),
            true => {
                let word = |bytes: &[u8; 2]| u16::from_ne_bytes(*bytes);
                let truth = truth.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
                values.as_chunks::<2>().0.iter().map(word).zip(truth).map(|(a, b)| a.abs_diff(b)).max()
            }
        };
        // One of 255, and of 10 bits' half a step of 65,535 / 1023.
        let most = if name.contains("p10") { 32 } else { 1 };
        assert!(worst.is_some_and(|worst| worst <= most), "{name}: {worst:?}");
    }
}

#[test]
fn forms_of_others_are_read() {
    for name in ["square.gif", "square.png", "square.webp", "square.tif"] {
        let film = Film::open(fixture(name), &FilmOptions::default()).unwrap();
        let rate = (name != "square.tif").then_some(FrameRate { numerator: 1000, denominator: 40 });
        assert_eq!(
            film.rate().map(|r| r.numerator / r.denominator),
            rate.map(|r| r.numerator / r.denominator),
            "{name}"
        );
        let frames: Vec<RgbImage> = film.map(|frame| frame.unwrap().to_rgb8()).collect();
        assert_eq!(frames.len(), 4, "{name}");
        // The decoder of WebP blends opaque pixels with a loss of one.
        let most = u8::from(name == "square.webp");
        for (t, frame) in frames.iter().enumerate() {
            let pairs = frame.as_raw().iter().zip(square(t as u32).into_raw());
            assert!(pairs.map(|(a, b)| a.abs_diff(b)).max() <= Some(most), "{name}, frame {t}");
        }
    }
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let options = FilmOptions::default();
    let rate = Some(FrameRate { numerator: 20, denominator: 1 });
    for name in ["film.y4m", "film.gif", "film.png", "film.webp", "film.tif", "frames", "numbered/f_%02d.png"] {
        let path = folder.path().join(name);
        let mut writer = FilmWriter::create(&path, rate, &options).unwrap();
        (0..4).for_each(|t| writer.write(&square(t).into()).unwrap());
        assert!(writer.write(&RgbImage::new(7, 6).into()).is_err());
        writer.finish().unwrap();
        let film = Film::open(&path, &options).unwrap();
        if ["film.y4m", "film.gif", "film.png", "film.webp"].contains(&name) {
            assert_eq!(film.rate().map(|rate| rate.numerator / rate.denominator), Some(20), "{name}");
        }
        let frames: Vec<RgbImage> = film.map(|frame| frame.unwrap().to_rgb8()).collect();
        assert_eq!(frames.len(), 4, "{name}");
        // Y4M is of 219 levels.
        let most = if name == "film.y4m" { 2 } else { 0 };
        for (t, frame) in frames.iter().enumerate() {
            let pairs = frame.as_raw().iter().zip(square(t as u32).into_raw());
            assert!(pairs.map(|(a, b)| a.abs_diff(b)).max() <= Some(most), "{name}");
        }
    }
    assert!(folder.path().join("numbered/f_03.png").exists());

    let labels = GrayImage::from_fn(5, 3, |x, y| Luma([(x * y * 30) as u8]));
    for name in ["map.y4m", "map.tif", "maps", "map.gif", "map.png", "map.webp"] {
        let path = folder.path().join(name);
        let mut writer = FilmWriter::create(&path, rate, &options).unwrap();
        writer.write(&labels.clone().into()).unwrap();
        writer.finish().unwrap();
        assert_eq!(read(&path).unwrap()[0].to_luma8(), labels, "{name}");
    }
    // More labels than 8 bits have.
    let large = ImageBuffer::from_pixel(5, 3, Luma([300u16]));
    for name in ["large.y4m", "large.gif", "large.png", "large.webp"] {
        let mut writer = FilmWriter::create(folder.path().join(name), rate, &options).unwrap();
        let error = writer.write(&DynamicImage::ImageLuma16(large.clone())).unwrap_err().to_string();
        assert!(error.contains("frame 0") && error.contains("8 bits"), "{error}");
    }
    // An APNG has one kind of pixels; one that is not ended has the frames before.
    let path = folder.path().join("cut.png");
    let mut writer = FilmWriter::create(&path, rate, &options).unwrap();
    (0..2).for_each(|_| writer.write(&labels.clone().into()).unwrap());
    let error = writer.write(&RgbImage::new(5, 3).into()).unwrap_err().to_string();
    assert!(error.contains("frame 2") && error.contains("L8"), "{error}");
    drop(writer);
    assert_eq!(read(&path).unwrap().len(), 2);
    let error = FilmWriter::create(folder.path().join("film.mp4"), rate, &options).err().unwrap().to_string();
    assert!(error.contains("ffmpeg -i -"), "{error}");
}

#[test]
fn headers_that_lie_are_named() {
    let black = [0; 6];
    let cases: [(&str, &[&str]); 10] = [
        ("W2 H2 F25:1 C411", &["color space", "-pix_fmt"]),
        ("W0 H2 F25:1", &["damaged header"]),
        ("W2 Hx F25:1", &["damaged header"]),
        ("H2 F25:1", &["damaged header"]),
        ("W99999999999999999999 H2", &["damaged header"]),
        ("W4294967296 H4294967296 Cmono", &["4294967295"]),
        ("W70000 H2 Cmono", &["70000x2", "65535"]),
        ("W65535 H65535 C444", &["limit"]),
        ("W3 H2 F25:1 C420jpeg", &["3x2", "4:2:0", "yuv444p"]),
        ("W2 H3 F25:1 C420p10", &["2x3", "4:2:0"]),
    ];
    for (header, words) in cases {
        let (_folder, path) = y4m(header, &[&black]);
        assert_eq!(error_of(path, words), 0, "{header}");
    }
    // An odd width is none of 4:2:2's business.
    let (_folder, path) = y4m("W3 H1 C422", &[&[0; 7]]);
    assert_eq!(read(path).unwrap()[0].width(), 3);
}

#[test]
fn frames_before_damage_are_good() {
    // Wider than the frames are: the second does not begin where it should.
    let (_folder, path) = y4m("W4 H2 Cmono", &[&[9; 6], &[9; 6], &[9; 6]]);
    assert_eq!(error_of(path, &["frame 1", "the header lies"]), 1);
    let (_folder, path) = y4m("W3 H2 Cmono", &[&[9; 6], &[9; 5]]);
    assert_eq!(error_of(path, &["film.y4m", "frame 1", "ends within"]), 1);
    let (_folder, path) = y4m("W3 H2 Cmono", &[]);
    assert_eq!(error_of(path, &["frame 0", "no frames"]), 0);

    let folder = tempfile::tempdir().unwrap();
    for (name, good) in [("square.gif", 2), ("square.png", 1), ("square.webp", 1), ("square.tif", 1)] {
        let bytes = fs::read(fixture(name)).unwrap();
        let path = folder.path().join(name);
        fs::write(&path, &bytes[..bytes.len() * 3 / 4]).unwrap();
        assert!(error_of(&path, &[name, "frame "]) >= good, "{name}");
        // Bytes that are not those of the format: an error or another picture, but no panic.
        for at in (0..bytes.len()).step_by(3) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x5a;
            fs::write(&path, &bytes).unwrap();
            let _ = read(&path);
        }
    }
}

#[test]
fn folders_have_one_size_and_no_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for number in [9, 10, 11] {
        codecs::write_image(at(&format!("f{number}.png")), &GrayImage::from_pixel(3, 2, Luma([number])).into())
            .unwrap();
    }
    let numbers = |path: PathBuf| read(path).unwrap().iter().map(|frame| frame.as_bytes()[0]).collect::<Vec<_>>();
    assert_eq!(numbers(folder.path().into()), [9, 10, 11]);
    assert_eq!(numbers(at("f%d.png")), [9, 10, 11]);
    assert_eq!(numbers(at("f%02d.png")), [10, 11]);
    codecs::write_image(at("f13.png"), &GrayImage::new(2, 2).into()).unwrap();
    error_of(at("f%d.png"), &["f12.png", "between 11 and 13"]);
    assert_eq!(error_of(folder.path(), &["frame 3", "2x2", "3x2"]), 3);
    fs::write(at("f12.png"), "no image").unwrap();
    assert_eq!(error_of(folder.path(), &["frame 3", "f12.png"]), 3);
    error_of(at("g%d.png"), &["has no frames"]);
    error_of(at("none.gif"), &["none.gif"]);
    fs::write(at("film.mp4"), "\0\0\0\x20ftypisom").unwrap();
    error_of(at("film.mp4"), &["ffmpeg -i"]);
}

#[test]
fn limits_hold_for_films() {
    let decode = DecodeOptions { limits: Limits { max_width: 7, ..Limits::default() }, ..DecodeOptions::default() };
    for name in ["square.gif", "square.png", "square.webp", "square.tif", "mono.y4m"] {
        let film = Film::open(fixture(name), &FilmOptions { decode, matrix: None });
        let error = film.and_then(|film| film.collect::<Result<Vec<_>>>()).unwrap_err().to_string();
        assert!(error.contains("limit"), "{error}");
    }
}

/// A film without an end.
struct Endless(usize, &'static AtomicUsize);

impl FrameSource for Endless {
    fn rate(&self) -> Option<FrameRate> {
        None
    }

    fn next_frame(&mut self) -> Result<Option<DynamicImage>> {
        self.0 += 1;
        self.1.fetch_max(self.0, Ordering::Relaxed);
        Ok(Some(GrayImage::from_pixel(2, 2, Luma([self.0 as u8])).into()))
    }
}

#[test]
fn stages_wait_for_each_other_and_end_at_errors() {
    static READ: AtomicUsize = AtomicUsize::new(0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.y4m");
    let create = |rate| FilmWriter::create(&path, rate, &FilmOptions::default());
    let endless = || Ok(Film::new("endless", Box::new(Endless(0, &READ))));
    let mut most = 0;
    let stopped = process(
        endless,
        create,
        |number, frame| {
            most = most.max(READ.load(Ordering::Relaxed) - number as usize);
            if number == 50 { Err(DataError::option("frame", "enough")) } else { Ok(Some(frame)) }
        },
        |_| {},
    );
    assert!(stopped.unwrap_err().to_string().contains("enough"));
    // Those that wait, the one that is computed, the one that is read.
    assert!(most <= 4 + 3, "{most} frames in memory");
    let frames = read(&path).unwrap();
    assert!(frames.len() == 50 && frames.iter().enumerate().all(|(t, frame)| frame.as_bytes()[0] == t as u8 + 1));

    // Damage at frame 1 leaves frame 0; a writer's error stops the rest; a film that is not there is one.
    let (_folder, damaged) = y4m("W3 H2 Cmono", &[&[9; 6], &[9; 5]]);
    let open = || Film::open(&damaged, &FilmOptions::default());
    let run = process(open, create, |_, frame| Ok::<_, DataError>(Some(frame)), |_| {});
    assert!(run.unwrap_err().to_string().contains("frame 1"));
    assert_eq!(read(&path).unwrap().len(), 1);
    let grow = |number, _| Ok::<_, DataError>(Some(GrayImage::new(2 + number as u32, 2).into()));
    assert!(process(endless, create, grow, |_| {}).unwrap_err().to_string().contains("size of the first"));
    let nowhere = |_| FilmWriter::create("/dev/null/film.y4m", None, &FilmOptions::default());
    assert!(process(endless, nowhere, |_, frame| Ok::<_, DataError>(Some(frame)), |_| {}).is_err());
    let absent = || Film::open("absent.gif", &FilmOptions::default());
    assert!(process(absent, create, |_, frame| Ok::<_, DataError>(Some(frame)), |_| {}).is_err());
}

#[test]
fn a_film_stays_until_the_one_that_replaces_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["film.y4m", "film.gif", "film.png", "film.webp", "film.tif"] {
        let path = folder.path().join(name);
        let begin = |frames: u32| {
            let mut writer = FilmWriter::create(&path, None, &FilmOptions::default()).unwrap();
            (0..frames).for_each(|t| writer.write(&square(t).into()).unwrap());
            writer
        };
        begin(3).finish().unwrap();
        let before = std::fs::read(&path).unwrap();
        let writer = begin(2);
        assert!(std::fs::read(&path).unwrap() == before, "{name}");
        // One that fails, or has no frame, replaces nothing.
        drop(writer);
        begin(0).finish().unwrap();
        assert!(std::fs::read(&path).unwrap() == before, "{name}");
        begin(2).finish().unwrap();
        assert_eq!(read(&path).unwrap().len(), 2, "{name}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
}
