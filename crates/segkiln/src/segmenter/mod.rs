use std::path::Path;

use burn::tensor::{
    Device, Int, Tensor, TensorData,
    activation::{sigmoid, softmax},
};
use image::DynamicImage;
use segkiln_core::{Classes, LabelMap, Precision, Size};
use segkiln_data::{ColorMode, DenseCrf, Image, Normalize, Preset, resize_labels};
use segkiln_models::{
    ModelCard, ModelConfig, SegmentationModel, SegmentationNetwork, SegmentationNetworkConfig,
    weights::{self, Exceptions, Published, TrainingData, Weights, torch_network},
};
use segkiln_ops::{ResizeMode, resize};

use crate::{
    Computation, PredictError,
    quantize::choose_precision,
    run,
    segmentation::{ResultRows, Segmentation},
    tiles::{Band, bell, starts},
};

/// Options of [`Segmenter::segment_with`].
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentOptions {
    /// Side of the square tiles that an image is cut into, in pixels. By default images of up to 2²⁰ pixels are segmented
    /// whole and larger ones in tiles of 512. With a [preset](Segmenter::with_preset) every image is segmented whole.
    pub tile: Option<u32>,
    /// Share of a tile that neighbors have in common, in `[0, 0.95]`.
    pub overlap: f32,
    /// Whether the four mirror images are segmented too and the probabilities averaged: slower, a little better.
    pub flips: bool,
    /// Dense CRF that moves the borders to the image's edges afterwards, by the image's values before they are normalized. It takes
    /// the whole image at once: 20 bytes a pixel and class and some 600 bytes a pixel.
    pub crf: Option<DenseCrf>,
    /// Whether probabilities are kept: 4 bytes a pixel and class. The map alone needs 4 bytes a pixel.
    pub probabilities: bool,
    /// Whether the logits are kept, at the height and width in which the network sees the image; only of images that are
    /// segmented whole.
    pub logits: bool,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self { tile: None, overlap: 0.25, flips: false, crf: None, probabilities: true, logits: false }
    }
}

impl SegmentOptions {
    /// Images of more pixels than this are tiled when no tile is given.
    const WHOLE: u64 = 1 << 20;
    const DEFAULT_TILE: u32 = 512;

    fn check(&self) -> Result<(), PredictError> {
        let refuse = |option, reason: &str| Err(PredictError::option(option, reason));
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

/// A trained network that segments images of any size.
///
/// It is `Send + Sync`: one loaded network serves many threads. It holds any segmentation network of this library, or a
/// [`SegmentationNetwork`] of your own.
///
/// ```no_run
/// use segkiln::{image, prelude::*};
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
    preset: Option<Preset>,
    pub(crate) device: Device,
    pub(crate) computation: Computation,
}

impl Segmenter {
    /// Loads what a training wrote: a folder (its `best.bpk` and `config.json`) or a `.bpk` file beside a `config.json`.
    ///
    /// # Errors
    /// [`PredictError::Config`] or [`PredictError::Weights`], naming the file.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self, PredictError> {
        Self::load_network(path, device)
    }

    /// A network by its name, see [`ModelConfig::by_name`], with weights of torchvision or segmentation_models_pytorch
    /// (`.pth`, `.safetensors`) or ours (`.bpk`), for RGB images that are normalized with ImageNet's mean and deviation.
    ///
    /// A file that torchvision has published, known by its name, comes with the names of its classes and the
    /// [preset](Self::with_preset) it was evaluated with. Of other files the classes are called "class 0" and so on; see
    /// [`with_classes`](Self::with_classes).
    ///
    /// # Errors
    /// [`PredictError::Network`] if there is no such network, [`PredictError::Weights`] if the file is not of it.
    pub fn by_name(
        name: &str,
        weights: impl AsRef<Path>,
        classes: usize,
        device: &Device,
    ) -> Result<Self, PredictError> {
        let path = weights.as_ref();
        let is_ours = path.extension().is_some_and(|extension| extension == "bpk");
        let mut model = ModelConfig::by_name(name, classes)?;
        if !is_ours {
            model = ModelConfig::by_name(&torch_network(name, path)?, classes)?;
        }
        // Before anything is allocated by the number of classes.
        model.check()?;
        let published = Published::of_file(name, path).filter(|published| published.data.classes() == classes);
        let names = match (published.and_then(|published| published.data.class_names()), classes) {
            (Some(names), _) => names,
            // A single logit is that of the foreground.
            (None, 1) => Classes::binary(),
            (None, _) => Classes::new((0..classes).map(|class| format!("class {class}")))
                .map_err(|error| PredictError::option("classes", error.to_string()))?,
        };
        let card = ModelCard { model, classes: names, color: Some(ColorMode::Rgb), normalize: Normalize::imagenet() };
        let model = if is_ours {
            // A training checkpoint may have an auxiliary head, which prediction does not need; retry with one.
            weights::load(card.model.init(device), path).or_else(|error| {
                weights::load(card.model.clone().with_aux(true).init(device), path).map_err(|_| error)
            })?
        } else {
            let spare = &["aux_classifier."];
            card.model.init(device).load_torch(path, Exceptions { spare, ..Exceptions::default() })?
        };
        Self::new(model, card, device)?.with_preset(published.and_then(|published| published.preset))
    }

