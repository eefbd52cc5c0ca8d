use crate::{DataError, Filter, Image, Result, resize::resize_levels};

/// Preprocessing of torchvision's published networks without the normalization: the shorter side is resized to a length, then a
/// square is cropped from the center. torchvision calls it `ImageClassification` and `SemanticSegmentation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Length that the shorter side is resized to, in pixels; None leaves the image as it is.
    pub resize: Option<u32>,
    /// Side of the square, in pixels; None takes the image whole.
    pub crop: Option<u32>,
    /// Filter of the resizing.
    pub filter: Filter,
}

impl Preset {
    /// The image that the network sees, still to be normalized. It has gray levels of 8 bits, in `[0, 1]`, as PIL
    /// makes them of such.
    ///
    /// # Errors
    /// [`DataError::Option`] if the resized image would have over 2²⁴ pixels, or is smaller than the square.
    pub fn apply(&self, image: &Image) -> Result<Image> {
        const MOST: u64 = 1 << 24;
        let refused = |reason| Err(DataError::Option { option: "resize", reason });
        let shorter = image.width().min(image.height());
        let resize = self.resize.unwrap_or(shorter);
        let side = |side: u32| u64::from(side) * u64::from(resize) / u64::from(shorter.max(1));
        let [width, height] = [side(image.width()), side(image.height())];
        if width.saturating_mul(height) > MOST {
            return refused(format!("the image would have {width}x{height} pixels, over {MOST}"));
        }
        if let Some(crop) = self.crop.filter(|crop| u64::from(*crop) > width.min(height)) {
            return refused(format!("a square of {crop} does not lie in {width}x{height} pixels"));
        }
        let resized = match shorter == resize {
            true => image.clone(),
            false => resize_levels(image, width as u32, height as u32, self.filter)?,
        };
        Ok(match self.crop {
            Some(crop) => {
                // Half a pixel goes to the even one, as Python rounds.
                let start = |side: u64| ((side as f64 - f64::from(crop)) / 2.0).round_ties_even() as u32;
                resized.crop(start(width), start(height), crop, crop)
            }
            None => resized,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from `tests/parity/data_resize.py`.
    #[test]
    fn images_are_torchvision_s() {
        let values = (0..9 * 14u32).map(|i| (i % 9, i / 9)).map(|(x, y)| (3 * x * x + 7 * y + x * y) % 17 * 15);
        let image = Image::new(9, 14, 1, values.map(|value| value as f32 / 255.0).collect()).unwrap();
        let cases: [(Filter, u32, u32, &[u8]); 6] = [
            (Filter::Bilinear, 9, 4, &[90, 135, 15, 240, 225, 30, 180, 165, 105, 180, 90, 90, 240, 75, 0, 15]),
            (Filter::Bicubic, 9, 4, &[90, 135, 15, 240, 225, 30, 180, 165, 105, 180, 90, 90, 240, 75, 0, 15]),
            (
                Filter::Bilinear,
                6,
                5,
                &[
                    104, 124, 153, 125, 133, 74, 122, 116, 135, 140, 129, 125, 120, 136, 170, 150, 180, 111, 72, 92,
                    124, 106, 135, 127, 83,
                ],
            ),
            (
                Filter::Bicubic,
                6,
                5,
                &[
                    101, 122, 164, 123, 129, 64, 128, 113, 134, 140, 128, 122, 116, 138, 181, 154, 196, 109, 61, 89,
                    122, 102, 138, 129, 73,
                ],
            ),
            (Filter::Bilinear, 12, 3, &[67, 124, 165, 158, 124, 99, 121, 60, 34]),
            (Filter::Bicubic, 12, 3, &[47, 125, 180, 171, 129, 91, 113, 37, 6]),
        ];
        for (filter, resize, crop, expected) in cases {
            let seen = Preset { resize: Some(resize), crop: Some(crop), filter }.apply(&image).unwrap();
            assert_eq!((seen.width(), seen.height()), (crop, crop));
            let levels: Vec<u8> = seen.as_slice().iter().map(|value| (value * 255.0).round() as u8).collect();
            assert_eq!(levels, expected, "{filter:?} {resize} {crop}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let image = Image::new(3000, 1, 1, vec![0.0; 3000]).unwrap();
        let preset = Preset { resize: Some(520), crop: None, filter: Filter::Bilinear };
        assert!(preset.apply(&image).unwrap_err().to_string().contains("1560000x520 pixels"));
        assert!(
            Preset { crop: Some(5), resize: Some(4), ..preset }
                .apply(&image)
                .unwrap_err()
                .to_string()
                .contains("square")
        );
        assert!(Preset { resize: Some(0), ..preset }.apply(&image).is_err());
        assert_eq!(Preset { resize: None, ..preset }.apply(&image).unwrap(), image);
    }
}
