use std::path::{Path, PathBuf};

use burn::tensor::{
    Device, Tensor, TensorData,
    activation::{sigmoid, softmax},
};
use image::DynamicImage;
use segkiln_core::{Classes, Precision};
use segkiln_data::{ColorMode, DataError, DenseCrf, Image, Normalize};
use segkiln_models::{
    ModelCard, ModelConfig, NetworkQuantization, PrecisionError, SegmentationModel, SegmentationNetwork,
    SegmentationNetworkConfig,
    weights::{self, Exceptions, TrainingData, Weights, WeightsError, torch_network},
};

use crate::{
    Computation,
    run::{self, RunError},
    segmentation::{ResultRows, Segmentation},
    tiles::{Band, bell, starts},
};

/// Why a network could not be loaded or an image not be segmented.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// `config.json` is missing, or is not what training writes.
    #[error("cannot use {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Reason that the system or the parser gives.
        reason: String,
    },
    /// The weights are missing, damaged, or another network's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An option is out of range.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Allowed values.
        reason: String,
    },
    /// The parts of the card do not fit each other.
    #[error("the network's card: {0}")]
    Card(String),
    /// The device cannot compute in the precision.
    #[error(transparent)]
    Precision(#[from] PrecisionError),
    /// The image cannot be brought to what the network takes.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The device could not compute or give back the result.
    #[error("the device failed: {0}")]
    Device(String),
    /// The network gives NaN for a pixel.
    #[error(
        "the network gives NaN at pixel (x {x}, y {y}); its weights or the image's values are too large or not finite"
    )]
    Undefined {
        /// Column.
        x: usize,
        /// Row.
        y: usize,
    },
}

/// How an image is segmented.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentOptions {
    /// Side of the square tiles that a large image is cut into, in pixels. Without, images of up to 2²⁰ pixels are done
    /// whole and larger ones in tiles of 512.
    pub tile: Option<u32>,
    /// Share of a tile that neighbours have in common, in `[0, 0.95]`.
    pub overlap: f32,
    /// Whether the four mirror images are segmented too and the probabilities averaged: slower, a little better.
    pub flips: bool,
    /// Dense CRF that moves the borders to the image's edges afterwards, by the image's values before they are normalised. It takes
    /// the whole image at once: 20 bytes a pixel and class and some 600 bytes a pixel.
    pub crf: Option<DenseCrf>,
    /// Whether probabilities are kept: 4 bytes a pixel and class. The map alone needs 4 bytes a pixel.
    pub probabilities: bool,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self { tile: None, overlap: 0.25, flips: false, crf: None, probabilities: true }
    }
}

impl SegmentOptions {
    /// Images of more pixels than this are tiled when no tile is given.
    const WHOLE: u64 = 1 << 20;
    const DEFAULT_TILE: u32 = 512;

    fn check(&self) -> Result<(), SegmentError> {
        let refuse = |option, reason: &str| Err(SegmentError::Option { option, reason: reason.into() });
        match self {
            Self { tile: Some(0..16), .. } => refuse("tile", "must be at least 16 pixels"),
            Self { overlap, .. } if !(0.0..=0.95).contains(overlap) => refuse("overlap", "must be from 0 to 0.95"),
            _ => Ok(()),
        }
    }

    fn tile_for(&self, width: u32, height: u32) -> usize {
        let tile = match self.tile {
            Some(tile) => tile,
            None if u64::from(width) * u64::from(height) <= Self::WHOLE => width.max(height),
            None => Self::DEFAULT_TILE,
        };
        tile as usize
    }
}

impl From<RunError> for SegmentError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Config { path, reason } => Self::Config { path, reason },
            RunError::Weights(error) => Self::Weights(error),
        }
    }
}

