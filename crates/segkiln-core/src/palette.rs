use serde::{Deserialize, Serialize};

/// Red, green, blue, 0 to 255.
pub type Rgb = [u8; 3];

/// Colors of class indices: index `i` is drawn in the `i`-th color.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Palette(Vec<Rgb>);

impl Palette {
    /// Creates a palette of these colors, index 0 first.
    pub fn new(colors: Vec<Rgb>) -> Self {
        Self(colors)
    }

    /// The first `count` colors of the Pascal VOC color map: the bits of the index, spread over the channels from the
    /// most significant bit down (`VOCdevkit/VOCcode/VOClabelcolormap.m`). At most 256 colors are distinct.
    ///
    /// ```
    /// assert_eq!(segkiln_core::Palette::voc(3).colors(), [[0, 0, 0], [128, 0, 0], [0, 128, 0]]);
    /// ```
    pub fn voc(count: usize) -> Self {
        Self(
            (0..count)
                .map(|index| {
                    let mut rgb = [0u8; 3];
                    for bit in 0..8 {
                        for (channel, value) in rgb.iter_mut().enumerate() {
                            *value |= (((index >> (3 * bit + channel)) & 1) as u8) << (7 - bit);
                        }
                    }
                    rgb
                })
                .collect(),
        )
    }

    /// The colors, index 0 first.
    pub fn colors(&self) -> &[Rgb] {
        &self.0
    }

    /// Color of `index`; indices past the end start again at color 1, so that no class looks like the background.
    /// An empty palette gives black.
    pub fn color(&self, index: usize) -> Rgb {
        match self.0.len() {
            0 => [0; 3],
            1 => self.0[0],
            n if index < n => self.0[index],
            n => self.0[1 + (index - 1) % (n - 1)],
        }
    }

    /// Index of an exact color.
    pub fn index(&self, color: Rgb) -> Option<usize> {
        self.0.iter().position(|c| *c == color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voc_colors_match_the_devkit() {
        let voc = Palette::voc(256);
        // aeroplane, person, tv monitor and the void border of the devkit's table
        assert_eq!(voc.color(1), [128, 0, 0]);
        assert_eq!(voc.color(15), [192, 128, 128]);
        assert_eq!(voc.color(20), [0, 64, 128]);
        assert_eq!(voc.color(255), [224, 224, 192]);
        assert_eq!(voc.index([192, 128, 128]), Some(15));
        assert_eq!(voc.index([1, 2, 3]), None);
    }

    #[test]
    fn indices_past_the_end_never_look_like_background() {
        let palette = Palette::new(vec![[0; 3], [1; 3], [2; 3]]);
        assert_eq!(palette.color(3), [1; 3]);
        assert_eq!(palette.color(4), [2; 3]);
        assert_eq!(Palette::new(vec![]).color(9), [0; 3]);
    }
}
