//! Post-training quantization of a predictor: calibration on images, and the layers that stay in higher precision so that the
//! measured loss keeps within a bound.

use std::{path::Path, sync::Arc, time::Instant};

use burn::{module::Module, tensor::Device};
use image::DynamicImage;
use segkiln_core::{Detection, Precision};
use segkiln_models::{
    Calibration, CalibrationError, InferenceSession, NetworkQuantization, PrecisionError, RangeMethod,
    SegmentationNetwork, detection::DetectionNetwork,
};

use crate::{Detector, PredictError, SegmentOptions, Segmenter};

/// Options of [`quantize`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QuantizeOptions {
    /// Choice of the ranges.
    pub method: RangeMethod,
    /// Largest loss: by how much the measure of the quantized network may be below that in f32; without, any loss.
    pub max_loss: Option<f64>,
}

/// Result of [`quantize`].
#[derive(Debug, Clone)]
pub struct Quantized<P> {
    /// Predictor that computes in 8 bits.
    pub predictor: P,
    /// Layers that could compute in 8 bits and are kept in bf16, the one that lost most first.
    pub kept: Vec<String>,
    /// Measure of the network in f32.
    pub before: f64,
    /// Measure of the quantized network.
    pub after: f64,
}

/// Error of [`quantize`] and [`fastest_precision`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError<E: std::error::Error + 'static> {
    /// There is no image to calibrate on.
    #[error("there are no images to calibrate on")]
    NoImages,
    /// The activations have no ranges.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The network cannot be computed in 8 bits.
    #[error(transparent)]
    Precision(#[from] PrecisionError),
    /// An image could not be predicted.
    #[error(transparent)]
    Predict(E),
    /// The bound cannot be held.
    #[error(
        "the measure is {before:.4} in f32 and {after:.4} with every layer in bf16, which is below the bound {max_loss}; \
         allow a larger loss"
    )]
    Bound {
        /// The measure in f32.
        before: f64,
        /// The measure in bf16.
        after: f64,
        /// The bound.
        max_loss: f64,
    },
}

/// A predictor whose network can be quantized: [`Segmenter`], [`Detector`], or one of your own that keeps a
/// [`Computation`] and runs its network in [that session](Computation::session).
pub trait Quantizable: Clone {
    /// Error of a prediction.
    type Error: std::error::Error + 'static;

    /// Network that is quantized.
    type Network: Module;

    /// Returns the network.
    fn network(&self) -> &Self::Network;

    /// Returns the device of the network.
    fn device(&self) -> &Device;

    /// Returns how the network is computed.
    fn computation(&self) -> &Computation;

    /// Replaces how the network is computed.
    #[must_use]
    fn with_computation(self, computation: Computation) -> Self;
}

/// Returns the predictor with its network computed in a session.
fn in_session<P: Quantizable>(predictor: &P, session: Arc<InferenceSession>) -> P {
    let computation = Computation { session, ..predictor.computation().clone() };
    predictor.clone().with_computation(computation)
}

/// Returns the predictor with its network computed in f32.
fn in_f32<P: Quantizable>(predictor: &P) -> Result<P, PrecisionError> {
    Ok(in_session(predictor, InferenceSession::new(Precision::F32, predictor.device())?))
}

/// Returns the predictor with its network computed in 8 bits.
fn in_8_bits<P: Quantizable>(predictor: &P, quantization: &NetworkQuantization) -> Result<P, PrecisionError> {
    let computation = Computation::quantized(predictor.network(), quantization.clone(), predictor.device())?;
    Ok(predictor.clone().with_computation(computation))
}