/// A trained network that segments images of any size.
///
/// It is `Send + Sync`: one loaded network serves many threads. It holds any segmentation network of this library, or a
/// [`SegmentationNetwork`] of your own.
///
/// ```no_run
/// use segkiln::prelude::*;
///
/// let segmenter = Segmenter::load("runs/unet", &Device::default())?;
/// let image = image::open("street.jpg")?;
/// let result = segmenter.segment(&image)?;
/// result.overlay(&image, 0.5)?.save("overlay.png")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Segmenter<M: SegmentationNetwork = SegmentationModel> {
    model: M,
    card: ModelCard<M::Config>,
    pub(crate) device: Device,
    pub(crate) computation: Computation,
}

impl Segmenter {
    /// Loads what a training wrote: a folder (its `best.bpk` and `config.json`) or a `.bpk` file beside a `config.json`.
    ///
    /// # Errors
    /// [`SegmentError::Config`] or [`SegmentError::Weights`], naming the file.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self, SegmentError> {
        Self::load_network(path, device)
    }

    /// A network by its name, see [`ModelConfig::by_name`], with weights of torchvision or segmentation_models_pytorch
    /// (`.pth`, `.safetensors`) or ours (`.bpk`), for RGB images that are normalised with ImageNet's mean and deviation.
    /// 21 classes are Pascal VOC's.
    ///
    /// # Errors
    /// [`SegmentError::Option`] if there is no such network, [`SegmentError::Weights`] if the file is not of it.
    pub fn by_name(
        name: &str,
        weights: impl AsRef<Path>,
        classes: usize,
        device: &Device,
    ) -> Result<Self, SegmentError> {
        let path = weights.as_ref();
        let refuse = |option, reason| SegmentError::Option { option, reason };
        let is_ours = path.extension().is_some_and(|extension| extension == "bpk");
        let by_name = |name: &str| ModelConfig::by_name(name, classes).map_err(|reason| refuse("name", reason));
        let mut model = by_name(name)?;
        if !is_ours {
            model = by_name(&torch_network(name, path)?)?;
        }
        // Before anything is allocated by the number of classes.
        model.check().map_err(|reason| refuse("network", reason))?;
        let names = match classes {
            21 => Classes::voc(),
            1 => Classes::binary(),
            _ => Classes::new((0..classes).map(|class| format!("class {class}")))
                .map_err(|error| refuse("classes", error.to_string()))?,
        };
        let card = ModelCard { model, classes: names, color: Some(ColorMode::Rgb), normalize: Normalize::imagenet() };
        card.check().map_err(|reason| refuse("classes", reason))?;
        let model = if is_ours {
            // A second head is none that prediction needs, but a training may have had one.
            weights::load(card.model.init(device), path).or_else(|error| {
                weights::load(card.model.clone().with_aux(true).init(device), path).map_err(|_| error)
            })?
        } else {
            let spare = &["aux_classifier."];
            card.model.init(device).load_torch(path, Exceptions { spare, ..Exceptions::default() })?
        };
        Self::new(model, card, device)
    }

    /// torchvision's network with weights that it has published, from the cache or downloaded; see
    /// [`Published::file`](weights::Published::file), which before this call shows the progress of a download. It
    /// learned from images whose shorter side has 520 pixels; see [`Published::preset`](weights::Published::preset).
    ///
    /// ```no_run
    /// use segkiln::{models::weights::LrAsppMobileNetV3LargeWeights, prelude::*};
    ///
    /// let segmenter = Segmenter::pretrained(LrAsppMobileNetV3LargeWeights::default(), &Device::default())?;
    /// # Ok::<(), segkiln::SegmentError>(())
    /// ```
    ///
    /// # Errors
    /// [`SegmentError::Weights`] if they are not there and cannot be downloaded, [`SegmentError::Option`] if the network is no
    /// segmentation network.
    pub fn pretrained(weights: impl Weights, device: &Device) -> Result<Self, SegmentError> {
        let published = weights.published();
        if published.data != TrainingData::CocoVoc {
            let reason = format!("{} is no segmentation network", published.network);
            return Err(SegmentError::Option { option: "weights", reason });
        }
        Self::by_name(published.network, published.file(|_, _| {})?, published.data.classes(), device)
    }
}

