use serde_json::Value;

use super::*;

/// By the formula of `tests/parity/crf.py`.
fn image(width: u32, height: u32) -> Image {
    let value = |x: u32, y: u32, c: u32| {
        let block = (x / 24 + 2 * (y / 20) + c) % 3 * 60;
        (x * 7 + y * 13 + c * 31 + (x * y) % 17 * 5) % 256 / 8 + block
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let values = pixels.flat_map(|(x, y)| (0..3).map(move |c| value(x, y, c) as f32 / 255.0));
    Image::new(width, height, 3, values.collect()).unwrap()
}

/// By the formula of `tests/parity/crf.py`.
fn probabilities(classes: u32, width: u32, height: u32) -> Vec<f32> {
    let share = |class: u32, x: u32, y: u32| {
        let here = (x / 24 + 2 * (y / 20)) % classes == class;
        1 + (x * 5 + y * 11 + class * 17 + (x * y) % 13 * 3) % 7 + if here { 4 } else { 0 }
    };
    let sum = |x, y| (0..classes).map(|class| share(class, x, y)).sum::<u32>() as f32;
    let pixels = (0..classes).flat_map(|class| (0..height).flat_map(move |y| (0..width).map(move |x| (class, x, y))));
    pixels.map(|(class, x, y)| share(class, x, y) as f32 / sum(x, y)).collect()
}

#[test]
fn results_are_pydensecrfs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/crf.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap();
        let [classes, width, height] = ["classes", "width", "height"].map(|key| number(key) as u32);
        let crf = DenseCrf {
            iterations: number("iterations") as usize,
            gaussian_weight: number("gaussian_weight") as f32,
            gaussian_sigma: number("gaussian_sigma") as f32,
            bilateral_weight: number("bilateral_weight") as f32,
            bilateral_sigma: number("bilateral_sigma") as f32,
            color_sigma: number("color_sigma") as f32,
        };
        let refined = crf.refine(&probabilities(classes, width, height), &image(width, height)).unwrap();
        let expected: Vec<f64> = serde_json::from_value(case["refined"].clone()).unwrap();
        assert_eq!(refined.len(), expected.len());
        let differ = refined.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(differ < 1e-5, "{classes} classes of {width}x{height}: {differ}");
    }
}

/// Not exactly: the blur has three taps along each axis of the lattice, and vertices that no pixel touches are left out.
#[test]
fn the_lattice_filters_as_the_sum_over_all_pairs() {
    let (width, height) = (23usize, 17);
    let image = image(23, 17);
    let place = |pixel: usize| [(pixel % width) as f32 / 6.0, (pixel / width) as f32 / 6.0];
    let point = |pixel: usize| {
        let [x, y] = place(pixel);
        [x, y, image.as_slice()[3 * pixel] * 255.0 / 40.0]
    };
    let values: Vec<Lanes> = (0..width * height).map(|pixel| [(pixel * 37 % 11) as f32 / 10.0; LANES]).collect();
    assert!(differs(&place, &values) < 0.02);
    assert!(differs(&point, &values) < 0.02);
}

/// The mean difference of the filtered values from those by the definition.
fn differs<const D: usize>(feature: &(impl Fn(usize) -> [f32; D] + Sync), values: &[Lanes]) -> f32 {
    let mut lattice = Lattice::new(values.len(), feature, usize::MAX).unwrap();
    lattice.normalize();
    let (mut buffers, mut filtered) = ([Vec::new(), Vec::new()], vec![[0.0; LANES]; values.len()]);
    lattice.blur(values, &mut buffers);
    lattice.add_to(&mut filtered, 1.0, &buffers[0]);

    let kernel = |a: usize, b: usize| {
        let squares = feature(a).into_iter().zip(feature(b)).map(|(a, b)| (a - b).powi(2));
        (-0.5 * squares.sum::<f32>()).exp()
    };
    let all = 0..values.len();
    let norms: Vec<f32> = all.clone().map(|a| all.clone().map(|b| kernel(a, b)).sum::<f32>().sqrt()).collect();
    let exact = |a: usize| all.clone().map(|b| kernel(a, b) / (norms[a] * norms[b]) * values[b][0]).sum::<f32>();
    all.clone().map(|a| (filtered[a][0] - exact(a)).abs()).sum::<f32>() / values.len() as f32
}

