//! Rasterizes polygons, pixel by pixel as pycocotools does (`rleFrPoly` of its `maskApi.c`).
//!
//! Vertices are rounded to a grid of fifths of a pixel, edges are walked on it in steps of one along their longer side, and
//! where a walk crosses the middle of a column of pixels, the pixels below change sides. The steps in between decide
//! nothing, so only the crossings are computed here: an edge costs no more than the image is wide.

/// Largest magnitude of a coordinate.
const MOST: f64 = 1e8;
/// Most crossings of edges with columns of pixels: 256 MiB, a thousand edges over the width of the widest image.
const MOST_CROSSINGS: usize = 1 << 26;

/// Returns the lengths of the runs, alternately outside and inside.
pub(crate) fn fill(width: u32, height: u32, polygon: &[f64]) -> Result<Vec<u32>, &'static str> {
    if !polygon.len().is_multiple_of(2) {
        return Err("it has an odd number of values");
    }
    if polygon.len() < 6 {
        return Err("it has less than three vertices");
    }
    if !polygon.iter().all(|value| value.abs() <= MOST) {
        return Err("it has a coordinate that is not a number within ±1e8");
    }
    // Rounded toward zero, as there.
    let vertices: Vec<[i64; 2]> =
        polygon.chunks_exact(2).map(|vertex| [vertex[0], vertex[1]].map(|value| (5.0 * value + 0.5) as i64)).collect();
    let edges = || vertices.iter().zip(vertices.iter().cycle().skip(1));
    let crossed = edges().map(|(start, end)| {
        let [first, last] = columns(*start, *end, width);
        usize::try_from(last - first + 1).unwrap_or(0)
    });
    if crossed.fold(0usize, usize::saturating_add) > MOST_CROSSINGS {
        return Err("its edges cross more than 67,108,864 columns of pixels");
    }
    let mut changes: Vec<u32> = Vec::new();
    for (start, end) in edges() {
        crossings(*start, *end, width, |column, y| {
            let row = (y + 2).div_euclid(5).clamp(0, height.into()) as u32;
            changes.push(column * height + row);
        });
    }
    changes.sort_unstable();
    let mut counts = Vec::new();
    let (mut done, mut index) = (0, 0);
    while index < changes.len() {
        // Two changes at one pixel cancel.
        let equal = changes[index..].iter().take_while(|change| **change == changes[index]).count();
        if equal % 2 == 1 && changes[index] < width * height {
            counts.push(changes[index] - done);
            done = changes[index];
        }
        index += equal;
    }
    counts.push(width * height - done);
    Ok(counts)
}

/// Returns the first and the last column whose middle, between the grid's 5·column + 2 and the next, lies between the ends of an
/// edge.
fn columns(start: [i64; 2], end: [i64; 2], width: u32) -> [i64; 2] {
    let (left, right) = (start[0].min(end[0]), start[0].max(end[0]));
    let first = (left - 2 + 4).div_euclid(5).max(0);
    let last = (right - 3).div_euclid(5).min(i64::from(width) - 1);
    [first, last]
}

/// Calls `f` with each column of pixels whose middle an edge crosses, and the height at which it does on the grid of fifths.
fn crossings(mut start: [i64; 2], mut end: [i64; 2], width: u32, mut f: impl FnMut(u32, i64)) {
    let (dx, dy) = ((end[0] - start[0]).abs(), (end[1] - start[1]).abs());
    let flat = dx >= dy;
    if if flat { start[0] > end[0] } else { start[1] > end[1] } {
        (start, end) = (end, start);
    }
    let [first, last] = columns(start, end, width);
    // Rounded as there: a product, two sums, and toward zero.
    let walk = |from: i64, slope: f64, step: i64| (from as f64 + slope * step as f64 + 0.5) as i64;
    for column in first..=last {
        let middle = 5 * column + 2;
        let y = if flat {
            let slope = (end[1] - start[1]) as f64 / dx as f64;
            let step = middle - start[0];
            walk(start[1], slope, step).min(walk(start[1], slope, step + 1))
        } else {
            let slope = (end[0] - start[0]) as f64 / dy as f64;
            // The last step that is on the side of the start.
            let rising = end[0] > start[0];
            let (mut low, mut high) = (0, dy);
            while high - low > 1 {
                let step = (low + high) / 2;
                let before = (walk(start[0], slope, step) <= middle) == rising;
                if before { low = step } else { high = step }
            }
            start[1] + low
        };
        f(column as u32, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zigzag_over_a_boundless_image_takes_no_memory() {
        let polygon: Vec<f64> = (0..1000).flat_map(|i| [f64::from(i % 2) * 1e8, f64::from(i)]).collect();
        assert!(fill(100_000_000, 40, &polygon).unwrap_err().contains("columns"));
        // As many edges are nothing on an image of a common width.
        assert_eq!(fill(1000, 1000, &polygon).unwrap().iter().sum::<u32>(), 1_000_000);
    }
}