    /// torchvision's network with weights that it has published, from the cache or downloaded; see
    /// [`Published::file`](weights::Published::file), which before this call shows the progress of a download. Its classes
    /// have their names, and images are resized as it was evaluated: to a shorter side of 520 pixels.
    ///
    /// ```no_run
    /// use segkiln::{models::weights::LrAsppMobileNetV3LargeWeights, prelude::*};
    ///
    /// let segmenter = Segmenter::pretrained(LrAsppMobileNetV3LargeWeights::default(), &Device::default())?;
    /// # Ok::<(), segkiln::PredictError>(())
    /// ```
    ///
    /// # Errors
    /// [`PredictError::Weights`] if they are not there and cannot be downloaded, [`PredictError::Option`] if the network is no
    /// segmentation network.
    pub fn pretrained(weights: impl Weights, device: &Device) -> Result<Self, PredictError> {
        let published = weights.published();
        if published.data != TrainingData::CocoVoc {
            return Err(PredictError::option("weights", format!("{} is no segmentation network", published.network)));
        }
        Self::by_name(published.network, published.file(|_, _| {})?, published.data.classes(), device)
    }
}

impl<M: SegmentationNetwork> Segmenter<M> {
    /// A network in memory.
    ///
    /// # Errors
    /// [`PredictError::Card`] if the parts of the card do not fit each other.
    pub fn new(model: M, card: ModelCard<M::Config>, device: &Device) -> Result<Self, PredictError> {
        card.check().map_err(PredictError::Card)?;
        // Gradients are never wanted here, whatever device the network comes from.
        let device = device.clone().inner();
        let model = if model.devices().iter().any(Device::is_autodiff) { model.valid() } else { model };
        let computation = Computation::new(&device)?;
        Ok(Self { model, card, preset: None, device, computation })
    }

    /// Gives the classes their names and colors.
    ///
    /// # Errors
    /// [`PredictError::Card`] if the network has another number of classes.
    pub fn with_classes(mut self, classes: Classes) -> Result<Self, PredictError> {
        self.card.classes = classes;
        self.card.check().map_err(PredictError::Card)?;
        Ok(self)
    }

    /// Changes the size in which the network sees images, as torchvision's published networks were evaluated: images are
    /// resized before the network and the logits after it, bilinearly. Without a preset the network sees images as they are.
    ///
    /// # Errors
    /// [`PredictError::Option`] if the preset crops images, which leaves pixels without a class.
    pub fn with_preset(mut self, preset: Option<Preset>) -> Result<Self, PredictError> {
        if preset.is_some_and(|preset| preset.crop.is_some()) {
            return Err(PredictError::option(
                "preset",
                "crops images, as those of classifiers do; set its crop to None",
            ));
        }
        self.preset = preset;
        Ok(self)
    }

    choose_precision!();