#[test]
fn threads_do_not_change_the_bits() {
    let (image, given) = (image(61, 47), probabilities(6, 61, 47));
    let refine = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| DenseCrf::default().refine(&given, &image).unwrap())
    };
    let one = refine(1);
    assert!(one.iter().zip(refine(5)).all(|(a, b)| a.to_bits() == b.to_bits()));
    let plane = 61 * 47;
    for pixel in 0..plane {
        let sum: f32 = one.iter().skip(pixel).step_by(plane).sum();
        assert!((sum - 1.0).abs() < 1e-5);
    }
}

#[test]
fn small_and_plain_inputs_come_back() {
    let crf = DenseCrf::default();
    assert_eq!(crf.refine(&[0.2; 6], &Image::new(3, 2, 3, vec![0.5; 18]).unwrap()).unwrap(), [1.0; 6]);
    let one = crf.refine(&[0.25, 0.75], &Image::new(1, 1, 4, vec![0.5; 4]).unwrap()).unwrap();
    assert!(one[0] < 0.25 && (one[0] + one[1] - 1.0).abs() < 1e-6);
    // Without kernels or without rounds nothing but certainty is moved.
    let given = [0.0, 0.3, 1.0, 0.7];
    let image = Image::new(2, 1, 7, vec![f32::NAN; 14]).unwrap();
    for crf in [
        DenseCrf { gaussian_weight: 0.0, bilateral_weight: 0.0, ..crf },
        DenseCrf { iterations: 0, bilateral_weight: 0.0, ..crf },
    ] {
        let same = crf.refine(&given, &image).unwrap();
        assert!(same.iter().zip(given).all(|(a, b)| (a - b).abs() < 2e-5), "{same:?}");
    }
}

#[test]
fn what_cannot_be_refined_is_named() {
    let crf = DenseCrf::default();
    let gray = |values: Vec<f32>| Image::new(values.len() as u32, 1, 1, values).unwrap();
    let refused = |crf: DenseCrf, given: &[f32], image: &Image| crf.refine(given, image).unwrap_err().to_string();
    let two = [0.5; 4];
    for (crf, what) in [
        (DenseCrf { gaussian_sigma: 0.0, ..crf }, "DenseCrf gaussian_sigma: must be from 0.1 to 100000, got 0"),
        (DenseCrf { bilateral_sigma: f32::NAN, ..crf }, "bilateral_sigma: must be from 0.1 to 100000, got NaN"),
        (DenseCrf { color_sigma: f32::INFINITY, ..crf }, "color_sigma"),
        (DenseCrf { gaussian_weight: -1.0, ..crf }, "gaussian_weight: must be from 0 to 1000000, got -1"),
        (DenseCrf { bilateral_weight: f32::NAN, ..crf }, "bilateral_weight"),
        (DenseCrf { iterations: usize::MAX, ..crf }, "iterations"),
    ] {
        let error = refused(crf, &two, &gray(vec![0.0; 2]));
        assert!(error.contains(what), "{error}");
    }
    for given in [&[0.5; 3][..], &[], &[0.5, 0.5, f32::NAN, 0.5], &[0.5, -1.0, 0.5, 0.5], &[f32::INFINITY; 2]] {
        let error = refused(crf, given, &gray(vec![0.0; 2]));
        assert!(error.starts_with("DenseCrf probabilities"), "{error}");
    }
    assert!(refused(crf, &two, &gray(vec![0.0, f32::NAN])).contains("color_sigma"));
    assert!(refused(crf, &two, &gray(vec![0.0, 1e30])).contains("color_sigma"));
    assert!(refused(crf, &two, &Image::new(2, 1, 2, vec![0.0; 4]).unwrap()).contains("2"));
    // Nothing of that size is allocated.
    assert!(crf.check(21, 5000, 5000).unwrap_err().to_string().contains("5000x5000"));
    assert!(crf.check(usize::MAX, 3, 3).is_err() && crf.check(2, 0, 3).is_err() && crf.check(0, 3, 3).is_err());
    assert!(crf.check(2, 16_000_000, 1).unwrap_err().to_string().contains("gaussian_sigma"));
    assert!(Lattice::new(64, |point| [point as f32, 0.0], 10).is_none());
}

/// Features as far as they may be, where floats are sparse.
#[test]
fn far_values_do_no_harm() {
    let crf = DenseCrf { gaussian_sigma: 0.1, bilateral_sigma: 0.1, color_sigma: 0.1, ..DenseCrf::default() };
    let values = (0..300).map(|value| if value % 2 == 0 { 39.0 } else { -38.9 } + value as f32 / 1e4).collect();
    let image = Image::new(10, 10, 3, values).unwrap();
    let refined = crf.refine(&probabilities(3, 10, 10), &image).unwrap();
    assert!(refined.iter().all(|value| (0.0..=1.0).contains(value)));
}