/// Quantizes the network of a predictor: `predict` is called for all images to calibrate on, and `measure`, of which more is better
/// (Dice, mIoU, AP), to see what is lost. As long as it is more than the bound, layers are kept in bf16: first those by
/// which alone most is lost.
///
/// # Errors
/// [`QuantizeError`].
pub fn quantize<P: Quantizable, I>(
    predictor: &P,
    images: &[I],
    options: QuantizeOptions,
    predict: impl Fn(&P, &I) -> Result<(), P::Error>,
    mut measure: impl FnMut(&P) -> Result<f64, P::Error>,
) -> Result<Quantized<P>, QuantizeError<P::Error>> {
    if images.is_empty() {
        return Err(QuantizeError::NoImages);
    }
    let calibration = Calibration::new(predictor.device())?;
    let watched = in_session(predictor, calibration.session().clone());
    for image in images {
        predict(&watched, image).map_err(QuantizeError::Predict)?;
    }
    let all = calibration.finish(predictor.network(), options.method)?;
    let before = measure(&in_f32(predictor)?).map_err(QuantizeError::Predict)?;
    let mut measured = |quantization: &NetworkQuantization| -> Result<(P, f64), QuantizeError<P::Error>> {
        let quantized = in_8_bits(predictor, quantization)?;
        let value = measure(&quantized).map_err(QuantizeError::Predict)?;
        Ok((quantized, value))
    };
    let (quantized, after) = measured(&all)?;
    let Some(max_loss) = options.max_loss.filter(|most| exceeds(before, after, *most)) else {
        return Ok(Quantized { predictor: quantized, kept: Vec::new(), before, after });
    };
    let mut alone: Vec<(&str, f64)> = Vec::new();
    for (layer, ranges) in &all.layers {
        let layers = [(layer.clone(), *ranges)].into();
        alone.push((layer, measured(&NetworkQuantization { layers })?.1));
    }
    // Least first; NaN, of a measure that is none, before all. Ties are in the order of names.
    alone.sort_by(|one, two| {
        (!one.1.is_nan(), one.1).partial_cmp(&(!two.1.is_nan(), two.1)).unwrap_or(std::cmp::Ordering::Equal)
    });
    let keep = |count: usize| all.without(alone[..count].iter().map(|(layer, _)| *layer));
    // The fewest that hold the bound, if each more helps: twice as many each time, then halves of what is between.
    let (mut few, mut many) = (0, 1);
    let mut found = loop {
        let count = many.min(alone.len());
        let (quantized, after) = measured(&keep(count))?;
        if !exceeds(before, after, max_loss) {
            break (count, quantized, after);
        }
        if count == alone.len() {
            return Err(QuantizeError::Bound { before, after, max_loss });
        }
        (few, many) = (count, 2 * many);
    };
    while found.0 - few > 1 {
        let count = few.midpoint(found.0);
        let (quantized, after) = measured(&keep(count))?;
        if exceeds(before, after, max_loss) {
            few = count;
        } else {
            found = (count, quantized, after);
        }
    }
    let (count, predictor, after) = found;
    let kept = alone[..count].iter().map(|(layer, _)| (*layer).to_owned()).collect();
    Ok(Quantized { predictor, kept, before, after })
}

/// Time and measure of one precision in [`fastest_precision`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionTrial {
    /// Precision that was tried.
    pub precision: Precision,
    /// Median time of an image in seconds.
    pub seconds: f64,
    /// Measure, of which more is better.
    pub measure: f64,
}

/// Returns the predictor in the precision that is fastest on this processor among those whose measure is at most `max_loss` below that of
/// f32, and how each did: f32, bf16, and int8 if the network is quantized. Those that the device cannot compute in are left out.
///
/// # Errors
/// [`QuantizeError::NoImages`] without images, [`QuantizeError::Predict`] if one cannot be predicted.
pub fn fastest_precision<P: Quantizable, I>(
    predictor: &P,
    images: &[I],
    max_loss: f64,
    predict: impl Fn(&P, &I) -> Result<(), P::Error>,
    mut measure: impl FnMut(&P) -> Result<f64, P::Error>,
) -> Result<(P, Vec<PrecisionTrial>), QuantizeError<P::Error>> {
    /// Runs of each image.
    const RUNS: usize = 3;
    if images.is_empty() {
        return Err(QuantizeError::NoImages);
    }
    let (mut trials, mut best) = (Vec::new(), None::<(f64, P)>);
    for precision in Precision::ALL {
        let candidate = match (precision, predictor.computation().quantization()) {
            (Precision::Int8, None) => continue,
            (Precision::Int8, Some(quantization)) => in_8_bits(predictor, quantization),
            _ => InferenceSession::new(precision, predictor.device()).map(|session| in_session(predictor, session)),
        };
        let candidate = match candidate {
            Err(PrecisionError::Device { .. }) => continue,
            other => other?,
        };
        // This is also the run in which weights are packed.
        let measure = measure(&candidate).map_err(QuantizeError::Predict)?;
        let mut times = Vec::new();
        for image in images {
            for _ in 0..RUNS {
                let start = Instant::now();
                predict(&candidate, image).map_err(QuantizeError::Predict)?;
                times.push(start.elapsed().as_secs_f64());
            }
        }
        times.sort_by(f64::total_cmp);
        let trial = PrecisionTrial { precision, seconds: times[times.len() / 2], measure };
        trials.push(trial);
        let fits = precision == Precision::F32 || !exceeds(trials[0].measure, measure, max_loss);
        if fits && best.as_ref().is_none_or(|(seconds, _)| trial.seconds < *seconds) {
            best = Some((trial.seconds, candidate));
        }
    }
    let (_, predictor) = best.expect("every device computes in f32");
    Ok((predictor, trials))
}

