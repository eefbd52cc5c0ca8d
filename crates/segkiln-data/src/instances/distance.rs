//! Exact Euclidean distance transform.

/// Squared distance of each pixel of a mask to the nearest pixel outside of it, in pixels; row-major, 0 outside of the mask, and
/// [`u64::MAX`] everywhere if the whole mask is inside. Beyond the borders of the picture is nothing, as for SciPy's
/// `distance_transform_edt`.
///
/// Along columns, then lower envelopes of parabolas along rows (Meijster, Roerdink and Hesselink, 2000): linear time, exact.
///
/// # Panics
/// If the mask does not have whole rows of `width` pixels.
///
/// ```
/// use segkiln_data::instances::distance_squared;
///
/// // . # # #
/// // . # # #
/// assert_eq!(distance_squared(&[false, true, true, true, false, true, true, true], 4), [0, 1, 4, 9, 0, 1, 4, 9]);
/// ```
pub fn distance_squared(mask: &[bool], width: usize) -> Vec<u64> {
    assert!(width > 0 && mask.len().is_multiple_of(width), "a mask has whole rows");
    let height = mask.len() / width;
    // More than any distance.
    let far = (width + height) as i64;
    let mut columns = vec![far; mask.len()];
    for pixel in 0..mask.len() {
        let above = if pixel >= width { columns[pixel - width] } else { far };
        columns[pixel] = if mask[pixel] { far.min(above + 1) } else { 0 };
    }
    for pixel in (0..mask.len().saturating_sub(width)).rev() {
        columns[pixel] = columns[pixel].min(columns[pixel + width] + 1);
    }
    let mut distances = Vec::with_capacity(mask.len());
    // Columns whose parabolas are the lowest, and where each begins to be.
    let mut envelope: Vec<(i64, i64)> = Vec::with_capacity(width);
    for row in columns.chunks_exact(width) {
        envelope.clear();
        let at = |x: i64, column: i64| (x - column).pow(2) + row[column as usize].pow(2);
        for column in 0..width as i64 {
            while envelope.last().is_some_and(|(other, from)| at(*from, *other) > at(*from, column)) {
                envelope.pop();
            }
            let from = envelope.last().map_or(0, |(other, _)| {
                let [own, its] = [column, *other].map(|column| column.pow(2) + row[column as usize].pow(2));
                1 + (own - its).div_euclid(2 * (column - other))
            });
            if from < width as i64 {
                envelope.push((column, from));
            }
        }
        let mut lowest = envelope.iter().peekable();
        let mut column = 0;
        for x in 0..width as i64 {
            while let Some((next, _)) = lowest.next_if(|(_, from)| *from <= x) {
                column = *next;
            }
            let distance = at(x, column);
            distances.push(if distance >= far.pow(2) { u64::MAX } else { distance as u64 });
        }
    }
    distances
}
