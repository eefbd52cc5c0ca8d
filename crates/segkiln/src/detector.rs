use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use image::{DynamicImage, RgbImage};
use segkiln_core::{Classes, Detection, Instances};
use segkiln_data::{
    Image,
    coco::{CocoResult, CocoSegmentation, ImageId},
    draw,
};
use segkiln_models::{
    ConfigError, DetectorCard,
    detection::{
        DetectionError, DetectionModel, DetectionNetwork, DetectionNetworkConfig, DetectionOptions, DetectorConfig,
        unnamed_classes,
    },
    weights::{self, Published, TrainingData, Weights},
};

use crate::{Computation, PredictError, quantize::choose_precision, run, segmenter::refuse_not_finite};

/// A trained network that finds objects in images of any size: their boxes and classes, and with Mask R-CNN their masks.
///
/// It is `Send + Sync`: one loaded network serves many threads. It holds any detector of this crate, or a
/// [`DetectionNetwork`] of your own.
///
/// ```no_run
/// use segkiln::{image, prelude::*};
///
/// let detector = Detector::by_name("maskrcnn_resnet50_fpn", "maskrcnn.pth", 91, &Device::default())?;
/// let image = image::open("street.jpg")?;
/// for detection in detector.detect(&image)? {
///     println!("{} {:.2} {:?}", detector.name(&detection), detection.score, detection.bbox.xyxy());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Detector<M: DetectionNetwork = DetectionModel> {
    model: M,
    card: DetectorCard<M::Config>,
    pub(crate) device: Device,
    pub(crate) computation: Computation,
}

impl Detector {
    /// Loads what a training wrote: a folder (its `best.bpk` and `config.json`) or a `.bpk` file beside a `config.json`.
    ///
    /// # Errors
    /// [`PredictError::Config`] or [`PredictError::Weights`], naming the file.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self, PredictError> {
        Self::load_network(path, device)
    }

    /// torchvision's network with weights that it has published, from the cache or downloaded; see
    /// [`Published::file`](weights::Published::file), which before this call shows the progress of a download.
    ///
    /// ```no_run
    /// use segkiln::{models::weights::MaskRcnnResNet50FpnV2Weights, prelude::*};
    ///
    /// let detector = Detector::pretrained(MaskRcnnResNet50FpnV2Weights::default(), &Device::default())?;
    /// # Ok::<(), segkiln::PredictError>(())
    /// ```
    ///
    /// # Errors
    /// [`PredictError::Weights`] if they are not there and cannot be downloaded, [`PredictError::Option`] if the network is no
    /// detector.
    pub fn pretrained(weights: impl Weights, device: &Device) -> Result<Self, PredictError> {
        let published = weights.published();
        if published.data != TrainingData::Coco {
            return Err(PredictError::option("weights", format!("{} is no detector", published.network)));
        }
        Self::by_name(published.network, published.file(|_, _| {})?, published.data.classes(), device)
    }

    /// torchvision's network of this name (see [`DetectorConfig::names`]) with weights in a file of torchvision's, `.pth` or
    /// `.safetensors`, or a `.bpk`, for `classes` classes with the background.
    ///
    /// A file that torchvision has published, known by its name, comes with the names of its classes. Of other files the classes
    /// are called "class 1" and so on; see [`with_classes`](Self::with_classes).
    ///
    /// The weights that torchvision trained on COCO for the first versions of its ResNet-50 networks have norms with an
    /// epsilon of 0, which are recognized; see [`frozen_epsilon`](crate::models::detection::frozen_epsilon).
    ///
    /// # Errors
    /// [`PredictError::Network`] if there is no such network, or [`PredictError::Weights`] naming the file and, if it is of
    /// another network, its tensors.
    pub fn by_name(
        name: &str,
        weights: impl AsRef<Path>,
        classes: usize,
        device: &Device,
    ) -> Result<Self, PredictError> {
        let path = weights.as_ref();
        let config = DetectorConfig::by_name(name, classes).ok_or_else(|| {
            let names = DetectorConfig::names().join(", ");
            ConfigError::new("name", format!("there is no network {name:?}; the names are {names}"))
        })?;
        let is_ours = path.extension().is_some_and(|extension| extension == "bpk");
        let config = if is_ours { config } else { config.adapted_to(path)? };
        let model = config.init(device)?;
        let model = if is_ours { weights::load(model, path)? } else { weights::load_torch(model, path)? };
        let published = Published::of_file(name, path).filter(|published| published.data.classes() == classes);
        let names = published.and_then(|published| published.data.class_names());
        Self::new(model, DetectorCard::new(config, names.unwrap_or_else(|| unnamed_classes(classes))), device)
    }
}

impl<M: DetectionNetwork> Detector<M> {
    /// A network in memory.
    ///
    /// # Errors
    /// [`PredictError::Card`] if the parts of the card do not fit each other.
    pub fn new(model: M, card: DetectorCard<M::Config>, device: &Device) -> Result<Self, PredictError> {
        card.check().map_err(PredictError::Card)?;
        // Gradients are never wanted here, whatever device the network comes from.
        let device = device.clone().inner();
        let model = if model.devices().iter().any(Device::is_autodiff) { model.valid() } else { model };
        let computation = Computation::new(&device)?;
        Ok(Self { model, card, device, computation })
    }

