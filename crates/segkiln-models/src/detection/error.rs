use burn::tensor::Tensor;
use segkiln_core::{CoreError, Instances, Size};

use super::transform::size;

use crate::ConfigError;

/// Why a detector cannot be built, look at images, or learn from them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetectionError {
    /// The config cannot be built.
    #[error("config: {0}")]
    Config(#[from] ConfigError),
    /// The detector gives no gradients of what it finds.
    #[error("this detector does not implement detect_tensors, by which gradients of a score are computed")]
    NoTensors,
    /// The detector finds no masks, or none of this class.
    #[error("this detector finds no masks of such objects; ask about the object's score, or take Mask R-CNN")]
    NoMasks,
    /// There is no image.
    #[error("no images were given")]
    NoImages,
    /// An image has no pixel, or other channels than the network.
    #[error(
        "image {image} has shape {shape:?} (channels, height, width), the network takes [{channels}, _, _] with sides of at least 1"
    )]
    Image {
        /// Index in the batch.
        image: usize,
        /// Its shape.
        shape: [usize; 3],
        /// Channels that the network takes.
        channels: usize,
    },
    /// There are not as many targets as images, or one is of another size.
    #[error(
        "image {image} has {size} pixels, its target {}; each image needs one of its size",
        target.map_or("is missing".into(), |target| target.to_string())
    )]
    Target {
        /// Index in the batch.
        image: usize,
        /// Size of the image.
        size: Size,
        /// Size of the target; none if it is missing.
        target: Option<Size>,
    },
    /// An object's class is not the network's.
    #[error("object {object} of image {image} has class {label}, the network's are 1 to {most}")]
    Label {
        /// Index in the batch.
        image: usize,
        /// Index in the image.
        object: usize,
        /// Its class.
        label: u32,
        /// The last class.
        most: usize,
    },
    /// An object has no mask, which the network is to learn.
    #[error(
        "object {object} of image {image} has no mask, but the network learns masks; give it one or use Faster R-CNN"
    )]
    NoMask {
        /// Index in the batch.
        image: usize,
        /// Index in the image.
        object: usize,
    },
    /// The box or the mask of a detection cannot be written.
    #[error(transparent)]
    Core(#[from] CoreError),
}

/// Checks that there are images, each of `channels` channels and at least one pixel.
///
/// # Errors
/// [`DetectionError::NoImages`] or [`DetectionError::Image`].
pub fn check_images(images: &[Tensor<3>], channels: usize) -> Result<(), DetectionError> {
    if images.is_empty() {
        return Err(DetectionError::NoImages);
    }
    for (image, tensor) in images.iter().enumerate() {
        let shape = tensor.dims();
        if shape[0] != channels || shape.contains(&0) {
            return Err(DetectionError::Image { image, shape, channels });
        }
    }
    Ok(())
}

/// Checks that each image has a target of its size, whose objects have one of `classes` classes (background included), and
/// masks where `needs_masks`.
///
/// # Errors
/// [`DetectionError::Target`], [`DetectionError::Label`] or [`DetectionError::NoMask`].
pub fn check_targets(
    images: &[Tensor<3>],
    targets: &[Instances],
    classes: usize,
    needs_masks: bool,
) -> Result<(), DetectionError> {
    for (index, image) in images.iter().enumerate() {
        let [height, width] = size(image);
        let target = targets.get(index);
        let found = target.map(Instances::size);
        let size = Size { width: width as u32, height: height as u32 };
        if found != Some(size) {
            return Err(DetectionError::Target { image: index, size, target: found });
        }
        for (object, instance) in target.into_iter().flat_map(Instances::as_slice).enumerate() {
            let most = classes - 1;
            if instance.label() as usize > most {
                return Err(DetectionError::Label { image: index, object, label: instance.label(), most });
            }
            if needs_masks && instance.mask.is_none() {
                return Err(DetectionError::NoMask { image: index, object });
            }
        }
    }
    if targets.len() > images.len() {
        let (size, target) = (Size { width: 0, height: 0 }, targets.get(images.len()).map(Instances::size));
        return Err(DetectionError::Target { image: images.len(), size, target });
    }
    Ok(())
}
