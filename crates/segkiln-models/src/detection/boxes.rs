//! Boxes on the host, in 32-bit floats as torchvision has them.

/// A box `[x1, y1, x2, y2]` in pixels of the network's input.
pub type Corners = [f32; 4];

/// Clips a box to an image of `[height, width]` pixels.
pub fn clip_to_image([x1, y1, x2, y2]: Corners, [height, width]: [usize; 2]) -> Corners {
    let [width, height] = [width as f32, height as f32];
    [x1.clamp(0.0, width), y1.clamp(0.0, height), x2.clamp(0.0, width), y2.clamp(0.0, height)]
}

/// Whether both sides have at least `side` pixels; false where a coordinate is not a number.
pub fn is_at_least([x1, y1, x2, y2]: Corners, side: f32) -> bool {
    x2 - x1 >= side && y2 - y1 >= side
}

/// Area in square pixels; negative where the corners are swapped.
pub fn area([x1, y1, x2, y2]: Corners) -> f32 {
    (x2 - x1) * (y2 - y1)
}

/// Intersection over union, from 0 to 1; not a number where neither box has an area.
pub fn iou(a: Corners, b: Corners) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let intersection = width * height;
    intersection / (area(a) + area(b) - intersection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_and_sizes() {
        assert_eq!(clip_to_image([-1.0, 2.0, 50.0, 60.0], [20, 30]), [0.0, 2.0, 30.0, 20.0]);
        assert!(is_at_least([0.0, 0.0, 1.0, 1.0], 1.0));
        assert!(!is_at_least([0.0, 0.0, f32::NAN, 1.0], 0.0));
    }

    #[test]
    fn overlaps_are_shares_of_the_union() {
        assert_eq!(iou([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0]), 1.0 / 3.0);
        assert_eq!(iou([0.0, 0.0, 2.0, 2.0], [5.0, 0.0, 6.0, 2.0]), 0.0);
        assert_eq!(area([1.0, 2.0, 4.0, 4.0]), 6.0);
    }
}
