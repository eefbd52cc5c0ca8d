//! Kalman filter of a box that moves at a constant velocity.
//!
//! The state and the noise are those of DeepSORT (Wojke et al., ICIP 2017, <https://arxiv.org/abs/1703.07402>) and ByteTrack: center,
//! aspect ratio (width by height) and height, and the velocity of each. All covariances of the model are diagonal but for those of a
//! value with its own velocity, so the filter of eight dimensions is four of two.

use segkiln_core::BBox;

/// Standard deviation of a position, in heights of the box.
const POSITION: f64 = 1.0 / 20.0;
/// Standard deviation of a velocity, in heights of the box a frame.
const VELOCITY: f64 = 1.0 / 160.0;
/// The aspect ratio among the values.
const ASPECT: usize = 2;
const HEIGHT: usize = 3;

/// A value and its velocity, with their covariance.
#[derive(Debug, Clone, Copy)]
struct Axis {
    value: f64,
    velocity: f64,
    /// Variance of the value, covariance, variance of the velocity.
    covariance: [f64; 3],
}

#[derive(Debug, Clone)]
pub(crate) struct Kalman {
    axes: [Axis; 4],
}

/// Center, aspect ratio and height.
fn measure(bbox: &BBox) -> [f64; 4] {
    let [x, y, width, height] = bbox.cxcywh();
    [x, y, width / height, height]
}

impl Kalman {
    pub fn new(bbox: &BBox) -> Self {
        let values = measure(bbox);
        let height = values[HEIGHT];
        let axis = |index: usize| {
            let (position, velocity) =
                if index == ASPECT { (1e-2, 1e-5) } else { (2.0 * POSITION * height, 10.0 * VELOCITY * height) };
            Axis { value: values[index], velocity: 0.0, covariance: [position * position, 0.0, velocity * velocity] }
        };
        Self { axes: [axis(0), axis(1), axis(2), axis(3)] }
    }

    /// Moves on by a frame. A box that was not seen does not go on growing.
    pub fn predict(&mut self, was_seen: bool) {
        if !was_seen {
            self.axes[HEIGHT].velocity = 0.0;
        }
        let height = self.axes[HEIGHT].value;
        for (index, axis) in self.axes.iter_mut().enumerate() {
            let (position, velocity) =
                if index == ASPECT { (1e-2, 1e-5) } else { (POSITION * height, VELOCITY * height) };
            let [value, both, speed] = axis.covariance;
            axis.value += axis.velocity;
            axis.covariance =
                [value + 2.0 * both + speed + position * position, both + speed, speed + velocity * velocity];
        }
    }

    /// Corrects the state by the detected box.
    pub fn update(&mut self, bbox: &BBox) {
        let height = self.axes[HEIGHT].value;
        for (index, (axis, measured)) in self.axes.iter_mut().zip(measure(bbox)).enumerate() {
            let noise = if index == ASPECT { 1e-1 } else { POSITION * height };
            let [value, both, speed] = axis.covariance;
            let total = value + noise * noise;
            let [gain, gain_of_velocity] = [value / total, both / total];
            let difference = measured - axis.value;
            axis.value += gain * difference;
            axis.velocity += gain_of_velocity * difference;
            axis.covariance = [value - gain * value, both - gain * both, speed - gain_of_velocity * both];
        }
    }

    /// The box, unless the motion has brought it to one without an area.
    pub fn bbox(&self) -> Option<BBox> {
        let [x, y, aspect, height] = self.axes.map(|axis| axis.value);
        BBox::from_cxcywh([x, y, aspect * height, height]).ok()
    }
}