impl<M: SegmentationNetwork> Segmenter<M> {
    /// A network in memory.
    ///
    /// # Errors
    /// [`SegmentError::Card`] if the parts of the card do not fit each other.
    pub fn new(model: M, card: ModelCard<M::Config>, device: &Device) -> Result<Self, SegmentError> {
        card.check().map_err(SegmentError::Card)?;
        // Gradients are never wanted here, whatever device the network comes from.
        let device = device.clone().inner();
        let model = if model.devices().iter().any(Device::is_autodiff) { model.valid() } else { model };
        let computation = Computation::new(&device)?;
        Ok(Self { model, card, device, computation })
    }

    /// Computes the network's convolutions in another precision from now on; predictors begin with f32.
    ///
    /// int8 needs a network that was [quantized](crate::quantize).
    ///
    /// bf16 is for the CPU backend: with dot products of bf16 (AVX512-BF16) U-Nets take about half of the time, and on
    /// processors without them it is the same as f32. The book's chapter on precision says how large the error is.
    ///
    /// # Errors
    /// [`SegmentError::Precision`] if the device cannot compute in it.
    pub fn with_precision(mut self, precision: Precision) -> Result<Self, SegmentError> {
        self.computation = self.computation.with_precision(&self.model, precision, &self.device)?;
        Ok(self)
    }

    /// Computes the network in 8 bits from now on, with the ranges of a [`Calibration`](segkiln_models::Calibration); a network that was
    /// [loaded](Self::load_network) with them begins so.
    ///
    /// # Errors
    /// [`SegmentError::Precision`] if the device cannot, or the ranges are those of another network.
    pub fn with_quantization(mut self, quantization: NetworkQuantization) -> Result<Self, SegmentError> {
        self.computation = Computation::quantized(&self.model, quantization, &self.device)?;
        Ok(self)
    }

    /// The layers that can compute in 8 bits, of a quantized network.
    pub fn quantization(&self) -> Option<&NetworkQuantization> {
        self.computation.quantization()
    }

    /// The precision that the network is computed in.
    pub fn precision(&self) -> Precision {
        self.computation.session().precision()
    }

    /// [`load`](Segmenter::load) of a run of a network of your own: `Segmenter::<MyNetwork>::load_network(…)`.
    ///
    /// # Errors
    /// As [`load`](Segmenter::load).
    pub fn load_network(path: impl AsRef<Path>, device: &Device) -> Result<Self, SegmentError> {
        let (file, card) = run::open(path.as_ref(), ModelCard::<M::Config>::check)?;
        let model = weights::load(card.model.init(device), &file)?;
        let quantization = run::quantization(&file)?;
        let mut segmenter = Self::new(model, card, device)?;
        segmenter.computation = Computation::of_run(&segmenter.model, quantization, &file, &segmenter.device)?;
        Ok(segmenter)
    }

    /// The logits of an image that is segmented whole; it is normalised here.
    ///
    /// # Shapes
    /// `[1, channels, height, width]`, of the image's height and width
    ///
    /// # Errors
    /// [`SegmentError::Data`] if the channels are not those that the network takes.
    pub fn logits(&self, mut image: Image) -> Result<Tensor<4>, SegmentError> {
        self.card.normalize.apply(&mut image)?;
        let x = self.tensor(image);
        Ok(self.computation.session().run(|| self.model.forward(x)))
    }

    /// The network.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Config of the network, its classes and normalization.
    pub fn card(&self) -> &ModelCard<M::Config> {
        &self.card
    }

    /// The classes that it tells apart.
    pub fn classes(&self) -> &Classes {
        &self.card.classes
    }

    /// Segments an image with the default options.
    ///
    /// # Errors
    /// [`SegmentError::Data`] if the image has no pixels, [`SegmentError::Device`] if the device fails.
    pub fn segment(&self, image: &DynamicImage) -> Result<Segmentation, SegmentError> {
        self.segment_with(image, &SegmentOptions::default())
    }