impl<M: SegmentationNetwork> Segmenter<M> {
    /// Returns the segmenter in the precision that is fastest on this processor among those that give at least `1 - max_loss` of the images'
    /// pixels the class that they have in f32, and how each did: its measure is that share. See [`fastest_precision`].
    ///
    /// # Errors
    /// As [`fastest_precision`].
    pub fn with_fastest_precision(
        self,
        images: &[DynamicImage],
        options: &SegmentOptions,
        max_loss: f64,
    ) -> Result<(Self, Vec<PrecisionTrial>), QuantizeError<PredictError>> {
        let labels = |segmenter: &Self, image: &DynamicImage| {
            segmenter.segment_with(image, options).map(|result| result.map().as_slice().to_vec())
        };
        let all = |segmenter: &Self| {
            Ok(images.iter().map(|image| labels(segmenter, image)).collect::<Result<Vec<_>, _>>()?.concat())
        };
        let expected: Vec<u32> = all(&in_f32(&self)?).map_err(QuantizeError::Predict)?;
        let agreement = |segmenter: &Self| {
            let same = all(segmenter)?.iter().zip(&expected).filter(|(found, expected)| found == expected).count();
            Ok(same as f64 / expected.len().max(1) as f64)
        };
        fastest_precision(&self, images, max_loss, |segmenter, image| labels(segmenter, image).map(drop), agreement)
    }
}

impl<M: DetectionNetwork> Detector<M> {
    /// Returns the detector in the precision that is fastest on this processor among those that find at least `1 - max_loss` of what is
    /// found in f32, and as few others: detections of one class whose boxes have an IoU of 0.9 are the same. See
    /// [`fastest_precision`].
    ///
    /// # Errors
    /// As [`fastest_precision`].
    pub fn with_fastest_precision(
        self,
        images: &[DynamicImage],
        max_loss: f64,
    ) -> Result<(Self, Vec<PrecisionTrial>), QuantizeError<PredictError>> {
        let all = |detector: &Self| images.iter().map(|image| detector.detect(image)).collect::<Result<Vec<_>, _>>();
        let expected = all(&in_f32(&self)?).map_err(QuantizeError::Predict)?;
        let agreement = |detector: &Self| {
            let (mut same, mut most) = (0, 0);
            for (found, expected) in all(detector)?.iter().zip(&expected) {
                most += found.len().max(expected.len());
                same += matched(found, expected);
            }
            Ok(if most == 0 { 1.0 } else { same as f64 / most as f64 })
        };
        fastest_precision(&self, images, max_loss, |detector, image| detector.detect(image).map(drop), agreement)
    }
}

/// Number of detections that both have, matched best scores first.
fn matched(found: &[Detection], expected: &[Detection]) -> usize {
    const IOU: f64 = 0.9;
    let mut free: Vec<&Detection> = found.iter().collect();
    for expected in expected {
        let same = |found: &&Detection| found.label() == expected.label() && found.bbox.iou(&expected.bbox) >= IOU;
        if let Some(index) = free.iter().position(same) {
            free.remove(index);
        }
    }
    found.len() - free.len()
}

impl<M: SegmentationNetwork> Quantizable for Segmenter<M> {
    type Error = PredictError;
    type Network = M;

    fn network(&self) -> &M {
        self.model()
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn computation(&self) -> &Computation {
        &self.computation
    }

    fn with_computation(mut self, computation: Computation) -> Self {
        self.computation = computation;
        self
    }
}

impl<M: DetectionNetwork> Quantizable for Detector<M> {
    type Error = PredictError;
    type Network = M;

