use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
};

use burn::tensor::Tensor;
use segkiln_data::Image;
use segkiln_models::{Edit, LayerMap, LayerMaps};

use crate::{
    ExplainError, Explanation, ExplanationTarget, Method, Result, Subject,
    picture::tensor,
    subject::{finite, scores, values},
};

/// A network, an image and a target: what every method explains.
///
/// ```
/// use burn::tensor::Device;
/// use segkiln_core::Classes;
/// use segkiln_data::{ColorMode, Image, Normalize};
/// use segkiln_explain::{Question, Pixels, SegmentationSubject, ExplanationTarget, method};
/// use segkiln_models::{ModelCard, ModelConfig, unet::UNetConfig};
///
/// let device = Device::default();
/// let config = UNetConfig::new(1, 3).with_base(4).with_depth(2);
/// let classes = Classes::new(["sky", "tree", "road"])?;
/// let normalize = Normalize::identity(1);
/// let card = ModelCard { model: ModelConfig::UNet(config.clone()), classes, color: Some(ColorMode::Gray), normalize };
/// let network = segkiln_models::SegmentationNetworkConfig::init(&card.model, &device);
///
/// let subject = SegmentationSubject::new(&network, &card, &device)?;
/// let image = Image::new(24, 16, 1, (0..24 * 16).map(|value| (value % 7) as f32 / 7.0).collect())?;
/// let question = Question::new(&subject, &image, &ExplanationTarget::class(1, Pixels::Image))?.with_layers(&["encoder.bottleneck"])?;
/// let explanation = question.explain(&*method("gradcam").unwrap())?;
/// assert_eq!((explanation.map.width(), explanation.map.height()), (24, 16));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Question<'a> {
    pub(crate) subject: &'a dyn Subject,
    /// Normalized, `[1, channels, height, width]`.
    pub(crate) x: Tensor<4>,
    pub(crate) target: ExplanationTarget,
    maps: OnceCell<LayerMaps>,
    layers: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) batch: usize,
}

impl<'a> Question<'a> {
    /// Asks about an image, with its values before they are normalized.
    ///
    /// # Errors
    /// If the image does not fit the network, or the target is not in it.
    pub fn new(subject: &'a dyn Subject, image: &Image, target: &ExplanationTarget) -> Result<Self> {
        let mut image = image.clone();
        subject.normalize().apply(&mut image)?;
        let x = tensor(image, subject.device());
        let target = subject.resolve(target, &x)?;
        Ok(Self { subject, x, target, maps: OnceCell::new(), layers: Vec::new(), seed: 0, batch: 8 })
    }

    /// Chooses the layers of class activation maps, whose maps are averaged.
    ///
    /// # Errors
    /// [`ExplainError::Layer`], with the names of those that there are.
    pub fn with_layers<S: AsRef<str>>(mut self, layers: &[S]) -> Result<Self> {
        let maps = self.maps()?;
        for layer in layers {
            maps.find(layer.as_ref())?;
        }
        self.layers = layers.iter().map(|layer| layer.as_ref().to_owned()).collect();
        Ok(self)
    }

    /// Sets the seed of methods that draw random numbers; 0 without.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets how many changed images the network computes at once; 8 without.
    pub fn with_batch(self, batch: usize) -> Self {
        Self { batch: batch.max(1), ..self }
    }

    /// The target, which no longer depends on the network's answer.
    pub fn target(&self) -> &ExplanationTarget {
        &self.target
    }

    /// The target's value for the image.
    ///
    /// # Errors
    /// [`ExplainError::Undefined`] if it is not finite.
    pub fn score(&self) -> Result<f32> {
        finite(values(self.subject.score(self.x.clone(), &self.target)?)?[0])
    }

    /// Explains the target's value by a method.
    ///
    /// # Errors
    /// As the method, and [`ExplainError::Undefined`] if a value is not finite.
    pub fn explain(&self, method: &dyn Method) -> Result<Explanation> {
        method.explain(self)
    }

    /// The maps that the network puts out for the image.
    ///
    /// # Errors
    /// If the network refuses the image.
    pub fn maps(&self) -> Result<&LayerMaps> {
        if self.maps.get().is_none() {
            let maps = self.subject.layers(&self.x, &self.target)?;
            let _ = self.maps.set(maps);
        }
        Ok(self.maps.get().expect("set above"))
    }

    /// The layers of class activation maps.
    ///
    /// # Errors
    /// [`ExplainError::Option`] if none was given and the network shows none.
    pub fn layers(&self) -> Result<Vec<LayerMap>> {
        let maps = self.maps()?;
        let names = match self.layers.is_empty() {
            true => self.subject.default_layers(maps),
            false => self.layers.clone(),
        };
        if names.is_empty() {
            let reason = "the network shows no layer; let it call segkiln_models::tap, or take a method without layers";
            return Err(ExplainError::Option { option: "layer", reason: reason.into() });
        }
        names.iter().map(|name| Ok(maps.find(name)?)).collect()
    }

    /// `[height, width]` of the image.
    pub(crate) fn size(&self) -> [usize; 2] {
        let [_, _, height, width] = self.x.dims();
        [height, width]
    }