    /// Segments an image.
    ///
    /// Tiles are weighed with a bell around their middle, because a pixel at a border knows less of its surroundings
    /// (Isensee et al., nnU-Net). Memory is bounded by a band of the image as high as a tile, and the result.
    ///
    /// # Errors
    /// As [`segment`](Self::segment), and [`SegmentError::Option`].
    pub fn segment_with(&self, image: &DynamicImage, options: &SegmentOptions) -> Result<Segmentation, SegmentError> {
        let color = self.card.color.ok_or_else(|| SegmentError::Option {
            option: "image",
            reason: "the network does not take pictures, as its config.json has no color; give it channels by `segment_values`"
                .into(),
        })?;
        self.in_tiles(image.width(), image.height(), options, |left, top, width, height| {
            Image::from_dynamic(&image.crop_imm(left, top, width, height), color)
        })
    }

    /// Segments an image of any number of channels, with the values that the data set had before it was normalised.
    ///
    /// # Errors
    /// As [`segment_with`](Self::segment_with), and if the channels are not those that the network takes.
    pub fn segment_values(&self, image: &Image, options: &SegmentOptions) -> Result<Segmentation, SegmentError> {
        self.in_tiles(image.width(), image.height(), options, |left, top, width, height| {
            image.crop(left, top, width, height)
        })
    }

    fn in_tiles(
        &self,
        width: u32,
        height: u32,
        options: &SegmentOptions,
        part: impl Fn(u32, u32, u32, u32) -> Image,
    ) -> Result<Segmentation, SegmentError> {
        options.check()?;
        if width == 0 || height == 0 {
            return Err(SegmentError::Option { option: "image", reason: "has no pixels".into() });
        }
        if let Some(crf) = &options.crf {
            crf.check(self.card.classes.count(), width, height)?;
            let channels = self.card.model.in_channels();
            if ![1, 3, 4].contains(&channels) {
                let reason =
                    format!("needs images of 1 or 3 channels, or a fourth that it leaves out; these have {channels}");
                return Err(SegmentError::Option { option: "crf", reason });
            }
        }
        let tile = options.tile_for(width, height);
        let (width, height) = (width as usize, height as usize);
        let (tile_width, tile_height) = (tile.min(width), tile.min(height));
        let (columns, rows) = (starts(width, tile, options.overlap), starts(height, tile, options.overlap));
        let (bell_x, bell_y) = (bell(tile_width), bell(tile_height));

        let keep = options.probabilities || options.crf.is_some();
        let mut result = ResultRows::new(self.card.classes.clone(), width, height, keep);
        let mut band = Band::new(self.card.classes.count(), width, tile_height);
        for (index, &top) in rows.iter().enumerate() {
            for &left in &columns {
                let part = part(left as u32, top as u32, tile_width as u32, tile_height as u32);
                band.add(&self.probabilities(part, options.flips)?, left, &bell_x, &bell_y);
            }
            let done = rows.get(index + 1).map_or(tile_height, |next| next - top);
            band.finish(done, &mut result);
        }
        if let Some(crf) = &options.crf {
            result = result.refined(crf, &part(0, 0, width as u32, height as u32), options.probabilities)?;
        }
        result.into_segmentation()
    }

    fn tensor(&self, image: Image) -> Tensor<4> {
        let shape = [1, image.height() as usize, image.width() as usize, image.channels()];
        Tensor::<4>::from_data(TensorData::new(image.into_vec(), shape), &self.device).permute([0, 3, 1, 2])
    }

    /// Probabilities of each class, `[class][row][column]`.
    fn probabilities(&self, mut image: Image, flips: bool) -> Result<Vec<f32>, SegmentError> {
        self.card.normalize.apply(&mut image)?;
        self.normalized_probabilities(image, flips)
    }

