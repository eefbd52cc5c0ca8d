//! A dense CRF's refinement of 21 classes of 500×375 pixels, the size of Pascal VOC's; `tests/parity/crf.py --time` is
//! pydensecrf's on the same numbers.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use segkiln_data::{DenseCrf, Image};

const CLASSES: usize = 21;
const WIDTH: usize = 500;
const HEIGHT: usize = 375;

fn voc(criterion: &mut Criterion) {
    let places: Vec<[usize; 2]> = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| [x, y])).collect();
    let value = |x: usize, y: usize, c: usize| {
        let block = (x / 24 + 2 * (y / 20) + c) % 3 * 60;
        ((x * 7 + y * 13 + c * 31 + x * y % 17 * 5) % 256 / 8 + block) as f32 / 255.0
    };
    let values = places.iter().flat_map(|[x, y]| [value(*x, *y, 0), value(*x, *y, 1), value(*x, *y, 2)]).collect();
    let image = Image::new(WIDTH as u32, HEIGHT as u32, 3, values).expect("as many values as pixels");
    let share = |class: usize, x: usize, y: usize| {
        let here = (x / 24 + 2 * (y / 20)) % CLASSES == class;
        (1 + (x * 5 + y * 11 + class * 17 + x * y % 13 * 3) % 7 + if here { 4 } else { 0 }) as f32
    };
    let sums: Vec<f32> = places.iter().map(|[x, y]| (0..CLASSES).map(|class| share(class, *x, *y)).sum()).collect();
    let shares = |class: usize| places.iter().zip(&sums).map(move |([x, y], sum)| share(class, *x, *y) / sum);
    let probabilities: Vec<f32> = (0..CLASSES).flat_map(shares).collect();

    let crf = DenseCrf::default();
    let mut group = criterion.benchmark_group("crf");
    group.sample_size(10);
    group.bench_function("21_of_500x375", |bencher| {
        bencher.iter(|| black_box(crf.refine(&probabilities, &image).expect("it is not too large")));
    });
    group.finish();
}

criterion_group!(benches, voc);
criterion_main!(benches);