    /// Gradients of the target for images, `[n, channels, height, width]`.
    pub(crate) fn gradients(&self, x: Tensor<4>) -> Result<Tensor<4>> {
        let x = x.autodiff().require_grad();
        let score = self.subject.score(x.clone(), &self.target)?.sum();
        gradient(&x, &score, "the image")
    }

    /// Scores of changed images.
    pub(crate) fn scores(&self, count: usize, image: impl FnMut(usize) -> Result<Tensor<4>>) -> Result<Vec<f32>> {
        scores(self.subject, &self.target, count, self.batch, image)
    }

    /// The maps of the layers, without gradients.
    pub(crate) fn activations(&self) -> Result<Vec<Tensor<4>>> {
        self.activations_of(&self.layers()?)
    }

    /// The maps of some layers, without gradients.
    pub(crate) fn activations_of(&self, layers: &[LayerMap]) -> Result<Vec<Tensor<4>>> {
        let seen: Seen<Tensor<4>> = Rc::new(RefCell::new(vec![None; layers.len()]));
        let edits = layers.iter().enumerate().map(|(index, layer)| {
            let seen = seen.clone();
            let edit: Edit = Box::new(move |map| {
                seen.borrow_mut()[index] = Some(map.clone());
                map
            });
            (layer.clone(), edit)
        });
        self.maps()?.edit(edits.collect(), || self.subject.score(self.x.clone(), &self.target))?;
        let missing = |layer: &LayerMap| ExplainError::LayerNotReached(layer.name().into());
        seen.take().into_iter().zip(layers).map(|(map, layer)| map.ok_or_else(|| missing(layer))).collect()
    }

    /// The maps of the layers and the gradients of the target for them. What comes before the first layer is computed without
    /// gradients, and nothing is computed for weights.
    pub(crate) fn activations_and_gradients(&self) -> Result<Vec<(Tensor<4>, Tensor<4>)>> {
        let layers = self.layers()?;
        let seen: Seen<(Tensor<4>, Tensor<4>)> = Rc::new(RefCell::new(vec![None; layers.len()]));
        let edits = layers.iter().enumerate().map(|(index, layer)| {
            let seen = seen.clone();
            let edit: Edit = Box::new(move |map| {
                let (leaf, next) = leaf(map.clone());
                seen.borrow_mut()[index] = Some((map.without_autodiff(), leaf));
                next
            });
            (layer.clone(), edit)
        });
        let score = self.maps()?.edit(edits.collect(), || self.subject.score(self.x.clone(), &self.target))?.sum();
        let seen = seen.take();
        if !score.is_autodiff() || !score.is_tracked() {
            return Err(ExplainError::NoGradient(format!("layer {}", layers[0].name())));
        }
        let gradients = score.backward();
        let mut pairs = Vec::with_capacity(layers.len());
        let mut is_used = false;
        for (seen, layer) in seen.into_iter().zip(&layers) {
            let (map, leaf) = seen.ok_or_else(|| ExplainError::LayerNotReached(layer.name().into()))?;
            // An object comes from one level of a pyramid; the others have no part in it.
            let gradient = leaf.grad(&gradients);
            is_used |= gradient.is_some();
            let gradient = gradient.unwrap_or_else(|| map.zeros_like());
            pairs.push((map, gradient));
        }
        if is_used { Ok(pairs) } else { Err(ExplainError::NoGradient(format!("layer {}", layers[0].name()))) }
    }

    /// The score of each of some edits of a layer's map, which the image is repeated for.
    pub(crate) fn edited_scores(
        &self,
        layer: &LayerMap,
        count: usize,
        edit: impl Fn(Tensor<4>, std::ops::Range<usize>) -> Tensor<4> + 'static,
    ) -> Result<Vec<f32>> {
        let edit = Rc::new(edit);
        let mut found = Vec::with_capacity(count);
        while found.len() < count {
            let range = found.len()..(found.len() + self.batch).min(count);
            let x = self.x.clone().repeat_dim(0, range.len());
            let edit = edit.clone();
            let apply: Edit = Box::new(move |map| edit(map, range.clone()));
            let score = self.maps()?.edit(vec![(layer.clone(), apply)], || self.subject.score(x, &self.target))?;
            for score in values(score)? {
                found.push(finite(score)?);
            }
        }
        Ok(found)
    }
}

/// Activations that edits of several layers saw.
type Seen<T> = Rc<RefCell<Vec<Option<T>>>>;

/// A leaf whose gradient is that of `map`, and what the network computes on with. A map that nothing else wants the gradient of
/// begins a graph of its own.
fn leaf(map: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    if map.is_autodiff() && map.is_tracked() {
        let zeros = map.zeros_like().detach().require_grad();
        return (zeros.clone(), map + zeros);
    }
    let leaf = map.autodiff().detach().require_grad();
    (leaf.clone(), leaf)
}

pub(crate) fn gradient(x: &Tensor<4>, score: &Tensor<1>, what: &str) -> Result<Tensor<4>> {
    let none = || ExplainError::NoGradient(what.into());
    if !score.is_autodiff() || !score.is_tracked() {
        return Err(none());
    }
    x.grad(&score.backward()).ok_or_else(none)
}