    /// As [`probabilities`](Self::probabilities), of an image that is normalized.
    pub(crate) fn normalized_probabilities(&self, image: Image, flips: bool) -> Result<Vec<f32>, SegmentError> {
        // In floats such values reach the probabilities, where they are found; 8 bits have none for them.
        if self.precision() == Precision::Int8 && image.as_slice().iter().any(|value| !value.is_finite()) {
            let reason = "has values that are not finite; say what pixels without data have (nodata)".into();
            return Err(SegmentError::Option { option: "image", reason });
        }
        let x = self.tensor(image);
        let mirrored: &[&[usize]] = if flips { &[&[], &[2], &[3], &[2, 3]] } else { &[&[]] };
        let sum = mirrored
            .iter()
            .map(|axes| {
                let logits = self.computation.session().run(|| self.model.forward(flip(x.clone(), axes)));
                flip(class_probabilities(logits), axes)
            })
            .reduce(|sum, next| sum + next)
            .expect("the image itself is always there");
        let mean = if flips { sum.div_scalar(mirrored.len() as f64) } else { sum };
        let data = mean.try_into_data().map_err(|error| SegmentError::Device(error.to_string()))?;
        data.try_to_vec().map_err(|error| SegmentError::Device(error.to_string()))
    }
}

fn flip(x: Tensor<4>, axes: &[usize]) -> Tensor<4> {
    axes.iter().fold(x, |x, axis| x.flip([*axis as isize]))
}

