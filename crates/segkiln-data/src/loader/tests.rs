use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use burn::tensor::Tensor;
use segkiln_core::{Instances, Size};

use super::*;
use crate::{
    Batch, DetectionBatch,
    datasets::InMemoryDataset,
    transforms::{
        Affine, Brightness, ElasticDeformation, GaussianNoise, HorizontalFlip, RandomCrop, Target,
        testing::{blocks, ramp},
    },
};

fn dataset(count: u32) -> Arc<InMemoryDataset> {
    let sample = |i: u32| {
        let mut sample = blocks(20, 16, 3, 4 + i);
        sample.name = format!("s{i}");
        sample
    };
    Arc::new(InMemoryDataset::new((0..count).map(sample).collect()))
}

fn augmentation<T: Target>() -> Compose<T> {
    Compose::new()
        .then(HorizontalFlip { p: 0.5 })
        .then(Affine::new().rotate([-30.0, 30.0]).unwrap())
        .then(ElasticDeformation::unet())
        .then(RandomCrop::new(8, 8).unwrap())
        .then(Brightness::new([0.5, 1.5]).unwrap())
        .then(GaussianNoise::new([0.0, 0.1]).unwrap())
}

/// Names, image bits and labels of all batches.
fn contents(loader: &dyn DataLoader<Batch>) -> Vec<(Vec<String>, Vec<u32>, Vec<i64>)> {
    loader
        .iter()
        .map(|batch| {
            let batch = batch.unwrap();
            let bits = batch.images.into_data().iter::<f32>().map(f32::to_bits).collect();
            (batch.names, bits, batch.masks.into_data().iter::<i64>().collect())
        })
        .collect()
}

fn names(loader: &dyn DataLoader<Batch>) -> Vec<String> {
    contents(loader).into_iter().flat_map(|(names, ..)| names).collect()
}

/// Fails the test, rather than hangs, where something does not end.
fn within_seconds<T: Send + 'static>(seconds: u64, job: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(job()));
    receiver.recv_timeout(Duration::from_secs(seconds)).expect("it hangs")
}

#[test]
fn the_same_to_the_bit_for_any_number_of_workers() {
    let run = |workers: usize, prefetch: usize| {
        let loader = Loader::builder(dataset(7))
            .transform(augmentation())
            .batch_size(3)
            .seed(11)
            .shuffle(true)
            .workers(workers)
            .prefetch(prefetch)
            .epoch_length(Some(20))
            .build()
            .unwrap();
        loader.epoch().set(4);
        contents(&loader)
    };
    let reference = run(0, 1);
    assert_eq!(reference.len(), 7);
    for (workers, prefetch) in [(1, 1), (1, 4), (2, 2), (3, 8), (8, 3), (16, 16)] {
        assert!(run(workers, prefetch) == reference, "{workers} workers, {prefetch} ahead");
    }
}

/// The blocks of [`dataset`] as objects, in images of different sizes.
fn objects(count: u32) -> Arc<InMemoryDataset<Instances>> {
    let sample = |i: u32| {
        let Sample { image, target, .. } = blocks(20 + i, 16, 3, 6);
        Sample { name: format!("s{i}"), image, target: Instances::from_labels(&target, |_| 1).unwrap() }
    };
    Arc::new(InMemoryDataset::new((0..count).map(sample).collect()))
}

#[test]
fn objects_come_with_images_of_their_own_sizes() {
    let run = |workers: usize, epoch: usize| {
        let transform = Compose::new().then(HorizontalFlip { p: 0.5 }).then(ElasticDeformation::unet());
        let builder = Loader::builder(objects(5)).transform(transform).batch_size(2).shuffle(true).workers(workers);
        let loader = builder.seed(7).build().unwrap();
        loader.epoch().set(epoch);
        let contents = |batch: DetectionBatch| {
            let bits = |image: Tensor<3>| (image.dims(), image.into_data().iter::<f32>().map(f32::to_bits).collect());
            let images: Vec<([usize; 3], Vec<u32>)> = batch.images.into_iter().map(bits).collect();
            (batch.names, images, batch.targets)
        };
        loader.iter().map(|batch| contents(batch.unwrap())).collect::<Vec<_>>()
    };
    let reference = run(0, 0);
    assert_eq!(reference.iter().map(|(names, ..)| names.len()).collect::<Vec<_>>(), [2, 2, 1]);
    for (names, images, targets) in &reference {
        for ((name, (dims, _)), target) in names.iter().zip(images).zip(targets) {
            let width = 20 + name[1..].parse::<u32>().unwrap();
            assert_eq!((*dims, target.width(), target.height()), ([3, 16, width as usize], width, 16));
            assert!(!target.is_empty());
        }
    }
    assert!([1, 2, 4].iter().all(|workers| run(*workers, 0) == reference));
    assert!(run(2, 1) != reference);
}

