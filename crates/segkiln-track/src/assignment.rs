//! Assignment of rows to columns with the largest sum of gains.

use pathfinding::{kuhn_munkres::kuhn_munkres, matrix::Matrix};

/// Gains are rounded to this many parts of 1: integers add up to the same sum in any order.
const PARTS: f64 = (1u64 << 40) as f64;

/// Gain of a pair: how far `value` exceeds `least`, plus 1e-9 so that equality still counts; 0 below `least`.
pub(crate) fn above(value: f64, least: f64) -> f64 {
    if value >= least { value - least + 1e-9 } else { 0.0 }
}

/// Returns the column of each row, such that the sum of the gains is largest; each column is taken once. Pairs without a positive
/// gain stay apart. Gains are clamped to 10⁶; NaN counts as 0.
///
/// Rows and columns that no chain of gains connects are assigned apart from each other, so that what overlaps little costs little.
pub(crate) fn assign(rows: usize, columns: usize, gain: impl Fn(usize, usize) -> f64) -> Vec<Option<usize>> {
    let pairs = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    assign_pairs(rows, columns, pairs.map(|(row, column)| (row, column, gain(row, column))))
}

/// [`assign`] where all pairs with a gain are known: rows, columns and gains, in the order of rows and then of columns.
pub(crate) fn assign_pairs(
    rows: usize,
    columns: usize,
    pairs: impl Iterator<Item = (usize, usize, f64)>,
) -> Vec<Option<usize>> {
    let mut gains: Vec<Vec<(usize, i128)>> = vec![Vec::new(); rows];
    for (row, column, gain) in pairs {
        let whole = (gain.clamp(0.0, 1e6) * PARTS).round() as i128;
        if whole > 0 {
            gains[row].push((column, whole));
        }
    }
    let mut rows_of: Vec<Vec<usize>> = vec![Vec::new(); columns];
    for (row, gains) in gains.iter().enumerate() {
        gains.iter().for_each(|(column, _)| rows_of[*column].push(row));
    }
    let mut assigned = vec![None; rows];
    let (mut seen, mut is_known) = (vec![false; rows], vec![false; columns]);
    for first in 0..rows {
        if std::mem::replace(&mut seen[first], true) {
            continue;
        }
        let (mut part, mut part_columns, mut next) = (vec![first], Vec::new(), 0);
        while let Some(&row) = part.get(next) {
            next += 1;
            for (column, _) in &gains[row] {
                if !std::mem::replace(&mut is_known[*column], true) {
                    part_columns.push(*column);
                    let new = rows_of[*column].iter().filter(|row| !std::mem::replace(&mut seen[**row], true));
                    part.extend(new);
                }
            }
        }
        part.sort_unstable();
        part_columns.sort_unstable();
        assign_part(&gains, &part, &part_columns, &mut assigned);
    }
    assigned
}

fn assign_part(gains: &[Vec<(usize, i128)>], rows: &[usize], columns: &[usize], assigned: &mut [Option<usize>]) {
    match (rows, columns) {
        (_, []) => return,
        ([row], _) => {
            // The first of the best.
            let best = gains[*row].iter().max_by_key(|(column, gain)| (*gain, std::cmp::Reverse(*column)));
            assigned[*row] = best.map(|(column, _)| *column);
            return;
        }
        _ => {}
    }
    let gain = |row: usize, column: usize| {
        gains[row].binary_search_by_key(&column, |(column, _)| *column).map_or(0, |at| gains[row][at].1)
    };
    // The algorithm wants no more rows than columns.
    let (few, many, is_tall) = if rows.len() <= columns.len() { (rows, columns, false) } else { (columns, rows, true) };
    let weights = Matrix::from_fn(few.len(), many.len(), |(a, b)| match is_tall {
        false => gain(few[a], many[b]),
        true => gain(many[b], few[a]),
    });
    for (a, b) in kuhn_munkres(&weights).1.into_iter().enumerate() {
        let (row, column) = if is_tall { (many[b], few[a]) } else { (few[a], many[b]) };
        if gain(row, column) > 0 {
            assigned[row] = Some(column);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best sum, by trying all.
    fn best(gains: &[Vec<f64>], row: usize, taken: &mut Vec<bool>) -> f64 {
        let Some(of_row) = gains.get(row) else { return 0.0 };
        let mut most = best(gains, row + 1, taken);
        for column in 0..of_row.len() {
            if !taken[column] && of_row[column] > 0.0 {
                taken[column] = true;
                most = most.max(of_row[column] + best(gains, row + 1, taken));
                taken[column] = false;
            }
        }
        most
    }

    #[test]
    fn sums_are_the_largest() {
        // Numbers of a linear congruential generator.
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        for (rows, columns) in [(1, 4), (4, 1), (3, 5), (5, 3), (5, 5), (0, 3), (3, 0)] {
            for _ in 0..50 {
                let gains: Vec<Vec<f64>> = (0..rows).map(|_| (0..columns).map(|_| random() - 0.6).collect()).collect();
                let assigned = assign(rows, columns, |row, column| gains[row][column]);
                let mut taken: Vec<usize> = assigned.iter().flatten().copied().collect();
                taken.sort_unstable();
                assert!(taken.windows(2).all(|pair| pair[0] != pair[1]));
                let pairs = assigned.iter().enumerate().filter_map(|(row, column)| Some(gains[row][(*column)?]));
                assert!(pairs.clone().all(|gain| gain > 0.0));
                let most = best(&gains, 0, &mut vec![false; columns]);
                assert!((pairs.sum::<f64>() - most).abs() < 1e-9);
            }
        }
        assert_eq!(assign(2, 2, |_, _| f64::NAN), [None, None]);
    }
}
