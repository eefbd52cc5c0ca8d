use rayon::prelude::*;

use super::super::{AnchorGrid, Corners, area};

/// Assigns an object to each location of the levels, in the order of their anchors; none for background.
///
/// A location learns an object if it lies inside of its box, within `radius` strides of the box's center in x and y, and the
/// farthest side of the box is from 4 to 8 strides away (any distance below on the first level and above on the last). Of
/// several objects it learns the one with the smallest area. The stride of a level is the width of its anchors.
pub fn assign_locations(objects: &[Corners], grids: &[AnchorGrid], radius: f32) -> Vec<Option<usize>> {
    /// Larger than any area in square pixels; in 32 bits it rounds areas to multiples of 8, as torchvision's.
    const LARGE: f32 = 1e8;
    let mut assigned = Vec::new();
    for (level, grid) in grids.iter().enumerate() {
        let (is_first, is_last) = (level == 0, level + 1 == grids.len());
        let locations: Vec<Corners> = grid.iter().collect();
        let assign = |[ax1, ay1, ax2, ay2]: &Corners| {
            let (x, y, stride) = ((ax1 + ax2) / 2.0, (ay1 + ay2) / 2.0, ax2 - ax1);
            let lower = if is_first { 0.0 } else { stride * 4.0 };
            let upper = if is_last { f32::INFINITY } else { stride * 8.0 };
            let mut best: Option<(usize, f32)> = None;
            for (index, object) in objects.iter().enumerate() {
                let [x1, y1, x2, y2] = *object;
                let to_center = (x - (x1 + x2) / 2.0).abs().max((y - (y1 + y2) / 2.0).abs());
                let sides = [x - x1, y - y1, x2 - x, y2 - y];
                let nearest = sides.into_iter().fold(f32::INFINITY, f32::min);
                let farthest = sides.into_iter().fold(f32::NEG_INFINITY, f32::max);
                let fits = to_center < radius * stride && nearest > 0.0 && farthest > lower && farthest < upper;
                let smallness = LARGE - area(*object);
                if fits && smallness >= 1e-5 && best.is_none_or(|(_, most)| smallness > most) {
                    best = Some((index, smallness));
                }
            }
            best.map(|(index, _)| index)
        };
        assigned.par_extend(locations.par_iter().map(assign));
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::{super::super::AnchorConfig, *};

    #[test]
    fn locations_near_the_center_learn_the_smaller_object() {
        let anchors = AnchorConfig::new().with_sizes(vec![vec![8.0], vec![16.0]]).with_ratios(vec![1.0]);
        let grids = [anchors.grid(0, [4, 4], [32, 32]), anchors.grid(1, [2, 2], [32, 32])];
        // Boxes around the location (8, 8), the second inside of the first.
        let objects = [[0.0, 0.0, 20.0, 20.0], [4.0, 4.0, 13.0, 13.0]];
        let assigned = assign_locations(&objects, &grids, 1.5);
        assert_eq!(assigned.len(), 20);
        assert_eq!(assigned[4 + 1], Some(1));
        // (16, 8) is within 12 pixels of the first box's center (10, 10), and outside of the second.
        assert_eq!(assigned[4 + 2], Some(0));
        // (0, 0) lies on the border.
        assert_eq!(assigned[0], None);
        // No side is 64 pixels away, as the second level wants.
        assert!(assigned[16..].iter().all(Option::is_none));
        assert!(assign_locations(&[], &grids, 1.5).iter().all(Option::is_none));
    }
}
