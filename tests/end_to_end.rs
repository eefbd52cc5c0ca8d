//! From files to a trained network and back to files, as a user goes: `unet_train`, `volume_train`, `unet_predict`, `embed`, `video`.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::{Device, Tensor, TensorData};
use common::{Random, discs, example, files, run, run_badly, run_well, unet_predict, unet_train, write_pair};
use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, Rgba};
use segkiln::{
    SegmentOptions, Segmenter, WindowOptions,
    core::{Classes, LabelMap},
    data::{
        Cleaning, CleaningStep, DecodeOptions, Limits, Loader, Normalize,
        films::{Film, FilmOptions, FilmWriter, Flicker, ProbabilitySmoother, most_likely},
        regions::{GeoTags, Region, RegionSource, SampleType, TiffSink, TiffSinkOptions, TiffSource},
        transforms::Compose,
        volumes::{
            Case, Geometry, LabelVolume, PatchMotion, PatchOptions, PatchTransform, PatchesDataset, Volume, read_nifti,
            read_nifti_labels, write_nifti, write_nifti_labels,
        },
        write_image,
    },
    models::{
        ModelCard,
        volumes::{StackedUNet3d, StackedUNet3dConfig, UNet3dConfig},
    },
    segment_windows,
    track::{CellTracker, CellTrackerOptions, mot},
    train::{Run, SegmentationTask, TrainingOptions, schedule::ScheduleConfig, train},
};
use serde_json::Value;
use tempfile::TempDir;

const EPOCHS: usize = 4;

/// A trained network with the folders that it was made from and in.
struct Trained {
    folder: TempDir,
    stdout: String,
    result: Value,
}

