use std::fmt;

/// Width and height of an image, a mask or a label map, in pixels.
///
/// It is shown as `640x480`. Sizes of tensors are arrays in Burn's order, `[height, width]`.
///
/// ```
/// use segkiln_core::Size;
///
/// let size = Size { width: 640, height: 480 };
/// assert_eq!((size.pixels(), size.to_string()), (307_200, "640x480".into()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// Width × height.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// From width and height, as the `image` crate's `dimensions` gives them.
impl From<(u32, u32)> for Size {
    fn from((width, height): (u32, u32)) -> Self {
        Self { width, height }
    }
}