    /// [`load`](Segmenter::load) of a run of a network of your own: `Segmenter::<MyNetwork>::load_network(…)`.
    ///
    /// # Errors
    /// As [`load`](Segmenter::load).
    pub fn load_network(path: impl AsRef<Path>, device: &Device) -> Result<Self, PredictError> {
        let (file, card) = run::open(path.as_ref(), ModelCard::<M::Config>::check)?;
        let model = weights::load(card.model.init(device), &file)?;
        let quantization = run::quantization(&file)?;
        let mut segmenter = Self::new(model, card, device)?;
        segmenter.computation = Computation::of_run(&segmenter.model, quantization, &file, &segmenter.device)?;
        Ok(segmenter)
    }

    /// Computes the logits of an image that is segmented whole, at the size in which the network sees it.
    ///
    /// # Shapes
    /// `[1, channels, height, width]`, of the image's height and width or those of the [preset](Self::with_preset)
    ///
    /// # Errors
    /// [`PredictError::Data`] if the image cannot be brought to that size.
    pub fn logits(&self, image: &DynamicImage) -> Result<Tensor<4>, PredictError> {
        let color = self.color()?;
        refuse_empty(image.width(), image.height())?;
        self.logits_values(&Image::from_dynamic(image, color))
    }

    /// [`logits`](Self::logits) of an image of any number of channels, with values that are not normalized.
    ///
    /// # Errors
    /// As [`logits`](Self::logits), and if the channels are not those that the network takes.
    pub fn logits_values(&self, image: &Image) -> Result<Tensor<4>, PredictError> {
        let seen = self.preset.map_or_else(|| Ok(image.clone()), |preset| preset.apply(image))?;
        Ok(self.forward(self.input(seen)?))
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

    /// Size in which the network sees images; none if it sees them as they are.
    pub fn preset(&self) -> Option<Preset> {
        self.preset
    }

    /// Segments an image with the default options.
    ///
    /// # Errors
    /// [`PredictError::Data`] if the image has no pixels, [`PredictError::Device`] if the device fails.
    pub fn segment(&self, image: &DynamicImage) -> Result<Segmentation, PredictError> {
        self.segment_with(image, &SegmentOptions::default())
    }

    /// Segments an image.
    ///
    /// Tiles are weighed with a bell around their middle, because a pixel at a border knows less of its surroundings
    /// (Isensee et al., nnU-Net). Memory is bounded by a band of the image as high as a tile, and the result.
    ///
    /// # Errors
    /// As [`segment`](Self::segment), and [`PredictError::Option`].
    pub fn segment_with(&self, image: &DynamicImage, options: &SegmentOptions) -> Result<Segmentation, PredictError> {
        let color = self.color()?;
        refuse_empty(image.width(), image.height())?;
        match self.preset {
            Some(preset) => self.resized(&Image::from_dynamic(image, color), preset, options),
            None => self.in_tiles(image.width(), image.height(), options, |left, top, width, height| {
                Image::from_dynamic(&image.crop_imm(left, top, width, height), color)
            }),
        }
    }

    /// Segments an image of any number of channels, with the values that the data set had before it was normalized.
    ///
    /// # Errors
    /// As [`segment_with`](Self::segment_with), and if the channels are not those that the network takes.
    pub fn segment_values(&self, image: &Image, options: &SegmentOptions) -> Result<Segmentation, PredictError> {
        match self.preset {
            Some(preset) => self.resized(image, preset, options),
            None => self.in_tiles(image.width(), image.height(), options, |left, top, width, height| {
                image.crop(left, top, width, height)
            }),
        }
    }

    /// Channels that pictures are brought to.
    fn color(&self) -> Result<ColorMode, PredictError> {
        self.card.color.ok_or_else(|| {
            let reason = "the network does not take pictures, as its config.json has no color; give it channels by \
                          `segment_values`";
            PredictError::option("color", reason)
        })
    }

    fn check(&self, width: u32, height: u32, options: &SegmentOptions) -> Result<(), PredictError> {
        options.check()?;
        refuse_empty(width, height)?;
        if let Some(crf) = &options.crf {
            crf.check(self.card.classes.count(), width, height)?;
            let channels = self.card.model.in_channels();
            if ![1, 3, 4].contains(&channels) {
                let reason =
                    format!("needs images of 1 or 3 channels, or a fourth that it leaves out; these have {channels}");
                return Err(PredictError::option("crf", reason));
            }
        }
        Ok(())
    }

    /// Segments an image whole in the size of a preset.
    fn resized(&self, image: &Image, preset: Preset, options: &SegmentOptions) -> Result<Segmentation, PredictError> {
        let (width, height) = (image.width(), image.height());
        self.check(width, height, options)?;
        if options.tile.is_some() {
            return Err(PredictError::option("tile", "is not for a network with a preset, which sees images whole"));
        }
        let x = self.input(preset.apply(image)?)?;
        let logits = self.forward(x.clone());
        let kept = options.logits.then(|| to_host(logits.clone())).transpose()?;
        let scores = if options.flips { self.mean_probabilities(x, logits) } else { logits };
        refuse_nan(&scores, image.size())?;
        let keep = options.probabilities || options.crf.is_some();
        let probabilities = match keep {
            true => {
                let enlarged = resize(scores.clone(), [height as usize, width as usize], ResizeMode::default());
                let enlarged = if options.flips { enlarged } else { class_probabilities(enlarged) };
                Some(to_vec(enlarged)?)
            }
            false => None,
        };
        let classes = self.card.classes.clone();
        Ok(match (&options.crf, probabilities) {
            (Some(crf), Some(probabilities)) => {
                let rows = ResultRows::refined(classes, &probabilities, crf, image, options.probabilities)?;
                rows.into_segmentation()?.with_logits(kept)
            }
            (_, probabilities) => {
                Segmentation::new(classes, most_likely(scores, width, height)?, probabilities).with_logits(kept)
            }
        })
    }

    fn in_tiles(
        &self,
        width: u32,
        height: u32,
        options: &SegmentOptions,
        part: impl Fn(u32, u32, u32, u32) -> Image,
    ) -> Result<Segmentation, PredictError> {
        self.check(width, height, options)?;
        let tile = options.tile_for(width, height);
        let (width, height) = (width as usize, height as usize);
        let (tile_width, tile_height) = (tile.min(width), tile.min(height));
        if options.logits && [tile_width, tile_height] != [width, height] {
            let reason = format!("are of images that are done whole; this one is cut into tiles of {tile}");
            return Err(PredictError::option("logits", reason));
        }
        let (columns, rows) = (starts(width, tile, options.overlap), starts(height, tile, options.overlap));
        let (bell_x, bell_y) = (bell(tile_width), bell(tile_height));

        let keep = options.probabilities || options.crf.is_some();
        let mut result = ResultRows::new(self.card.classes.clone(), width, height, keep);
        let mut band = Band::new(self.card.classes.count(), width, tile_height);
        let mut kept = None;
        for (index, &top) in rows.iter().enumerate() {
            for &left in &columns {
                let part = part(left as u32, top as u32, tile_width as u32, tile_height as u32);
                let x = self.input(part)?;
                let logits = self.forward(x.clone());
                if options.logits {
                    kept = Some(to_host(logits.clone())?);
                }
                let probabilities = self.probabilities(x, logits, options.flips);
                band.add(&to_vec(probabilities)?, left, &bell_x, &bell_y);
            }
            let done = rows.get(index + 1).map_or(tile_height, |next| next - top);
            band.finish(done, &mut result);
        }
        if let Some(crf) = &options.crf {
            let image = part(0, 0, width as u32, height as u32);
            let probabilities = result.into_probabilities();
            let classes = self.card.classes.clone();
            result = ResultRows::refined(classes, &probabilities, crf, &image, options.probabilities)?;
        }
        Ok(result.into_segmentation()?.with_logits(kept))
    }

    /// Normalizes an image, as a tensor `[1, channels, height, width]`.
    fn input(&self, mut image: Image) -> Result<Tensor<4>, PredictError> {
        self.card.normalize.apply(&mut image)?;
        self.normalized(image)
    }

    /// An image that is normalized, as a tensor.
    fn normalized(&self, image: Image) -> Result<Tensor<4>, PredictError> {
        // In floats such values reach the probabilities, where they are found; 8 bits have none for them.
        if self.precision() == Precision::Int8 {
            refuse_not_finite(&image)?;
        }
        let shape = [1, image.height() as usize, image.width() as usize, image.channels()];
        Ok(Tensor::<4>::from_data(TensorData::new(image.into_vec(), shape), &self.device).permute([0, 3, 1, 2]))
    }

    /// Probabilities `[class][row][column]` of an image that is normalized.
    pub(crate) fn normalized_probabilities(&self, image: Image, flips: bool) -> Result<Vec<f32>, PredictError> {
        let x = self.normalized(image)?;
        let logits = self.forward(x.clone());
        to_vec(self.probabilities(x, logits, flips))
    }

    /// Probabilities of an image by its logits, with `flips` those of the four mirror images.
    fn probabilities(&self, x: Tensor<4>, logits: Tensor<4>, flips: bool) -> Tensor<4> {
        if flips { self.mean_probabilities(x, logits) } else { class_probabilities(logits) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.computation.session().run(|| self.model.forward(x))
    }

    /// Mean of the probabilities of the four mirror images; `logits` are those of the image itself.
    fn mean_probabilities(&self, x: Tensor<4>, logits: Tensor<4>) -> Tensor<4> {
        let mirrored: [&[usize]; 3] = [&[2], &[3], &[2, 3]];
        let mirrored = mirrored.map(|axes| flip(class_probabilities(self.forward(flip(x.clone(), axes))), axes));
        let sum = mirrored.into_iter().fold(class_probabilities(logits), |sum, next| sum + next);
        sum.div_scalar(4.0)
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

pub(crate) fn refuse_not_finite(image: &Image) -> Result<(), PredictError> {
    match image.as_slice().iter().any(|value| !value.is_finite()) {
        true => {
            let reason = "has values that are not finite; say what pixels without data have (nodata)";
            Err(PredictError::option("image", reason))
        }
        false => Ok(()),
    }
}

/// An [`Image`] has at least one pixel, a picture may have none.
fn refuse_empty(width: u32, height: u32) -> Result<(), PredictError> {
    match width == 0 || height == 0 {
        true => Err(PredictError::option("image", "has no pixels")),
        false => Ok(()),
    }
}

fn to_host<const D: usize>(tensor: Tensor<D>) -> Result<TensorData, PredictError> {
    tensor.try_into_data().map_err(|error| PredictError::Device(error.to_string()))
}

fn to_vec(tensor: Tensor<4>) -> Result<Vec<f32>, PredictError> {
    to_host(tensor)?.try_to_vec().map_err(|error| PredictError::Device(error.to_string()))
}

/// Finds the first NaN of scores `[1, channels, h, w]` and says where it is in an image of this width and height.
fn refuse_nan(scores: &Tensor<4>, Size { width, height }: Size) -> Result<(), PredictError> {
    let [_, _, rows, columns] = scores.dims();
    let place = |at: usize, seen: usize, side: u32| at * side as usize / seen;
    match to_vec(scores.clone())?.iter().position(|value| value.is_nan()) {
        Some(at) => {
            let (row, column) = (at / columns % rows, at % columns);
            Err(PredictError::Undefined { x: place(column, columns, width), y: place(row, rows, height) })
        }
        None => Ok(()),
    }
}

/// The most likely class of each pixel of an image of this size, by scores `[1, channels, h, w]`; of a single logit, whether
/// it is positive.
fn most_likely(scores: Tensor<4>, width: u32, height: u32) -> Result<LabelMap, PredictError> {
    /// Bytes of enlarged scores.
    const MOST: u64 = 1 << 30;
    let [_, channels, ..] = scores.dims();
    // Of a large photograph the classes are enlarged in place of the scores.
    let whole = u64::from(width) * u64::from(height) * 4 * channels as u64 <= MOST;
    let scores = if whole { resize(scores, [height as usize, width as usize], ResizeMode::default()) } else { scores };
    let [_, _, rows, columns] = scores.dims();
    let labels: Tensor<4, Int> = match channels {
        1 => scores.greater_elem(0.0).int(),
        _ => scores.argmax(1),
    };
    let labels = labels.try_into_data().map_err(|error| PredictError::Device(error.to_string()))?;
    let labels = labels.iter::<i64>().map(|label| label as u32).collect();
    let map = LabelMap::new(columns as u32, rows as u32, labels).expect("each pixel has a label");
    Ok(resize_labels(&map, width, height)?)
}

#[cfg(test)]
mod tests;