    fn network(&self) -> &M {
        self.model()
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn computation(&self) -> &Computation {
        &self.computation
    }

    fn with_computation(mut self, computation: Computation) -> Self {
        self.computation = computation;
        self
    }
}

/// Precision in which a predictor computes its network, with the layers packed for it.
#[derive(Debug, Clone)]
pub struct Computation {
    session: Arc<InferenceSession>,
    quantization: Option<NetworkQuantization>,
}

impl Computation {
    /// Computes in f32.
    ///
    /// # Errors
    /// As [`InferenceSession::new`].
    pub fn new(device: &Device) -> Result<Self, PrecisionError> {
        Ok(Self { session: InferenceSession::new(Precision::F32, device)?, quantization: None })
    }

    /// Returns the session to [run](InferenceSession::run) the network in.
    pub fn session(&self) -> &Arc<InferenceSession> {
        &self.session
    }

    /// Returns the layers that compute in 8 bits, of a quantized network.
    pub fn quantization(&self) -> Option<&NetworkQuantization> {
        self.quantization.as_ref()
    }

    /// Changes the precision; int8 is for quantized networks.
    ///
    /// # Errors
    /// As [`InferenceSession::new`].
    pub fn with_precision<M: Module>(
        self,
        network: &M,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, PrecisionError> {
        let session = match (&self.quantization, precision) {
            (Some(quantization), Precision::Int8) => InferenceSession::quantized(network, quantization, device)?,
            _ => InferenceSession::new(precision, device)?,
        };
        Ok(Self { session, ..self })
    }

    /// Computes the layers of `quantization` in 8 bits.
    ///
    /// # Errors
    /// As [`InferenceSession::quantized`].
    pub fn quantized<M: Module>(
        network: &M,
        quantization: NetworkQuantization,
        device: &Device,
    ) -> Result<Self, PrecisionError> {
        let session = InferenceSession::quantized(network, &quantization, device)?;
        Ok(Self { session, quantization: Some(quantization) })
    }

    /// Computes a run, whose weights are in `file`, as it was saved: in 8 bits if it was quantized and the device can.
    pub(crate) fn of_run<M: Module>(
        network: &M,
        quantization: Option<NetworkQuantization>,
        file: &Path,
        device: &Device,
    ) -> Result<Self, PrecisionError> {
        let Some(quantization) = quantization else { return Self::new(device) };
        match Self::quantized(network, quantization.clone(), device) {
            Err(error @ PrecisionError::Device { .. }) => {
                log::warn!("{}: {error}, as is done now", file.display());
                Ok(Self { quantization: Some(quantization), ..Self::new(device)? })
            }
            result => result,
        }
    }
}

/// Whether more than the bound is lost; a measure that is no number is.
fn exceeds(before: f64, after: f64, max_loss: f64) -> bool {
    let lost = before - after;
    lost.is_nan() || lost > max_loss
}

/// Methods of a predictor that choose how its network is computed.
macro_rules! choose_precision {
    () => {
        /// Computes the network's convolutions in another precision from now on; predictors begin with f32.
        ///
        /// int8 needs a network that was [quantized](crate::quantize).
        ///
        /// bf16 is for the CPU backend: with dot products of bf16 (AVX512-BF16) U-Nets take about half of the time, and on
        /// processors without them it is the same as f32. The book's chapter on precision says how large the error is.
        ///
        /// # Errors
        /// [`PredictError::Precision`](crate::PredictError::Precision) if the device cannot compute in it.
        pub fn with_precision(mut self, precision: segkiln_core::Precision) -> Result<Self, crate::PredictError> {
            self.computation = self.computation.with_precision(&self.model, precision, &self.device)?;
            Ok(self)
        }

        /// Computes the network in 8 bits from now on, with the ranges of a [`Calibration`](segkiln_models::Calibration); a network that was
        /// [loaded](Self::load_network) with them begins so.
        ///
        /// # Errors
        /// [`PredictError::Precision`](crate::PredictError::Precision) if the device cannot, or the ranges are those of another network.
        pub fn with_quantization(
            mut self,
            quantization: segkiln_models::NetworkQuantization,
        ) -> Result<Self, crate::PredictError> {
            self.computation = crate::quantize::Computation::quantized(&self.model, quantization, &self.device)?;
            Ok(self)
        }

        /// The layers that can compute in 8 bits, of a quantized network.
        pub fn quantization(&self) -> Option<&segkiln_models::NetworkQuantization> {
            self.computation.quantization()
        }

        /// The precision that the network is computed in.
        pub fn precision(&self) -> segkiln_core::Precision {
            self.computation.session().precision()
        }
    };
}

pub(crate) use choose_precision;
