use burn::tensor::Tensor;

use super::Corners;

/// Box coder of R-CNN (Girshick et al., CVPR 2014, <https://arxiv.org/abs/1311.2524>): shift of the center in units of the
/// anchor's sides, and logarithms of the ratios of width and height. As torchvision's `BoxCoder`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxCoder {
    /// Factors of dx, dy, dw and dh in a code.
    pub weights: [f32; 4],
}

impl BoxCoder {
    /// Upper bound of dw and dh, ln(1000 / 16), so that no decoded box becomes infinite.
    const MAX_LOG_SCALE: f64 = 4.135_166_556_742_356;

    /// Code that turns the box `from` into `target`; both need positive areas.
    pub fn encode(&self, target: Corners, from: Corners) -> [f32; 4] {
        let center_form = |[x1, y1, x2, y2]: Corners| {
            let (width, height) = (x2 - x1, y2 - y1);
            [x1 + 0.5 * width, y1 + 0.5 * height, width, height]
        };
        let ([tx, ty, tw, th], [x, y, w, h], [wx, wy, ww, wh]) = (center_form(target), center_form(from), self.weights);
        [wx * (tx - x) / w, wy * (ty - y) / h, ww * (tw / w).ln(), wh * (th / h).ln()]
    }

    /// Applies a code to the box `from`.
    pub fn decode(&self, code: [f32; 4], from: Corners) -> Corners {
        let [x1, y1, x2, y2] = from;
        let (width, height) = (x2 - x1, y2 - y1);
        let (x, y) = (x1 + 0.5 * width, y1 + 0.5 * height);
        let [dx, dy, dw, dh] = [0, 1, 2, 3].map(|index| code[index] / self.weights[index]);
        let [dw, dh] = [dw, dh].map(|value| value.min(Self::MAX_LOG_SCALE as f32));
        let (x, y) = (dx * width + x, dy * height + y);
        let (half_width, half_height) = (0.5 * (dw.exp() * width), 0.5 * (dh.exp() * height));
        [x - half_width, y - half_height, x + half_width, y + half_height]
    }

    /// [`decode`](Self::decode) on the device, with gradients of the codes.
    ///
    /// # Shapes
    /// `codes` and `from`: `[n, 4]` → `[n, 4]`
    pub fn decode_tensor(&self, codes: Tensor<2>, from: Tensor<2>) -> Tensor<2> {
        let [x1, y1, x2, y2] = columns(from);
        let [dx, dy, dw, dh] = columns(codes);
        let [wx, wy, ww, wh] = self.weights.map(f64::from);
        let (width, height) = (x2 - x1.clone(), y2 - y1.clone());
        let x = x1 + width.clone().mul_scalar(0.5) + dx.div_scalar(wx) * width.clone();
        let y = y1 + height.clone().mul_scalar(0.5) + dy.div_scalar(wy) * height.clone();
        let half_width = (dw.div_scalar(ww).clamp_max(Self::MAX_LOG_SCALE).exp() * width).mul_scalar(0.5);
        let half_height = (dh.div_scalar(wh).clamp_max(Self::MAX_LOG_SCALE).exp() * height).mul_scalar(0.5);
        let corners =
            [x.clone() - half_width.clone(), y.clone() - half_height.clone(), x + half_width, y + half_height];
        Tensor::cat(corners.into(), 1)
    }
}

/// Box coder of FCOS (Tian et al., ICCV 2019, <https://arxiv.org/abs/1904.01355>): distances from the anchor's center to the
/// left, top, right and bottom side of a box, in units of the anchor's sides. As torchvision's `BoxLinearCoder` with
/// `normalize_by_size`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BoxLinearCoder;

impl BoxLinearCoder {
    /// Distances `[left, top, right, bottom]` from the center of `from` to the sides of `target`; negative where the
    /// center lies outside. The box `from` needs an area.
    pub fn encode(&self, target: Corners, from: Corners) -> [f32; 4] {
        let [x1, y1, x2, y2] = from;
        let (x, y) = (0.5 * (x1 + x2), 0.5 * (y1 + y2));
        let (width, height) = (x2 - x1, y2 - y1);
        [(x - target[0]) / width, (y - target[1]) / height, (target[2] - x) / width, (target[3] - y) / height]
    }

    /// Applies distances to the box `from`.
    pub fn decode(&self, [left, top, right, bottom]: [f32; 4], from: Corners) -> Corners {
        let [x1, y1, x2, y2] = from;
        let (x, y) = (0.5 * (x1 + x2), 0.5 * (y1 + y2));
        let (width, height) = (x2 - x1, y2 - y1);
        [x - left * width, y - top * height, x + right * width, y + bottom * height]
    }

    /// [`decode`](Self::decode) on the device, with gradients of the distances.
    ///
    /// # Shapes
    /// `codes` and `from`: `[n, 4]` → `[n, 4]`
    pub fn decode_tensor(&self, codes: Tensor<2>, from: Tensor<2>) -> Tensor<2> {
        let [x1, y1, x2, y2] = columns(from);
        let [left, top, right, bottom] = columns(codes);
        let (width, height) = (x2.clone() - x1.clone(), y2.clone() - y1.clone());
        let (x, y) = ((x1 + x2).mul_scalar(0.5), (y1 + y2).mul_scalar(0.5));
        let corners = [
            x.clone() - left * width.clone(),
            y.clone() - top * height.clone(),
            x + right * width,
            y + bottom * height,
        ];
        Tensor::cat(corners.into(), 1)
    }
}

/// Splits coordinates.
///
/// # Shapes
/// `[n, 4]` → four of `[n, 1]`
pub(super) fn columns(boxes: Tensor<2>) -> [Tensor<2>; 4] {
    [0, 1, 2, 3].map(|column| boxes.clone().narrow(1, column, 1))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{super::host, *};

    const TARGET: Corners = [3.0, 4.0, 30.0, 20.0];
    const FROM: Corners = [1.0, 6.0, 22.0, 31.0];

    fn assert_close(actual: &[f32], expected: Corners) {
        assert!(actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{actual:?} and not {expected:?}");
    }

    #[test]
    fn decoding_undoes_encoding() {
        let coder = BoxCoder { weights: [10.0, 10.0, 5.0, 5.0] };
        let [code, distances] = [coder.encode(TARGET, FROM), BoxLinearCoder.encode(TARGET, FROM)];
        assert_close(&coder.decode(code, FROM), TARGET);
        assert_close(&BoxLinearCoder.decode(distances, FROM), TARGET);
        let device = Device::default();
        let [code, distances, from] = [code, distances, FROM].map(|row| host::rows(&[row], &device));
        assert_close(&host::values(coder.decode_tensor(code, from.clone())), TARGET);
        assert_close(&host::values(BoxLinearCoder.decode_tensor(distances, from)), TARGET);
    }

    #[test]
    fn scalings_are_bounded() {
        let coder = BoxCoder { weights: [1.0; 4] };
        let [x1, _, x2, _] = coder.decode([0.0, 0.0, 1e30, f32::INFINITY], [0.0, 0.0, 16.0, 16.0]);
        assert!((x2 - x1 - 1000.0).abs() < 1e-2, "{}", x2 - x1);
    }
}