/// `[1, c, h, w]` → `[1, classes, h, w]`; a single logit gives two classes.
fn class_probabilities(logits: Tensor<4>) -> Tensor<4> {
    match logits.dims()[1] {
        1 => {
            let foreground = sigmoid(logits);
            Tensor::cat(vec![foreground.clone().neg().add_scalar(1.0), foreground], 1)
        }
        _ => softmax(logits, 1),
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, ModuleMapper, Param};
    use segkiln_core::Classes;
    use segkiln_models::unet::UNetConfig;

    use super::*;

    fn segmenter(classes: usize) -> Segmenter {
        let device = Device::default();
        let logits = if classes == 2 { 1 } else { classes };
        let model = ModelConfig::UNet(UNetConfig::new(1, logits).with_base(2).with_depth(1));
        let names = (0..classes).map(|class| format!("class {class}"));
        let card = ModelCard {
            classes: Classes::new(names).unwrap(),
            color: Some(ColorMode::Gray),
            normalize: Normalize::identity(1),
            model: model.clone(),
        };
        Segmenter::new(model.init(&device), card, &device).unwrap()
    }

    /// A picture with something in it.
    fn picture(width: u32, height: u32) -> DynamicImage {
        let value = |x: u32, y: u32| ((x * 7 + y * 13) % 251) as u8;
        DynamicImage::from(image::GrayImage::from_fn(width, height, |x, y| image::Luma([value(x, y)])))
    }

    #[test]
    fn one_segmenter_serves_many_threads() {
        fn shared<T: Send + Sync>(_: &T) {}
        let segmenter = segmenter(2);
        shared(&segmenter);
        let image = picture(20, 17);
        let alone = segmenter.segment(&image).unwrap();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| segmenter.segment(&image).unwrap())).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), alone);
            }
        });
    }

    #[test]
    fn any_size_and_class_count_comes_back() {
        for (classes, width, height) in [(2, 1, 1), (3, 5, 40), (4, 33, 2)] {
            let result = segmenter(classes).segment(&picture(width, height)).unwrap();
            assert_eq!((result.map().width(), result.map().height()), (width, height));
            let planes: Vec<&[f32]> = (0..classes).map(|class| result.probabilities(class).unwrap()).collect();
            assert!(result.probabilities(classes).is_none());
            for (pixel, label) in result.map().as_slice().iter().enumerate() {
                let sum: f32 = planes.iter().map(|plane| plane[pixel]).sum();
                assert!((sum - 1.0).abs() < 1e-5);
                assert!(planes.iter().all(|plane| plane[pixel] <= planes[*label as usize][pixel]));
            }
        }
    }

    /// A network whose output at a pixel depends on that pixel alone gives the same in tiles as whole.
    #[test]
    fn tiles_blend_to_the_whole() {
        struct CentreOnly;

        impl ModuleMapper for CentreOnly {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                if D != 4 || param.val().shape()[2] != 3 {
                    return param;
                }
                param.map(|weight| {
                    let mut mask = vec![0.0f32; weight.shape().num_elements()];
                    mask.iter_mut().skip(4).step_by(9).for_each(|value| *value = 1.0);
                    let mask = Tensor::<D>::from_data(TensorData::new(mask, weight.shape()), &weight.device());
                    weight * mask
                })
            }
        }

        let mut segmenter = segmenter(3);
        segmenter.model = segmenter.model.map(&mut CentreOnly);
        // Constant in 2x2 blocks, so that pooling is harmless and tiles at even starts see the same blocks.
        let image = picture(45, 30).resize_exact(90, 60, image::imageops::FilterType::Nearest);
        let whole = segmenter.segment(&image).unwrap();
        let options = SegmentOptions { tile: Some(30), overlap: 0.0, ..Default::default() };
        let tiled = segmenter.segment_with(&image, &options).unwrap();
        for class in 0..3 {
            let pairs = whole.probabilities(class).unwrap().iter().zip(tiled.probabilities(class).unwrap());
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5));
        }
        assert_eq!(whole.map(), tiled.map());
    }

    #[test]
    fn mirror_images_make_the_result_symmetric() {
        let segmenter = segmenter(2);
        let image = picture(24, 16);
        let options = SegmentOptions { flips: true, ..Default::default() };
        let straight = segmenter.segment_with(&image, &options).unwrap();
        let mirrored = segmenter.segment_with(&image.fliph(), &options).unwrap();
        let (a, b) = (straight.probabilities(1).unwrap(), mirrored.probabilities(1).unwrap());
        for (row_a, row_b) in a.chunks(24).zip(b.chunks(24)) {
            assert!(row_a.iter().zip(row_b.iter().rev()).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let segmenter = segmenter(2);
        for options in [
            SegmentOptions { tile: Some(3), ..Default::default() },
            SegmentOptions { overlap: 1.0, ..Default::default() },
            SegmentOptions { overlap: f32::NAN, ..Default::default() },
        ] {
            assert!(segmenter.segment_with(&picture(4, 4), &options).is_err());
        }
        assert!(segmenter.segment(&DynamicImage::new_luma8(0, 5)).is_err());
    }

    #[test]
    fn refinement_is_of_what_was_segmented() {
        let segmenter = segmenter(2);
        let crf = DenseCrf { color_sigma: 20.0, ..Default::default() };
        let image = picture(40, 33);
        let plain = segmenter.segment(&image).unwrap();
        let options = SegmentOptions { crf: Some(crf), ..Default::default() };
        let refined = segmenter.segment_with(&image, &options).unwrap();
        let given = [0, 1].map(|class| plain.probabilities(class).unwrap()).concat();
        let expected = crf.refine(&given, &Image::from_dynamic(&image, ColorMode::Gray)).unwrap();
        assert_eq!(refined.probabilities(1).unwrap(), &expected[40 * 33..]);
        assert_ne!(refined.probabilities(1), plain.probabilities(1));
        let lean = SegmentOptions { probabilities: false, ..options };
        let lean = segmenter.segment_with(&image, &lean).unwrap();
        assert!(lean.map() == refined.map() && lean.probabilities(0).is_none());
        let none = SegmentOptions { crf: Some(DenseCrf { color_sigma: 0.0, ..crf }), ..Default::default() };
        assert!(segmenter.segment_with(&image, &none).unwrap_err().to_string().contains("color_sigma"));
    }

    #[test]
    fn without_probabilities_the_map_is_the_same() {
        let segmenter = segmenter(3);
        let image = picture(40, 33);
        let lean = SegmentOptions { probabilities: false, ..Default::default() };
        let lean = segmenter.segment_with(&image, &lean).unwrap();
        assert_eq!(lean.map(), segmenter.segment(&image).unwrap().map());
        assert!(lean.probabilities(0).is_none());
    }
}
