use super::Corners;

/// Boxes as shifts and scalings of other boxes: the form in which networks learn them (R-CNN, Girshick et al., CVPR 2014).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxCoder {
    /// What shifts in x, y and logarithms of width and height are multiplied by.
    pub weights: [f32; 4],
}

impl BoxCoder {
    /// Logarithms of scalings are bounded: ln(1000 / 16), so that no box becomes infinite.
    const MOST: f64 = 4.135_166_556_742_356;

    /// What makes `target` of `from`; both need areas.
    pub fn encode(&self, target: Corners, from: Corners) -> [f32; 4] {
        let form = |[x1, y1, x2, y2]: Corners| {
            let (width, height) = (x2 - x1, y2 - y1);
            [x1 + 0.5 * width, y1 + 0.5 * height, width, height]
        };
        let ([tx, ty, tw, th], [x, y, w, h], [wx, wy, ww, wh]) = (form(target), form(from), self.weights);
        [wx * (tx - x) / w, wy * (ty - y) / h, ww * (tw / w).ln(), wh * (th / h).ln()]
    }

    /// The box that `code` makes of `from`.
    pub fn decode(&self, code: [f32; 4], from: Corners) -> Corners {
        let [x1, y1, x2, y2] = from;
        let (width, height) = (x2 - x1, y2 - y1);
        let (x, y) = (x1 + 0.5 * width, y1 + 0.5 * height);
        let [dx, dy, dw, dh] = [0, 1, 2, 3].map(|index| code[index] / self.weights[index]);
        let [dw, dh] = [dw, dh].map(|value| value.min(Self::MOST as f32));
        let (x, y) = (dx * width + x, dy * height + y);
        let (half_width, half_height) = (0.5 * (dw.exp() * width), 0.5 * (dh.exp() * height));
        [x - half_width, y - half_height, x + half_width, y + half_height]
    }
}

/// The part of a box within an image of `[height, width]`.
pub(super) fn clipped([x1, y1, x2, y2]: Corners, [height, width]: [usize; 2]) -> Corners {
    let [width, height] = [width as f32, height as f32];
    [x1.clamp(0.0, width), y1.clamp(0.0, height), x2.clamp(0.0, width), y2.clamp(0.0, height)]
}

/// Whether both sides have at least a size; what is not a number has not.
pub(super) fn has_size([x1, y1, x2, y2]: Corners, least: f32) -> bool {
    x2 - x1 >= least && y2 - y1 >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_undoes_encoding() {
        let coder = BoxCoder { weights: [10.0, 10.0, 5.0, 5.0] };
        let (target, from) = ([3.0, 4.0, 30.0, 20.0], [1.0, 6.0, 22.0, 31.0]);
        let decoded = coder.decode(coder.encode(target, from), from);
        assert!(decoded.iter().zip(target).all(|(a, b)| (a - b).abs() < 1e-5), "{decoded:?}");
    }

    #[test]
    fn scalings_are_bounded() {
        let coder = BoxCoder { weights: [1.0; 4] };
        let [x1, _, x2, _] = coder.decode([0.0, 0.0, 1e30, f32::INFINITY], [0.0, 0.0, 16.0, 16.0]);
        assert!((x2 - x1 - 1000.0).abs() < 1e-2, "{}", x2 - x1);
    }

    #[test]
    fn clipping_and_sizes() {
        assert_eq!(clipped([-1.0, 2.0, 50.0, 60.0], [20, 30]), [0.0, 2.0, 30.0, 20.0]);
        assert!(has_size([0.0, 0.0, 1.0, 1.0], 1.0));
        assert!(!has_size([0.0, 0.0, f32::NAN, 1.0], 0.0));
    }
}
