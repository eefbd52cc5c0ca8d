use std::collections::BTreeMap;

/// Counts each key. Keys of neighboring pixels are mostly equal, so runs are added whole.
pub(crate) fn counts<K: Ord + Copy>(keys: impl Iterator<Item = K>) -> BTreeMap<K, u32> {
    let mut counts = BTreeMap::new();
    let mut run: Option<(K, u32)> = None;
    for key in keys {
        match &mut run {
            Some((last, count)) if *last == key => *count += 1,
            _ => {
                if let Some((last, count)) = run.replace((key, 1)) {
                    *counts.entry(last).or_default() += count;
                }
            }
        }
    }
    if let Some((last, count)) = run {
        *counts.entry(last).or_default() += count;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up() {
        let counted: Vec<_> = counts([3, 3, 1, 3, 1, 1, 1].into_iter()).into_iter().collect();
        assert_eq!(counted, [(1, 4), (3, 3)]);
        assert!(counts(std::iter::empty::<u8>()).is_empty());
    }
}