    /// Gives the classes their names and colors; class 0 is the background.
    ///
    /// # Errors
    /// [`PredictError::Card`] if the network has another number of classes.
    pub fn with_classes(mut self, classes: Classes) -> Result<Self, PredictError> {
        self.card.classes = classes;
        self.card.check().map_err(PredictError::Card)?;
        Ok(self)
    }

    choose_precision!();

    /// [`load`](Detector::load) of a run of a network of your own: `Detector::<MyNetwork>::load_network(…)`.
    ///
    /// # Errors
    /// As [`load`](Detector::load).
    pub fn load_network(path: impl AsRef<Path>, device: &Device) -> Result<Self, PredictError> {
        let (file, card) = run::open(path.as_ref(), DetectorCard::<M::Config>::check)?;
        let model = weights::load(card.model.init(device)?, &file)?;
        let quantization = run::quantization(&file)?;
        let mut detector = Self::new(model, card, device)?;
        detector.computation = Computation::of_run(&detector.model, quantization, &file, &detector.device)?;
        Ok(detector)
    }

    /// Changes sizes of images, thresholds or numbers of boxes of the network's config.
    ///
    /// # Errors
    /// [`PredictError::Detection`] if they are out of range.
    pub fn with_config(self, change: impl FnOnce(M::Config) -> M::Config) -> Result<Self, PredictError> {
        let Self { model, mut card, device, computation } = self;
        let model = model.with_config(change(card.model))?;
        card.model = model.config();
        Ok(Self { model, card, device, computation })
    }

    /// Changes the options that every detector has.
    ///
    /// # Errors
    /// [`PredictError::Detection`] if they are out of range.
    pub fn with_options(self, options: DetectionOptions) -> Result<Self, PredictError> {
        self.with_config(|config| config.with_options(options))
    }

    /// Config of the network, its classes and categories.
    pub fn card(&self) -> &DetectorCard<M::Config> {
        &self.card
    }

    /// The network.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The classes that it tells apart; 0 is the background.
    pub fn classes(&self) -> &Classes {
        &self.card.classes
    }

    /// The name of a detection's class.
    pub fn name(&self, detection: &Detection) -> &str {
        self.card.classes.names().get(detection.label() as usize).map_or("", String::as_str)
    }

    /// Finds the objects of an image, best first, in its pixels.
    ///
    /// # Errors
    /// [`PredictError::Detection`] if the image has no pixels.
    pub fn detect(&self, image: &DynamicImage) -> Result<Vec<Detection>, PredictError> {
        if image.width() == 0 || image.height() == 0 {
            return Err(DetectionError::NoImages.into());
        }
        self.detect_values(&Image::from_dynamic(image, self.card.color))
    }

    /// Finds the objects of an image of any number of channels, with values from 0 to 1.
    ///
    /// # Errors
    /// [`PredictError::Detection`] if the channels are not those that the network takes, [`PredictError::Option`] if a value is not
    /// finite, as the network would find nothing then.
    pub fn detect_values(&self, image: &Image) -> Result<Vec<Detection>, PredictError> {
        refuse_not_finite(image)?;
        let shape = [image.height() as usize, image.width() as usize, image.channels()];
        let values = TensorData::new(image.as_slice().to_vec(), shape);
        let x = Tensor::<3>::from_data(values, &self.device).permute([2, 0, 1]);
        Ok(self.computation.session().run(|| self.model.detect(&[x]))?.remove(0))
    }

    /// The image with what was found drawn over it: boxes, names, scores and masks.
    ///
    /// # Errors
    /// [`PredictError::Data`] if a mask is not of the image's size.
    pub fn overlay(&self, image: &DynamicImage, detections: &[Detection]) -> Result<RgbImage, PredictError> {
        Ok(draw::detections(image, detections, &self.card.classes)?)
    }

    /// The image, the image with annotated objects, and the image with detections, side by side.
    ///
    /// # Errors
    /// [`PredictError::Data`] if a mask is not of the image's size.
    pub fn comparison(
        &self,
        image: &DynamicImage,
        target: &Instances,
        detections: &[Detection],
    ) -> Result<RgbImage, PredictError> {
        let annotated = target.as_slice().iter().map(|instance| {
            let mut known = Detection::new(instance.bbox, instance.label(), 1.0).map_err(DetectionError::Core)?;
            known.mask = instance.mask.clone();
            Ok(known)
        });
        let annotated: Vec<Detection> = annotated.collect::<Result<_, PredictError>>()?;
        let drawn = [image.to_rgb8(), self.overlay(image, &annotated)?, self.overlay(image, detections)?];
        Ok(draw::side_by_side(&drawn))
    }

    /// Detections of an image as COCO's files of results have them, in the same order.
    pub fn coco_results(&self, image: &ImageId, detections: &[Detection]) -> Vec<CocoResult> {
        let result = |detection: &Detection| CocoResult {
            image_id: image.clone(),
            category_id: self.card.category(detection.label()),
            bbox: Some(detection.bbox.xywh()),
            score: detection.score.into(),
            segmentation: detection.mask.as_ref().map(|mask| CocoSegmentation::Compressed {
                size: [mask.height(), mask.width()],
                counts: mask.to_coco_string(),
            }),
        };
        detections.iter().map(result).collect()
    }
}
