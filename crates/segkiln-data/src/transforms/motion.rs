use segkiln_core::{BBox, LabelMap, Size};

use super::{
    Target, check_size,
    flip::{flip_columns, flip_rows},
    geometry::Window,
    turn::turn,
    warp::Warp,
};
use crate::{Image, Result, Sample, resize_image, resize_labels};

/// Geometric transform of the plane, applied to image and target alike.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Motion {
    /// Left and right are mirrored.
    FlipColumns,
    /// Top and bottom are mirrored.
    FlipRows,
    /// This many turns of 90 degrees, counterclockwise.
    Turn(usize),
    /// A window is cut out.
    Window(Window),
    /// Resized to a width and a height: images by [`resize_image`], labels by [`resize_labels`].
    Resize(u32, u32),
    /// Each pixel shows a point of the old image.
    Warp(Warp),
}

impl Motion {
    /// Width and height after the motion of what has a width and a height before it.
    pub fn size(&self, Size { width, height }: Size) -> Size {
        match self {
            Self::FlipColumns | Self::FlipRows | Self::Warp(_) => Size { width, height },
            Self::Turn(quarters) if quarters.is_multiple_of(2) => Size { width, height },
            Self::Turn(_) => Size { width: height, height: width },
            Self::Window(window) => window.size(),
            Self::Resize(width, height) => Size { width: *width, height: *height },
        }
    }

    /// The image moved.
    ///
    /// # Errors
    /// If it has or would have no pixels, or too many.
    pub fn image(&self, mut image: Image) -> Result<Image> {
        let channels = image.channels();
        let size @ Size { width, height } = image.size();
        let Size { width: new_width, height: new_height } = self.size(size);
        let values = match self {
            Self::Resize(..) => {
                check_size("Resize", new_width, new_height)?;
                return resize_image(&image, new_width, new_height);
            }
            Self::Turn(quarters) if quarters % 2 == 1 => turn(image.as_slice(), width, height, channels, *quarters),
            Self::FlipColumns | Self::FlipRows | Self::Turn(_) => {
                self.flip(image.as_mut_slice(), width, channels);
                return Ok(image);
            }
            Self::Window(window) => window.cut(image.as_slice(), size, channels, window.border.value()),
            Self::Warp(warp) => warp.bilinear(&image),
        };
        Ok(Image::from_parts(new_width, new_height, channels, values))
    }

    /// The labels moved, with those beyond the edge that the motion's border says.
    ///
    /// # Errors
    /// As [`image`](Self::image).
    pub fn labels(&self, map: LabelMap) -> Result<LabelMap> {
        let border = match self {
            Self::Window(window) => window.border.label(),
            Self::Warp(warp) => warp.border.label(),
            _ => None,
        };
        self.labels_within(map, border)
    }

    /// The labels moved, with `outside` beyond the edge, or mirrored there.
    pub(super) fn labels_within(&self, mut map: LabelMap, outside: Option<u32>) -> Result<LabelMap> {
        let size @ Size { width, height } = map.size();
        check_size("a label map", width, height)?;
        let Size { width: new_width, height: new_height } = self.size(size);
        let labels = match self {
            Self::Resize(..) => {
                check_size("Resize", new_width, new_height)?;
                return resize_labels(&map, new_width, new_height);
            }
            Self::Turn(quarters) if quarters % 2 == 1 => turn(map.as_slice(), width, height, 1, *quarters),
            Self::FlipColumns | Self::FlipRows | Self::Turn(_) => {
                self.flip(map.as_mut_slice(), width, 1);
                return Ok(map);
            }
            Self::Window(window) => window.cut(map.as_slice(), size, 1, outside),
            Self::Warp(warp) => warp.nearest(&map, outside),
        };
        Ok(LabelMap::new(new_width, new_height, labels).expect("one label a pixel"))
    }

    /// Flips in place; to turn by half is to flip both ways.
    fn flip<T>(&self, data: &mut [T], width: u32, channels: usize) {
        let half = matches!(self, Self::Turn(quarters) if quarters % 4 == 2);
        if half || matches!(self, Self::FlipColumns) {
            flip_columns(data, width as usize, channels);
        }
        if half || matches!(self, Self::FlipRows) {
            flip_rows(data, width as usize * channels);
        }
    }

    /// A box of an image of this width and height moved; none if no part of it is left.
    ///
    /// Exact but for rounding in `f64`, and clipped by a window; of a warped box the hull of the pixels whose centers show
    /// a point of it.
    pub fn bbox(&self, bbox: &BBox, Size { width, height }: Size) -> Option<BBox> {
        let [right, bottom] = [f64::from(width), f64::from(height)];
        let point = |[x, y]: [f64; 2]| match self {
            Self::FlipColumns => [right - x, y],
            Self::FlipRows => [x, bottom - y],
            Self::Turn(quarters) => match quarters % 4 {
                0 => [x, y],
                1 => [y, right - x],
                2 => [right - x, bottom - y],
                _ => [bottom - y, x],
            },
            Self::Resize(width, height) => [x * f64::from(*width) / right, y * f64::from(*height) / bottom],
            Self::Window(_) | Self::Warp(_) => [x, y],
        };
        match self {
            Self::Window(window) => window.bbox(bbox),
            Self::Warp(warp) => warp.bbox(bbox),
            _ => {
                let [x1, y1, x2, y2] = bbox.xyxy();
                let ([ax, ay], [bx, by]) = (point([x1, y1]), point([x2, y2]));
                BBox::new(ax.min(bx), ay.min(by), ax.max(bx), ay.max(by)).ok()
            }
        }
    }
}

impl<T: Target> Sample<T> {
    /// Image and target moved together.
    ///
    /// # Errors
    /// If they would have no pixels, or too many.
    pub fn moved(self, motion: &Motion) -> Result<Self> {
        Ok(Self { name: self.name, image: motion.image(self.image)?, target: self.target.moved(motion)? })
    }
}
