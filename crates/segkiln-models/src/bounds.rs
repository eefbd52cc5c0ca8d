//! Bounds on products of a config's fields, each of which may be in range by itself: a config from a file must not ask for more
//! memory than any network needs.

use crate::ConfigError;

/// Most parameters of a network, which take 4 GiB.
const MOST_PARAMETERS: u128 = 1 << 30;
/// Most values of a tensor that predictions or training steps make of one image, which take 8 GiB.
const MOST_VALUES: u128 = 1 << 31;

/// Product without overflow.
pub(crate) fn product(factors: &[usize]) -> u128 {
    factors.iter().fold(1, |product: u128, factor| product.saturating_mul(*factor as u128))
}

/// Checks how many parameters `fields` ask for.
///
/// # Errors
/// A sentence that names the fields.
pub(crate) fn parameters(fields: &'static str, count: u128) -> Result<(), ConfigError> {
    if count > MOST_PARAMETERS {
        return Err(ConfigError::new(
            fields,
            format!("ask for {count} parameters, more than {MOST_PARAMETERS}; lower one of them"),
        ));
    }
    Ok(())
}

/// Checks how many values a tensor has whose number is the product of fields, given with their names.
///
/// # Errors
/// A sentence that names the fields.
pub(crate) fn values(factors: &[(&str, usize)]) -> Result<(), ConfigError> {
    let count = factors.iter().fold(1u128, |product, (_, factor)| product.saturating_mul(*factor as u128));
    if count > MOST_VALUES {
        let fields: Vec<String> = factors.iter().map(|(name, value)| format!("{name} ({value})")).collect();
        return Err(ConfigError::new(
            fields.join(", "),
            format!("together ask for {count} values of one image, more than {MOST_VALUES}; lower one of them"),
        ));
    }
    Ok(())
}

/// Locations of the finest map of an image that is resized to these sizes.
pub(crate) fn locations([min_size, max_size]: [usize; 2], stride: usize) -> usize {
    let [short, long] = [min_size.min(max_size), max_size].map(|side| side.div_ceil(stride.max(1)));
    short.saturating_mul(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_do_not_overflow() {
        assert_eq!(product(&[3, 4]), 12);
        assert!(product(&[usize::MAX; 3]) > u128::from(u64::MAX));
        parameters("a", 1 << 30).unwrap();
        assert!(parameters("channels", (1 << 30) + 1).unwrap_err().to_string().contains("channels"));
        values(&[("a", 1 << 16), ("b", 1 << 15)]).unwrap();
        let error = values(&[("a", usize::MAX), ("b", usize::MAX), ("c", usize::MAX)]).unwrap_err().to_string();
        assert!(error.contains("a (") && error.contains("lower one of them"), "{error}");
        assert_eq!(locations([800, 1333], 8), 100 * 167);
    }
}
