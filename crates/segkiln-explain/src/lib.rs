//! Explanations, adversarial robustness and uncertainty of segmentation networks and detectors.
//!
//! - [`Question`]: a network, an image and an [`ExplanationTarget`]; [`methods()`]: ways to answer it, from gradients to class activation maps;
//! - [`faithfulness()`], [`points_at`], [`randomized_weights`]: measures of an explanation;
//! - [`feature_maps`], [`attention_of`], [`ActivationMaximization`]: looks into the network;
//! - [`Attack`], [`SmallestChange`], [`Patch`]: changes of an image that fool the network; [`robustness()`]: figures against the size of
//!   the changes; [`wrong_regions`]: errors, and how small a change mends them;
//! - `AdversarialTraining`, `AdversarialDetectionTraining` (feature `train`): training on attacked images;
//! - [`uncertainty`]: uncertainty by dropout, mirror images or an ensemble; calibration, conformal sets;
//! - [`report`]: all of it on one page.
//!
//! Explanations take a [`Subject`]; [`SegmentationSubject`] makes one of any
//! [`SegmentationNetwork`](segkiln_models::SegmentationNetwork), [`DetectionSubject`] of any
//! [`DetectionNetwork`](segkiln_models::detection::DetectionNetwork), also of your own.

mod attack;
mod curve;
mod detection;
mod error;
mod faithfulness;
mod look;
mod map;
mod methods;
pub mod picture;
mod question;
pub mod report;
mod robustness;
mod sanity;
mod segmentation;
mod subject;
mod target;
#[cfg(feature = "train")]
mod training;
pub mod uncertainty;
mod wrong_regions;

pub use attack::{
    Attack, AttackKind, Attacked, AttackedObjects, Goal, ObjectAttack, Patch, PerturbationNorm, SmallestChange,
    with_patch,
};
pub use curve::{Curve, CurvePoint};
pub use detection::DetectionSubject;
pub use error::{ExplainError, Result};
pub use faithfulness::{Faithfulness, faithfulness, points_at};
pub use look::{ActivationMaximization, FeatureMap, attention_of, feature_maps, rollout};
pub use map::Map;
pub use methods::{
    AblationCam, EigenCam, Explanation, GradCam, GradCamPlusPlus, HiResCam, InputXGradient, IntegratedGradients,
    LayerCam, Method, Noise, Occlusion, Rise, Saliency, ScoreCam, SmoothGrad, XGradCam, method, methods,
};
pub use question::Question;
pub use robustness::{robustness, robustness_of_objects};
pub use sanity::{RandomizedWeights, randomized_weights};
pub use segmentation::SegmentationSubject;
pub use subject::Subject;
pub use target::{ExplanationTarget, ObjectPart, PixelReduction, Pixels, Select};
#[cfg(feature = "train")]
pub use training::{AdversarialDetectionTraining, AdversarialTraining};
pub use wrong_regions::{Mended, WrongRegion, wrong_regions};
