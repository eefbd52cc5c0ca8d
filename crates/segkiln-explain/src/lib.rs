//! Why a network says what it says, how easily it is fooled, and how sure it is.
//!
//! - [`Question`]: a network, an image and a [`Target`]; [`methods()`]: ways to answer it, from gradients to class activation maps;
//! - [`faithfulness()`], [`points_at`]: how good an explanation is;
//! - [`Attack`]: small changes of an image that fool the network; [`robustness()`]: figures against the size of the changes;
//! - [`uncertainty`]: how sure the network is, by dropout, mirror images or an ensemble; calibration, conformal sets;
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
mod map;
mod methods;
pub mod picture;
mod question;
pub mod report;
mod robustness;
mod segmentation;
mod subject;
mod target;
pub mod uncertainty;

pub use attack::{Attack, AttackKind, Attacked, AttackedObjects, Goal, Norm, ObjectAttack};
pub use curve::{Curve, CurvePoint};
pub use detection::DetectionSubject;
pub use error::{ExplainError, Result};
pub use faithfulness::{Faithfulness, faithfulness, points_at};
pub use map::Map;
pub use methods::{
    AblationCam, EigenCam, Explanation, GradCam, GradCamPlusPlus, HiResCam, InputXGradient, IntegratedGradients,
    LayerCam, Method, Noise, Occlusion, Rise, Saliency, ScoreCam, SmoothGrad, XGradCam, method, methods,
};
pub use question::Question;
pub use robustness::{robustness, robustness_of_objects};
pub use segmentation::SegmentationSubject;
pub use subject::Subject;
pub use target::{Part, Reduction, Region, Select, Target};