#[test]
fn seed_epoch_and_position_change_the_draws() {
    let loader = |seed| {
        let builder = Loader::builder(dataset(1)).transform(augmentation()).seed(seed).workers(2);
        builder.epoch_length(Some(2)).build().unwrap()
    };
    let first = loader(0);
    let once = contents(&first);
    assert_eq!(once, contents(&first), "iter() does not advance the epoch");
    assert_ne!(once[0], once[1]);
    assert_ne!(once, contents(&loader(1)));
    first.epoch().set(1);
    assert_eq!(first.clone().epoch().get(), 1);
    assert_ne!(once, contents(&first));
    first.epoch().set(0);
    assert_eq!(once, contents(&first));
}

#[test]
fn order_covers_the_data_set_each_time_it_is_gone_through() {
    let builder = || Loader::builder(dataset(5)).batch_size(4).workers(2).transform(RandomCrop::new(4, 4).unwrap());
    let plain = builder().build().unwrap();
    assert_eq!(names(&plain), ["s0", "s1", "s2", "s3", "s4"]);
    let again = builder().epoch_length(Some(12)).shuffle(true).build().unwrap();
    let order = names(&again);
    assert_eq!(order.len(), 12);
    for pass in [&order[..5], &order[5..10]] {
        let mut pass = pass.to_vec();
        pass.sort();
        assert_eq!(pass, ["s0", "s1", "s2", "s3", "s4"]);
    }
    assert_ne!(order[..5], order[5..10]);
    again.epoch().set(1);
    assert_ne!(names(&again), order);
    assert_eq!(names(&builder().epoch_length(Some(3)).build().unwrap()), ["s0", "s1", "s2"]);
}

#[test]
fn drop_last_leaves_out_the_rest() {
    let builder = || Loader::builder(dataset(5)).batch_size(2).transform(RandomCrop::new(4, 4).unwrap());
    let all = builder().build().unwrap();
    assert_eq!((all.num_items(), all.num_batches(), contents(&all).len()), (5, 3, 3));
    let full = builder().drop_last(true).build().unwrap();
    assert_eq!((full.num_items(), full.num_batches(), contents(&full).len()), (4, 2, 2));
    let mut iter = full.iter();
    assert_eq!((iter.progress().items_processed, iter.progress().items_total), (0, 4));
    iter.next().unwrap().unwrap();
    assert_eq!(iter.progress().items_processed, 2);
}

#[test]
fn slices_share_out_the_epoch() {
    let loader = Loader::builder(dataset(6)).batch_size(1).shuffle(true).seed(3).transform(augmentation());
    let loader = loader.build().unwrap();
    let whole = contents(&loader);
    let (left, right) = (loader.slice(0, 2), loader.slice(2, 6).to_device(&Device::default()));
    assert_eq!((left.num_items(), right.num_items()), (2, 4));
    assert_eq!([contents(&*left), contents(&*right)].concat(), whole);
    assert_eq!(contents(&*right.slice(1, 100)), whole[3..]);
    loader.epoch().set(9);
    assert_eq!([contents(&*left), contents(&*right)].concat(), contents(&loader));
}

#[test]
fn bad_options_are_errors() {
    let message = |builder: LoaderBuilder| builder.build().err().unwrap().to_string();
    assert!(message(Loader::builder(dataset(0))).contains("no samples"));
    assert!(message(Loader::builder(dataset(1)).batch_size(0)).contains("batch_size"));
    assert!(message(Loader::builder(dataset(1)).prefetch(0)).contains("prefetch"));
    assert!(message(Loader::builder(dataset(1)).epoch_length(Some(0))).contains("epoch_length"));
    assert!(message(Loader::builder(dataset(3)).batch_size(4).drop_last(true)).contains("does not fill a batch of 4"));
}

#[test]
fn samples_of_different_sizes_need_a_crop() {
    let mut other = ramp(5, 4, 3);
    other.name = "other".into();
    let samples = Arc::new(InMemoryDataset::new(vec![ramp(4, 4, 3), other]));
    let error = Loader::builder(samples.clone()).batch_size(2).build().unwrap().iter().next().unwrap().unwrap_err();
    assert!(error.to_string().contains("test is 4x4x3 and other is 5x4x3"), "{error}");
    assert_eq!(contents(&Loader::builder(samples).batch_size(1).build().unwrap()).len(), 2);
}

/// Fails or panics at some indices, and counts what is asked of it.
#[derive(Default)]
struct Faulty {
    asked: AtomicUsize,
    delay: Duration,
}

impl Dataset<Sample> for Faulty {
    fn get(&self, index: usize) -> std::result::Result<Sample, DatasetError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        thread::sleep(self.delay);
        match index {
            3 => Err(DataError::EmptyFile { path: "three.png".into() }.into()),
            5 => panic!("five is out of order"),
            _ => Ok(ramp(2, 2, 1)),
        }
    }

    fn len(&self) -> usize {
        1000
    }
}

