//! Order statistics.

/// Quantile of ascending values, interpolated linearly between two of them (NumPy's default). There is at least one value; `share` is in
/// `[0, 1]`.
pub(crate) fn quantile<T: Copy + Into<f64>>(ascending: &[T], share: f64) -> f64 {
    let place = share * (ascending.len() - 1) as f64;
    let [below, above] = [place.floor(), place.ceil()].map(|at| ascending[at as usize].into());
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([1, 2, 4, 8], share)
        for (share, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            assert!((quantile(&[1.0f32, 2.0, 4.0, 8.0], share) - expected).abs() < 1e-12, "{share}");
        }
        assert!((quantile(&[3.0], 0.3) - 3.0).abs() < 1e-12);
    }
}
