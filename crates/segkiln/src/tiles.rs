//! Where tiles lie and how much each of their pixels counts.

/// Starts of the windows of `tile` pixels that cover `side` pixels, evenly spaced, neighbours sharing at least `overlap` of
/// a window. One window at 0 where the side is no longer than a tile.
pub fn starts(side: usize, tile: usize, overlap: f32) -> Vec<usize> {
    if side <= tile {
        return vec![0];
    }
    let stride = ((tile as f32 * (1.0 - overlap)) as usize).max(1);
    let last = side - tile;
    let steps = last.div_ceil(stride);
    (0..=steps).map(|step| (step * last + steps / 2) / steps).collect()
}

/// A bell over `length` pixels with its standard deviation an eighth of the length, 1 in the middle; never below 1e-3, so
/// that corners count where nothing else covers them.
pub fn bell(length: usize) -> Vec<f32> {
    let (centre, sigma) = ((length as f32 - 1.0) / 2.0, length as f32 / 8.0);
    (0..length).map(|i| (-0.5 * ((i as f32 - centre) / sigma).powi(2)).exp().max(1e-3)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_side_and_overlap() {
        for (side, tile, overlap) in
            [(10, 10, 0.5), (3, 10, 0.5), (11, 10, 0.5), (100, 16, 0.25), (1000, 512, 0.9), (7, 1, 0.0)]
        {
            let starts = starts(side, tile, overlap);
            let tile = tile.min(side);
            assert_eq!(starts[0], 0);
            assert_eq!(starts.last().unwrap() + tile, side);
            for pair in starts.windows(2) {
                assert!(pair[1] > pair[0], "{starts:?}");
                let shared = tile as f32 - (pair[1] - pair[0]) as f32;
                assert!(shared + 1.0 >= tile as f32 * overlap, "{side} {tile} {overlap}: {starts:?}");
            }
        }
    }

    #[test]
    fn the_bell_is_symmetric_and_positive() {
        let bell = bell(64);
        assert!(bell.iter().all(|weight| *weight >= 1e-3));
        assert!((0..32).all(|i| bell[i] == bell[63 - i]));
        assert!(bell[32] > 0.99 && bell[0] < 0.01);
    }
}