#[test]
fn errors_and_panics_come_in_their_place_and_the_rest_after_them() {
    for workers in [0, 1, 4] {
        within_seconds(20, move || {
            let builder = Loader::builder(Arc::new(Faulty::default())).batch_size(2).workers(workers);
            let loader = builder.epoch_length(Some(10)).build().unwrap();
            let results: Vec<Option<String>> =
                loader.iter().map(|batch| batch.err().map(|error| error.to_string())).collect();
            let message = |text: &str| Some(text.to_owned());
            assert_eq!(
                results,
                [
                    None,
                    message("three.png is empty (0 bytes)"),
                    message("loading sample 5 of the data set panicked: five is out of order"),
                    None,
                    None
                ]
            );
        });
    }
}

/// A map of one pixel whose batches cannot be joined where its label is 3.
#[derive(Debug, Clone)]
struct Unjoinable(LabelMap);

impl Target for Unjoinable {
    fn size(&self) -> Size {
        self.0.size()
    }

    fn moved(self, motion: &crate::transforms::Motion) -> Result<Self> {
        self.0.moved(motion).map(Self)
    }

    fn foreground(&self, ignore_index: Option<u32>, rng: &mut TransformRng) -> Option<[u32; 2]> {
        self.0.foreground(ignore_index, rng)
    }

    fn cover(&mut self, corner: [u32; 2], size: Size, label: u32) {
        self.0.cover(corner, size, label);
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Collate for Unjoinable {
    type Batch = usize;

    fn collate(samples: Vec<Sample<Self>>) -> Result<Collated<usize>> {
        assert!(samples.iter().all(|sample| sample.target.0.max() != Some(3)), "three cannot be joined");
        let count = samples.len();
        Ok(Box::new(move |_| count))
    }
}

#[test]
fn a_panic_of_collate_is_an_error_and_no_endless_wait() {
    for workers in [0, 1, 3] {
        within_seconds(20, move || {
            let sample = |label: u32| Sample {
                name: format!("s{label}"),
                image: crate::Image::new(1, 1, 1, vec![0.0]).unwrap(),
                target: Unjoinable(LabelMap::filled(1, 1, label)),
            };
            let dataset = Arc::new(InMemoryDataset::new((0..6).map(sample).collect()));
            let loader = Loader::builder(dataset).batch_size(2).workers(workers).build().unwrap();
            let results: Vec<_> = loader.iter().map(|batch| batch.map_err(|error| error.to_string())).collect();
            let panicked = "joining the samples of batch 1 panicked: three cannot be joined".to_owned();
            assert_eq!(results, [Ok(2), Err(panicked), Ok(2)]);
        });
    }
}

#[test]
fn the_error_itself_travels_through_burn() {
    let loader = Loader::builder(Arc::new(Faulty::default())).epoch_length(Some(4)).build().unwrap();
    let error = loader.iter().last().unwrap().unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert!(matches!(source.downcast_ref(), Some(DataError::EmptyFile { .. })));
}

#[test]
fn dropping_stops_the_workers() {
    within_seconds(20, || {
        let slow = Arc::new(Faulty { delay: Duration::from_millis(5), ..Faulty::default() });
        let loader = Loader::builder(slow.clone()).batch_size(1).workers(4).prefetch(8).build().unwrap();
        let mut iter = loader.iter();
        iter.next().unwrap().unwrap();
        let start = Instant::now();
        drop(iter);
        assert!(start.elapsed() < Duration::from_secs(2));
        // The threads are gone, so that nothing holds the plan and nothing more is asked for.
        assert_eq!(Arc::strong_count(&loader.core), 1);
        let asked = slow.asked.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(slow.asked.load(Ordering::SeqCst), asked);
    });
}

#[test]
fn no_more_is_loaded_ahead_than_allowed() {
    within_seconds(20, || {
        let counted = Arc::new(Faulty::default());
        let loader = Loader::builder(counted.clone()).batch_size(1).workers(4).prefetch(3).build().unwrap();
        let mut iter = loader.iter();
        for taken in 1..=2 {
            iter.next().unwrap().unwrap();
            thread::sleep(Duration::from_millis(100));
            assert_eq!(counted.asked.load(Ordering::SeqCst), taken + 3);
        }
    });
}

#[test]
fn an_iterator_stays_in_its_epoch() {
    let builder = Loader::builder(dataset(6)).transform(augmentation()).shuffle(true).workers(2).prefetch(1);
    let loader = builder.build().unwrap();
    let expected = names(&loader);
    let iter = loader.iter();
    loader.epoch().set(1);
    let seen: Vec<String> = iter.flat_map(|batch| batch.unwrap().names).collect();
    assert_eq!(seen, expected);
}
