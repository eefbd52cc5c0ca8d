//! Methods, one file each. A new one is a file beside the others and a line in the list below.

mod cam;
mod gradient;
mod integrated;
mod occlusion;
mod perturbed_cam;
mod rise;
mod smoothgrad;

pub use cam::{EigenCam, GradCam, GradCamPlusPlus, HiResCam, LayerCam, XGradCam};
pub use gradient::{InputXGradient, Saliency};
pub use integrated::IntegratedGradients;
pub use occlusion::Occlusion;
pub use perturbed_cam::{AblationCam, ScoreCam};
pub use rise::Rise;
pub(crate) use smoothgrad::normal;
pub use smoothgrad::{Noise, SmoothGrad};

use crate::{Map, Question, Result};

/// A way to explain.
pub trait Method {
    /// Name of the method, as programs call it.
    fn name(&self) -> &'static str;

    /// Meaning of its picture, in a sentence or two for someone who does not know it.
    fn meaning(&self) -> &'static str;

    /// Explains the target's value.
    ///
    /// # Errors
    /// If the network cannot be asked in this way, or an option of the method is out of range.
    fn explain(&self, question: &Question<'_>) -> Result<Explanation>;
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// Weight of each pixel in the target's value.
    pub map: Map,
    /// Figures about the explanation, by their names.
    pub figures: Vec<(&'static str, f64)>,
}

impl From<Map> for Explanation {
    fn from(map: Map) -> Self {
        Self { map, figures: Vec::new() }
    }
}

macro_rules! methods {
    ($($method:ident),* $(,)?) => {
        /// Every method with its default options.
        pub fn methods() -> Vec<Box<dyn Method>> {
            vec![$(Box::new($method::default())),*]
        }
    };
}

methods![
    Saliency,
    InputXGradient,
    SmoothGrad,
    IntegratedGradients,
    Occlusion,
    Rise,
    GradCam,
    GradCamPlusPlus,
    HiResCam,
    XGradCam,
    LayerCam,
    EigenCam,
    ScoreCam,
    AblationCam,
];

/// The method of a name, with its default options.
pub fn method(name: &str) -> Option<Box<dyn Method>> {
    methods().into_iter().find(|method| method.name() == name)
}