impl Trained {
    /// Trains on images of several sizes, depths and formats.
    fn new(splits: &[(&str, usize)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        for (number, (split, count)) in splits.iter().enumerate() {
            let stems: Vec<String> = (0..*count).map(|index| format!("{split} {index}")).collect();
            for (index, stem) in stems.iter().enumerate() {
                let [width, height] = [[48, 40], [64, 56], [33, 71], [80, 48]][index % 4];
                let (image, mask) = discs((100 * number + index) as u64, width, height);
                let (extension, image) = match index % 4 {
                    0 => ("tiff", yellow(&image)),
                    1 => ("png", sixteen_bits(&image)),
                    2 => ("jpg", image.into()),
                    _ => ("bmp", image.into()),
                };
                write_pair(&data, stem, extension, &image, &mask);
            }
            fs::write(data.join(format!("{split}.txt")), stems.join("\r\n")).unwrap();
        }
        let mut command = unet_train(&data, &folder.path().join("run"));
        command.args(["--epochs", &EPOCHS.to_string(), "--base", "4", "--lr", "2e-2"]);
        let ended = run(&mut command);
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
        assert_eq!(ended.stderr, "");
        Self { result: ended.result(), stdout: ended.stdout, folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn segmenter(&self) -> Segmenter {
        Segmenter::load(self.at("run"), &Device::default()).unwrap()
    }
}

fn yellow(image: &GrayImage) -> DynamicImage {
    let mut image = DynamicImage::from(image.clone()).into_rgb8();
    image.pixels_mut().for_each(|pixel| pixel[2] /= 4);
    image.into()
}

fn sixteen_bits(image: &GrayImage) -> DynamicImage {
    let pixels = image.pixels().map(|pixel| u16::from(pixel[0]) * 257).collect();
    ImageBuffer::<Luma<u16>, _>::from_raw(image.width(), image.height(), pixels).unwrap().into()
}

/// A map that `unet_predict` wrote: 8-bit gray, of the two classes, as large as the image.
fn class_map(path: &Path, [width, height]: [u32; 2]) -> Vec<u8> {
    let DynamicImage::ImageLuma8(map) = image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    else {
        panic!("{} is not 8-bit gray", path.display());
    };
    assert_eq!([map.width(), map.height()], [width, height], "{}", path.display());
    assert!(map.as_raw().iter().all(|class| *class <= 1), "{} has other classes", path.display());
    map.into_raw()
}

fn bytes(map: &LabelMap) -> Vec<u8> {
    map.as_slice().iter().map(|label| *label as u8).collect()
}

/// Share of the pixels in which two maps agree.
fn agreement(a: &[u8], b: &[u8]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

#[test]
fn a_network_learns_and_its_files_are_as_promised() {
    let trained = Trained::new(&[("train", 8), ("val", 4), ("test", 3)]);
    let result = trained.result.as_object().unwrap();
    let mut keys: Vec<_> = result.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["dice", "epochs", "images", "iou", "pixel_accuracy", "seconds", "split"]);
    assert_eq!((&result["split"], &result["images"], &result["epochs"]), (&"test".into(), &3.into(), &EPOCHS.into()));
    let figure = |name: &str| result[name].as_f64().unwrap_or_else(|| panic!("{name} of {result:?} is no number"));
    let (dice, iou) = (figure("dice"), figure("iou"));
    assert!(dice > 0.9 && figure("pixel_accuracy") > 0.95, "{result:?}");
    assert!((iou - dice / (2.0 - dice)).abs() < 1e-9, "{result:?}");
    assert!(figure("seconds") > 0.0);

    // Between the start and the result a line an epoch, and nothing else.
    let lines: Vec<&str> = trained.stdout.lines().collect();
    assert_eq!(lines.len(), EPOCHS + 1, "{}", trained.stdout);
    for (index, line) in lines[..EPOCHS].iter().enumerate() {
        assert!(line.starts_with(&format!("epoch {}/{EPOCHS}  lr ", index + 1)), "{line}");
    }

    // Of checkpoints the last two are kept.
    let mut expected = [
        "best.bpk",
        "checkpoint/00003/model.bpk",
        "checkpoint/00003/optimizer.bpk",
        "checkpoint/00003/schedule.bpk",
        "checkpoint/00003/state.json",
        "checkpoint/00004/model.bpk",
        "checkpoint/00004/optimizer.bpk",
        "checkpoint/00004/schedule.bpk",
        "checkpoint/00004/state.json",
        "config.json",
        "curves.svg",
        "last.bpk",
        "metrics.csv",
        "overlays/test 0.png",
        "overlays/test 1.png",
        "overlays/test 2.png",
    ]
    .map(PathBuf::from);
    expected.sort();
    assert_eq!(files(&trained.at("run")), expected);
    let csv = fs::read_to_string(trained.at("run/metrics.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + EPOCHS, "{csv}");
    assert!(csv.lines().all(|line| line.split(',').count() == 8 && !line.contains(",,")), "{csv}");
    assert!(fs::read_to_string(trained.at("run/curves.svg")).unwrap().starts_with("<svg"));
    // The image, the truth and the result in a row.
    let overlay = image::open(trained.at("run/overlays/test 1.png")).unwrap();
    assert!(overlay.width() >= 3 * 64 && overlay.height() == 56, "{}x{}", overlay.width(), overlay.height());
}

#[test]
fn without_a_test_list_the_validation_images_are_measured() {
    let trained = Trained::new(&[("train", 4), ("val", 2)]);
    assert_eq!((&trained.result["split"], &trained.result["images"]), (&"val".into(), &2.into()));
}

#[test]
fn images_of_any_format_and_size_are_predicted_as_by_the_library() {
    let trained = Trained::new(&[("train", 8), ("val", 4), ("test", 1)]);
    let input = trained.at("input");
    fs::create_dir(&input).unwrap();
    let (picture, truth) = discs(77, 96, 80);
    let rgba = |x: u32, y: u32| Rgba([picture.get_pixel(x, y)[0], picture.get_pixel(x, y)[0], 0, 200]);
    let images: [(&str, DynamicImage); 8] = [
        ("one pixel.png", GrayImage::from_pixel(1, 1, Luma([200])).into()),
        ("narrow.png", discs(5, 7, 300).0.into()),
        ("wide.bmp", discs(6, 301, 3).0.into()),
        ("deep.png", sixteen_bits(&picture)),
        ("clear.png", ImageBuffer::from_fn(96, 80, rgba).into()),
        ("photo.JPG", picture.clone().into()),
        ("scan.tif", yellow(&picture)),
        ("web.webp", DynamicImage::from(picture.clone()).into_rgb8().into()),
    ];
    for (name, image) in &images {
        write_image(input.join(name), image).unwrap();
    }
    fs::write(input.join("notes.txt"), "no image").unwrap();
    let result = run_well(&mut unet_predict(&trained.at("run"), &input, &trained.at("out")));
    assert_eq!(result["images"], images.len());
    assert_eq!(files(&trained.at("out")).len(), 2 * images.len());

    let segmenter = trained.segmenter();
    for (name, image) in &images {
        let stem = name.split('.').next().unwrap();
        let map = class_map(&trained.at("out").join(format!("{stem}.png")), [image.width(), image.height()]);
        let overlay = image::open(trained.at("out").join(format!("{stem}_overlay.png"))).unwrap();
        assert_eq!([overlay.width(), overlay.height()], [image.width(), image.height()], "{name}");
        let format = ImageFormat::from_path(name).unwrap();
        let image = image::load_from_memory_with_format(&fs::read(input.join(name)).unwrap(), format).unwrap();
        assert!(map == bytes(segmenter.segment(&image).unwrap().map()), "{name}: the library gives another map");
    }
    // Depth, alpha and compression do not change what is in a picture.
    let truth: Vec<u8> = truth.as_slice().iter().map(|label| u8::from(*label > 0)).collect();
    for stem in ["deep", "clear", "photo", "scan", "web"] {
        let share = agreement(&class_map(&trained.at("out").join(format!("{stem}.png")), [96, 80]), &truth);
        assert!(share > 0.93, "{stem}: {share} of the pixels are right");
    }
}

#[test]
fn tiffs_are_predicted_by_region_with_the_same_result() {
    let trained = Trained::new(&[("train", 8), ("val", 4), ("test", 1)]);
    let (width, height) = (700, 530);
    let scene = trained.at("scene.tif");
    write_image(&scene, &discs(78, width, height).0.into()).unwrap();
    run_well(&mut unet_predict(&trained.at("run"), &scene, &trained.at("whole")));
    let expected = class_map(&trained.at("whole/scene.png"), [width, height]);
    assert!(expected.contains(&0) && expected.contains(&1));

    let predict = |out: &str, flags: &[&str]| {
        let mut command = unet_predict(&trained.at("run"), &scene, &trained.at(out));
        command.args(flags);
        command
    };
    let ended = run(&mut predict("tiles", &["--tiff", "--tile", "512"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("margins of 128: no seams"), "{}", ended.stderr);
    assert_eq!(files(&trained.at("tiles")), [PathBuf::from("scene.tif")]);
    let source = TiffSource::open(trained.at("tiles/scene.tif"), DecodeOptions::default()).unwrap();
    let found = source.read(0, Region { left: 0, top: 0, width, height }).unwrap().image;
    let found: Vec<u8> = found.as_slice().iter().map(|value| (255.0 * value).round() as u8).collect();
    assert!(found == expected, "tiles give another map");
    assert_eq!(source.levels().len(), 3);

    // The objects are the same, and so are their measures.
    let objects = |flags: &[&str]| {
        let (out, geojson) = (trained.at("objects"), trained.at("objects/scene.geojson"));
        let geojson = geojson.to_str().unwrap();
        let flags = [&["--instances", "watershed", "--geojson", geojson], flags].concat();
        run_well(&mut predict("objects", &flags));
        let numbers = TiffSource::open(out.join("scene_instances.tif"), DecodeOptions::default()).unwrap();
        let numbers = numbers.read_labels(0, Region { left: 0, top: 0, width, height }).unwrap();
        (numbers, fs::read_to_string(geojson).unwrap())
    };
    let (numbers, features) = objects(&[]);
    assert!(numbers.iter().zip(&expected).all(|(number, class)| (*number > 0) == (*class > 0)));
    assert_eq!(features.matches("\"Feature\"").count(), *numbers.iter().max().unwrap() as usize);
    assert!(objects(&["--tiff", "--tile", "512"]) == (numbers, features), "tiles give other objects");

    // So do steps that clean the map, by rows or in memory, here such as the program chooses and two that change the map.
    let mut train = unet_train(&trained.at("data"), &trained.at("chosen"));
    run_well(train.args(["--epochs", "2", "--base", "4", "--lr", "2e-2", "--choose-cleaning"]));
    let chosen = Cleaning::read(trained.at("chosen/cleaning.json")).unwrap();
    assert!(chosen.steps.iter().all(|(class, _)| *class == 1), "{chosen:?}");
    let steps = Cleaning { steps: vec![(1, CleaningStep::Opening(2)), (1, CleaningStep::MinArea(60))] };
    for (name, steps) in [("chosen", chosen), ("steps", steps)] {
        let file = trained.at(&format!("{name}.json"));
        fs::write(&file, serde_json::to_string(&steps).unwrap()).unwrap();
        let clean = ["--clean", file.to_str().unwrap()];
        run_well(&mut predict("clean", &clean));
        run_well(&mut predict("clean", &[&clean[..], &["--tiff", "--tile", "512"]].concat()));
        let whole = class_map(&trained.at("clean/scene.png"), [width, height]);
        let source = TiffSource::open(trained.at("clean/scene.tif"), DecodeOptions::default()).unwrap();
        let labels = source.read_labels(0, Region { left: 0, top: 0, width, height }).unwrap();
        assert!(labels.iter().zip(&whole).all(|(label, expected)| *label == u32::from(*expected)), "{name}");
        assert!(name == "chosen" || whole != expected, "the steps change nothing");
        assert_eq!(files(&trained.at("clean")).len(), 3);
    }

    // Results of the picture's size from a level of half the width and height.
    let pyramid = trained.at("pyramid.tif");
    let options =
        TiffSinkOptions { width, height, bands: 1, samples: SampleType::U8, geo: GeoTags::default(), identity: None };
    let mut file = TiffSink::create(&pyramid, options).unwrap();
    let pixels = discs(78, width, height).0;
    file.push_labels(&pixels.as_raw().iter().map(|value| u32::from(*value)).collect::<Vec<u32>>()).unwrap();
    file.finish().unwrap();
    let at_level = |out: &str, flags: &[&str]| {
        run_well(unet_predict(&trained.at("run"), &pyramid, &trained.at(out)).args(["--level", "1"]).args(flags));
        TiffSource::open(trained.at(out).join("pyramid.tif"), DecodeOptions::default()).unwrap()
    };
    let (half, full) = (at_level("half", &[]), at_level("full", &["--result-level", "0", "--probabilities"]));
    let small = half.read_labels(0, Region { left: 0, top: 0, width: 350, height: 265 }).unwrap();
    let large = full.read_labels(0, Region { left: 0, top: 0, width, height }).unwrap();
    assert!(
        small.contains(&1)
            && (0..height)
                .all(|y| (0..width).all(|x| large[(y * width + x) as usize] == small[(y / 2 * 350 + x / 2) as usize]))
    );
    let probabilities = trained.at("full/pyramid_probabilities.tif");
    let probabilities = TiffSource::open(probabilities, DecodeOptions::default()).unwrap();
    assert_eq!((probabilities.bands(), probabilities.levels()[0].width), (2, width));

    // A share of data is asked of small TIFFs too.
    run_well(&mut predict("share", &["--skip-below", "0.5"]));
    assert_eq!(files(&trained.at("share")), [PathBuf::from("scene.tif")]);
    let mut command = unet_predict(&trained.at("run"), &trained.at("whole/scene.png"), &trained.at("levels"));
    let error = run_badly(command.args(["--skip-below", "0.5"]));
    assert!(error.contains("skip-below: is for TIFFs"), "{error}");

    let error = run_badly(&mut predict("levels", &["--mpp", "0.5"]));
    assert!(error.contains("scene.tif does not say how large its pixels are"), "{error}");
    let error = run_badly(&mut predict("", &["--tiff"]));
    assert!(error.contains("scene.tif is an input and would be replaced"), "{error}");
    let error = run_badly(&mut predict("levels", &["--level", "2"]));
    assert!(error.contains("level") && error.contains("0 to 0"), "{error}");
    // A mask is an input too, and an image that is no TIFF has no levels.
    let mask = trained.at("tiles/scene.tif");
    let error = run_badly(&mut predict("tiles", &["--tiff", "--skip-mask", mask.to_str().unwrap()]));
    assert!(error.contains("scene.tif is an input and would be replaced"), "{error}");
    let mut command = unet_predict(&trained.at("run"), &trained.at("whole/scene.png"), &trained.at("levels"));
    let error = run_badly(command.args(["--level", "1"]));
    assert!(error.contains("level: is for TIFFs"), "{error}");
}

#[test]
fn tiles_and_mirror_images_mostly_agree_with_the_whole() {
    let trained = Trained::new(&[("train", 8), ("val", 4), ("test", 1)]);
    // A field of 6 × 5 small pictures, with discs on the tiles' borders too.
    let mut random = Random(1);
    let mut field = GrayImage::new(6 * 40, 5 * 36);
    for (x, y) in (0..5).flat_map(|row| (0..6).map(move |column| (column * 40, row * 36))) {
        image::imageops::replace(&mut field, &discs(random.next(), 40, 36).0, x, y);
    }
    let input = trained.at("field.png");
    field.save(&input).unwrap();
    let size = [field.width(), field.height()];

    let predict = |out: &str, options: &[&str]| {
        run_well(unet_predict(&trained.at("run"), &input, &trained.at(out)).args(options));
        class_map(&trained.at(out).join("field.png"), size)
    };
    let whole = predict("whole", &[]);
    let foreground = whole.iter().filter(|class| **class == 1).count() as f64 / whole.len() as f64;
    assert!((0.1..0.6).contains(&foreground), "{foreground} is foreground");
    let in_tiles = predict("in tiles", &["--tile", "64", "--overlap", "0.5", "--tta"]);
    let share = agreement(&whole, &in_tiles);
    assert!(share > 0.97, "{share} of the pixels agree");
    assert!(whole != in_tiles, "tiles and mirror images change nothing: are they used?");
    assert!(whole == predict("one tile", &["--tile", "240"]), "one tile is the whole image");
}

#[test]
fn embed_counts_the_foreground_of_each_image() {
    let trained = Trained::new(&[("train", 4), ("val", 2)]);
    let images = ["data/images/train 1.png", "data/images/val 0.tiff"].map(|path| trained.at(path));
    let ended = run(example("embed").arg(trained.at("run")).args(&images));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let segmenter = trained.segmenter();
    for path in images {
        let result = segmenter.segment(&image::open(&path).unwrap()).unwrap();
        let labels = result.map().as_slice();
        let share = 100.0 * labels.iter().filter(|label| **label > 0).count() as f64 / labels.len() as f64;
        let line = format!("{}: {share:.1} % foreground", path.display());
        assert!(ended.stdout.lines().any(|other| other == line), "no {line:?} in\n{}", ended.stdout);
    }
}

#[test]
fn films_are_segmented_smoothed_and_tracked() {
    const FRAMES: u32 = 6;
    let trained = Trained::new(&[("train", 4), ("val", 2)]);
    let options = FilmOptions::default();
    let count = |path: &str| Film::open(trained.at(path), &options).unwrap().filter(|frame| frame.is_ok()).count();
    let video = |input: &str, output: &str| {
        let mut command = example("video");
        let path = |film: &str| if film == "-" { film.into() } else { trained.at(film) };
        command.arg("--model").arg(trained.at("run"));
        command.arg("--input").arg(path(input)).arg("--output").arg(path(output));
        command
    };
    // A camera that moves to the right.
    let scene = DynamicImage::from(discs(7, 80, 56).0);
    let frame = |t: u32| scene.crop_imm(2 * t, 0, 64, 56);
    let write = |path: &str, frame: &dyn Fn(u32) -> DynamicImage| {
        let mut film = FilmWriter::create(trained.at(path), None, &options).unwrap();
        (0..FRAMES).for_each(|t| film.write(&frame(t)).unwrap());
        film.finish().unwrap();
    };
    write("frames", &frame);
    write("film.y4m", &frame);

    let result = run_well(video("frames", "tracks.gif").arg("--track").arg("--mot").arg(trained.at("mot.txt")));
    assert_eq!((&result["frames"], count("tracks.gif")), (&FRAMES.into(), FRAMES as usize));
    let boxes = mot::read(trained.at("mot.txt")).unwrap();
    let lasting = |id: u64| boxes.iter().filter(|line| line.id == Some(id)).count() == FRAMES as usize;
    let tracks = result["tracks"].as_u64().unwrap();
    assert!((1..=tracks).any(lasting), "no track through the film: {boxes:?}");

    run_well(video("frames", "maps").arg("--map"));
    let segmenter = trained.segmenter();
    for t in [0, 5] {
        let map = class_map(&trained.at(&format!("maps/{t:06}.png")), [64, 56]);
        assert_eq!(map, bytes(segmenter.segment(&frame(t)).unwrap().map()));
    }

    // The same picture with noise of less than what counts as a change: the program's figures are the library's.
    let noisy = |t: u32| {
        let mut random = Random(t.into());
        let mut image = frame(0).into_luma8();
        image.pixels_mut().for_each(|pixel| pixel[0] = pixel[0].saturating_add(random.range(0, 5) as u8));
        DynamicImage::from(image)
    };
    write("noisy", &noisy);
    let result = run_well(video("noisy", "smooth.tif").args(["--smooth", "0.8"]));
    let (mut smoother, mut flicker) =
        (ProbabilitySmoother::new(0.8).unwrap(), [Flicker::default(), Flicker::default()]);
    for t in 0..FRAMES {
        let options = SegmentOptions { probabilities: true, ..SegmentOptions::default() };
        let found = segmenter.segment_with(&noisy(t), &options).unwrap();
        let planes = [0, 1].map(|class| found.probabilities(class).unwrap());
        let smoothed = most_likely(smoother.smooth(planes.concat()).unwrap(), 64, 56).unwrap();
        flicker[0].add(&noisy(t), found.map()).unwrap();
        flicker[1].add(&noisy(t), &smoothed).unwrap();
    }
    let figures = ["before", "after"].map(|when| result["flicker"][when].as_f64());
    assert_eq!(figures, flicker.map(|figure| figure.share()));
    assert!(figures[0].is_some() && figures[1] <= figures[0], "{result}");
    let result = run_well(video("noisy", "every.y4m").args(["--every", "4"]));
    assert_eq!((&result["frames"], count("every.y4m")), (&FRAMES.into(), FRAMES as usize));

    // Y4M through pipes, of which the second is cut off.
    let film = fs::read(trained.at("film.y4m")).unwrap();
    fs::write(trained.at("cut.y4m"), &film[..film.len() - 1]).unwrap();
    for (input, code, frames) in [("film.y4m", 0, 6), ("cut.y4m", 1, 5)] {
        let mut command = video("-", "-");
        command.stdin(fs::File::open(trained.at(input)).unwrap());
        let ended = run(command.stdout(fs::File::create(trained.at("out.y4m")).unwrap()));
        assert_eq!((ended.code, count("out.y4m")), (Some(code), frames), "{}", ended.stderr);
        let last = ended.stderr.lines().last().unwrap();
        match code {
            0 => assert_eq!(serde_json::from_str::<Value>(last).unwrap()["frames"], 6),
            _ => assert_eq!(last, "error: -, frame 5 (counted from 0): the film ends within the frame"),
        }
    }
    assert!(run_badly(&mut video("frames", "frames")).contains("would be replaced"));
}

/// What `tests/parity/hela.py` counts by SciPy's assignment.
#[test]
fn cells_of_a_published_film_are_followed() {
    let Ok(folder) = std::env::var("SEGKILN_HELA").map(PathBuf::from) else {
        eprintln!("skipped: SEGKILN_HELA names no folder, see tests/parity/hela.py");
        return;
    };
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let mut tracker = CellTracker::new(CellTrackerOptions::default()).unwrap();
    let (mut cells, mut links, mut before) = (Vec::new(), 0, 0);
    for frame in Film::open(folder.join("labels.tif"), &FilmOptions::default()).unwrap() {
        let frame = frame.unwrap();
        let DynamicImage::ImageLuma16(image) = frame else { panic!("{:?} are no labels of 16 bits", frame.color()) };
        let labels = image.pixels().map(|pixel| pixel[0].into()).collect();
        let found = tracker.update(&LabelMap::new(image.width(), image.height(), labels).unwrap()).unwrap();
        let numbers = found.labels().into_iter().filter(|label| *label > 0).collect::<Vec<_>>();
        links += numbers.iter().filter(|number| **number <= before).count();
        before = tracker.tracks().len() as u32;
        cells.push(numbers.len());
    }
    let mothers: BTreeSet<u32> = tracker.tracks().iter().filter_map(|track| track.parent).collect();
    let found = serde_json::json!({
        "frames": cells.len(), "cells": cells, "tracks": tracker.tracks().len(), "divisions": mothers.len(), "links": links,
    });
    assert_eq!(found, expected);
}

/// A volume of noise with a bright ball, and the ball's voxels.
fn ball(number: u64) -> Arc<Case> {
    let mut random = Random(number);
    let size = [12, 24, 20];
    let center = size.map(|side| f64::from(random.range(side as u32 / 3, side as u32 / 3 * 2)));
    let geometry = Geometry::with_spacing(size, [2.0, 1.0, 1.0]).unwrap();
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for voxel in 0..geometry.voxels() {
        let at = [voxel / (size[1] * size[2]), voxel / size[2] % size[1], voxel % size[2]];
        let apart: f64 = (0..3).map(|axis| (at[axis] as f64 - center[axis]).powi(2)).sum();
        let inside = apart < 25.0;
        values.push(random.range(0, 100) as f32 / 100.0 + if inside { 1.0 } else { 0.0 });
        labels.push(u32::from(inside));
    }
    Arc::new(Case {
        name: format!("ball {number}"),
        image: Volume::new(geometry.clone(), 1, values).unwrap(),
        labels: LabelVolume::new(geometry, labels).unwrap(),
    })
}

#[test]
fn a_network_of_volumes_learns_and_goes_on_with_the_same_bits() {
    let (folder, device, classes) = (tempfile::tempdir().unwrap(), Device::default(), Classes::binary());
    const PATCH: [usize; 3] = [8, 16, 16];
    let patches = |numbers: std::ops::Range<u64>| {
        let options = PatchOptions { patch: PATCH, per_case: 6, foreground: 0.5, ignore_index: None, seed: 1 };
        PatchesDataset::new(numbers.map(ball).collect(), &classes, options).unwrap()
    };
    let unet = UNet3dConfig::new(1, 1).with_base(8).with_depth(2).with_deep_supervision(true);
    let model = StackedUNet3dConfig::new(unet, 8);
    let normalize = Normalize::of_dataset(&patches(0..4)).unwrap();
    let card = ModelCard { model, classes: classes.clone(), color: None, normalize: normalize.clone() };
    // Two and two epochs are four at once.
    for (run, epochs, resume) in [("run", 2, false), ("run", 4, true), ("at once", 4, false)] {
        let training = patches(0..4).with_motion(PatchMotion::nnunet(PATCH)).unwrap();
        let augment = Compose::new().then(normalize.clone()).then(PatchTransform::nnunet(PATCH));
        train(Run {
            folder: folder.path().join(run),
            task: SegmentationTask::new(card.clone()),
            options: TrainingOptions {
                epochs,
                batch_size: 4,
                learning_rate: 1e-2,
                schedule: ScheduleConfig::Constant,
                ..TrainingOptions::default()
            },
            data: Default::default(),
            weights: None,
            train: Loader::drawn(Arc::new(training)).transform(augment),
            valid: Loader::builder(Arc::new(patches(4..5))).transform(normalize.clone()),
            device: device.clone(),
            resume,
        })
        .unwrap();
    }

    let weights = |run: &str| fs::read(folder.path().join(run).join("last.bpk")).unwrap();
    assert!(weights("run") == weights("at once"), "a resumed run sees other patches");

    let segmenter = Segmenter::<StackedUNet3d>::load_network(folder.path().join("run"), &device).unwrap();
    let case = ball(9);
    let normalized = |value: &f32| (value - normalize.mean()[0]) / normalize.std()[0];
    let values: Vec<f32> = case.image.as_slice().iter().map(normalized).collect();
    let [depth, height, width] = case.image.geometry().size();
    let x = Tensor::from_data(TensorData::new(values, [1, 1, depth, height, width]), &device);
    let options = WindowOptions { patch: PATCH, overlap: 0.5 };
    let logits = segment_windows(x, &options, |x| segmenter.model().unet.forward(x)).unwrap();
    let found: Vec<bool> = logits.into_data().iter::<f32>().map(|logit| logit > 0.0).collect();
    let truth = case.labels.as_slice().iter().map(|label| *label == 1);
    let both = found.iter().zip(truth.clone()).filter(|(found, truth)| **found && *truth).count();
    let all = found.iter().filter(|found| **found).count() + truth.filter(|truth| *truth).count();
    let dice = 2.0 * both as f64 / all as f64;
    assert!(dice > 0.7, "Dice {dice}");
}

#[test]
fn a_folder_of_volumes_is_learned_and_one_is_segmented_on_its_grid() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    ["data/imagesTr", "data/labelsTr"].iter().for_each(|path| fs::create_dir_all(at(path)).unwrap());
    for number in 0..5 {
        let case = ball(number);
        write_nifti(at(&format!("data/imagesTr/{number}_0000.nii.gz")), &case.image, None).unwrap();
        write_nifti_labels(at(&format!("data/labelsTr/{number}.nii.gz")), &case.labels, None).unwrap();
    }
    let json = r#"{"channel_names": {"0": "MR"}, "labels": {"background": 0, "ball": 1}}"#;
    fs::write(at("data/dataset.json"), json).unwrap();
    let train = |flags: &[&str]| {
        let mut command = example("volume_train");
        command.arg("--data").arg(at("data")).arg("--out").arg(at("run"));
        command.args([
            "--patch",
            "8,16,16",
            "--per-case",
            "6",
            "--base",
            "8",
            "--depth",
            "2",
            "--lr",
            "1e-2",
            "--epochs",
            "4",
        ]);
        command.args(flags);
        command
    };
    let result = run_well(&mut train(&[]));
    assert_eq!((&result["split"], &result["cases"], &result["epochs"]), (&"val".into(), &1.into(), &4.into()));
    assert!(result["dice"].as_f64().unwrap() > 0.7, "{result}");
    let table = fs::read_to_string(at("run/cases.csv")).unwrap();
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.starts_with("case,label,dice,hausdorff_95_mm"), "{table}");
    // It had ended: nothing is trained, and all is measured again.
    let again = run_well(&mut train(&["--resume"]));
    assert_eq!((&again["dice"], &again["surface_dice"]), (&result["dice"], &result["surface_dice"]));
    assert!(run_badly(&mut train(&["--resume", "--patch", "8,16,32"])).contains("data.volume.patch"));
    assert!(run_badly(&mut train(&["--fold", "5"])).contains("--fold must be less than 5"));
    // Refused before anything is trained.
    let mut refused = train(&["--tolerance=-1"]);
    assert!(run_badly(refused.arg("--out").arg(at("refused"))).contains("tolerance"));
    assert!(!at("refused").exists());

    // A volume on a slanted grid with the columns to the left.
    let case = ball(9);
    let affine = [[-1.0, 0.0, 0.1, 20.0], [0.0, 1.0, 0.0, 30.0], [0.05, 0.0, 2.0, -7.0], [0.0, 0.0, 0.0, 1.0]];
    let geometry = Geometry::new(case.image.geometry().size(), affine).unwrap();
    write_nifti(at("ct.nii.gz"), &Volume::new(geometry, 1, case.image.as_slice().to_vec()).unwrap(), None).unwrap();
    let result = run_well(&mut unet_predict(&at("run"), &at("ct.nii.gz"), &at("out")));
    assert_eq!(result["volumes"], 1);
    let (labels, _) = read_nifti_labels(at("out/ct.nii.gz"), &Limits::default()).unwrap();
    let written = read_nifti(at("ct.nii.gz"), &Limits::default()).unwrap().0;
    assert_eq!(labels.geometry(), written.geometry());
    let pairs = labels.as_slice().iter().zip(case.labels.as_slice());
    let both = pairs.filter(|(found, truth)| **found == 1 && **truth == 1).count();
    let all = labels.as_slice().iter().chain(case.labels.as_slice()).filter(|label| **label == 1).count();
    assert!(2.0 * both as f64 / all as f64 > 0.7, "{both} of {all}");
    let mut reduced = unet_predict(&at("run"), &at("ct.nii.gz"), &at("out"));
    assert!(run_badly(reduced.args(["--precision", "bf16"])).contains("not for volumes"));
    fs::write(at("a.png"), "").unwrap();
    assert!(run_badly(&mut unet_predict(&at("run"), &at("a.png"), &at("out"))).contains("network of volumes"));
}
