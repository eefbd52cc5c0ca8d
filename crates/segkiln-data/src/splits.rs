//! Which samples are for training and which for validation: lists, random parts, folds.

use std::{collections::HashMap, path::Path};

use burn::data::dataset::Dataset;

use crate::{
    DataError, Result, Sample,
    rng::{Purpose, TransformRng},
    text::{read_bytes, without_mark},
};

/// Largest list of stems.
const MOST_BYTES: u64 = 256 << 20;

/// Whether a path from a file stays in the folder that it is relative to, whatever system it was written on.
pub(crate) fn is_inside(path: &str) -> bool {
    let drive = path.get(1..2) == Some(":");
    !drive && !path.starts_with(['/', '\\']) && !path.split(['/', '\\']).any(|part| part == "..")
}

/// Reads a list of stems, one a line. Space around them and blank lines are left out.
///
/// # Errors
/// If the file cannot be read, is neither UTF-8 nor UTF-16 with a byte-order mark, names a stem twice, names none, or names
/// one that leads out of its folder.
pub fn read_list(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let bytes = read_bytes(path, MOST_BYTES)?;
    let text = without_mark(&bytes).and_then(|bytes| String::from_utf8(bytes.into_owned()).ok());
    let text = text.ok_or_else(|| {
        let reason = "the list is neither UTF-8 nor UTF-16 with a byte-order mark; save it as UTF-8".into();
        DataError::List { path: path.into(), line: 1, reason }
    })?;
    let mut stems = Vec::new();
    let mut lines = HashMap::new();
    for (line, stem) in (1..).zip(text.lines().map(str::trim)) {
        if stem.is_empty() {
            continue;
        }
        if !is_inside(stem) {
            let reason = format!("{stem:?} leads out of the folder; list names of files in it");
            return Err(DataError::List { path: path.into(), line, reason });
        }
        if let Some(first) = lines.insert(stem, line) {
            let reason = format!("{stem:?} is already in line {first}; list each sample once");
            return Err(DataError::List { path: path.into(), line, reason });
        }
        stems.push(stem.to_owned());
    }
    if stems.is_empty() {
        return Err(DataError::Empty { what: format!("the list {}", path.display()) });
    }
    Ok(stems)
}

/// Splits `0..count` at random into parts of the given fractions; each part is sorted.
///
/// ```
/// let parts = segkiln_data::splits::random_split(10, &[0.8, 0.2], 42)?;
/// assert_eq!((parts[0].len(), parts[1].len()), (8, 2));
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
///
/// # Errors
/// If a fraction is not positive, they do not sum to 1, or a part would be empty.
pub fn random_split(count: usize, fractions: &[f64], seed: u64) -> Result<Vec<Vec<usize>>> {
    let sum: f64 = fractions.iter().sum();
    if fractions.iter().any(|fraction| fraction.is_nan() || *fraction <= 0.0) || (sum - 1.0).abs() > 1e-6 {
        let reason = format!("must be positive and sum to 1, got {fractions:?}");
        return Err(DataError::option("fractions", reason));
    }
    let mut indices: Vec<usize> = (0..count).collect();
    TransformRng::for_purpose(Purpose::Split, seed, 0, 0).shuffle(&mut indices);
    let mut parts = Vec::with_capacity(fractions.len());
    let (mut start, mut upto) = (0, 0.0);
    for fraction in fractions {
        upto += fraction;
        // Rounded where the parts meet, so that they cover all.
        let end = ((upto / sum * count as f64).round() as usize).min(count);
        if start == end {
            let what = format!("the part of {fraction} of {count} samples");
            return Err(DataError::Empty { what });
        }
        let mut part = indices[start..end].to_vec();
        part.sort_unstable();
        parts.push(part);
        start = end;
    }
    Ok(parts)
}

/// One round of cross-validation: indices to train on and indices to validate on, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// All but `val`.
    pub train: Vec<usize>,
    /// Each index is in the `val` of exactly one fold.
    pub val: Vec<usize>,
}

/// `k` folds whose validation parts differ by at most one in size and are alike in foreground.
///
/// The samples are sorted by their foreground (see [`foreground_fractions`]); of each `k` that follow on each other, every
/// fold gets one at random.
///
/// ```
/// let folds = segkiln_data::splits::k_fold(&[0.0, 0.9, 0.1, 0.8], 2, 42)?;
/// for fold in &folds {
///     // one sample with little foreground and one with much
///     assert_eq!(fold.val.iter().filter(|i| [0, 2].contains(*i)).count(), 1);
/// }
/// # Ok::<(), segkiln_data::DataError>(())
/// ```
///
/// # Errors
/// If `k` is less than 2 or more than there are samples, or a fraction is not finite.
pub fn k_fold(foreground: &[f64], k: usize, seed: u64) -> Result<Vec<Fold>> {
    let count = foreground.len();
    if k < 2 || k > count {
        let reason = format!("must be at least 2 and at most the number of samples, {count}; got {k}");
        return Err(DataError::option("k", reason));
    }
    if let Some(at) = foreground.iter().position(|fraction| !fraction.is_finite()) {
        let reason = format!("must be finite, that of sample {at} is {}", foreground[at]);
        return Err(DataError::option("foreground", reason));
    }
    let mut rng = TransformRng::for_purpose(Purpose::Split, seed, 1, k as u64);
    let mut order: Vec<usize> = (0..count).collect();
    // First shuffled, so that samples of equal foreground are in no order of their names.
    rng.shuffle(&mut order);
    order.sort_by(|a, b| foreground[*a].total_cmp(&foreground[*b]));
    let mut fold_of = vec![0; count];
    for group in order.chunks(k) {
        let mut folds: Vec<usize> = (0..k).collect();
        rng.shuffle(&mut folds);
        for (sample, fold) in group.iter().zip(folds) {
            fold_of[*sample] = fold;
        }
    }
    let fold = |fold: usize| {
        let (val, train) = (0..count).partition(|sample| fold_of[*sample] == fold);
        Fold { train, val }
    };
    Ok((0..k).map(fold).collect())
}

/// The share of each sample's pixels that is foreground: neither label 0 nor the ignored one.
///
/// # Errors
/// If a sample cannot be read.
pub fn foreground_fractions(dataset: &dyn Dataset<Sample>, ignore_index: Option<u32>) -> Result<Vec<f64>> {
    (0..dataset.len())
        .map(|index| {
            let mask = dataset.get(index)?.target;
            let labels = mask.as_slice();
            let foreground = labels.iter().filter(|label| **label != 0 && Some(**label) != ignore_index).count();
            Ok(foreground as f64 / labels.len().max(1) as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{datasets::InMemoryDataset, transforms::testing::ramp};

    fn list(content: &[u8]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.txt");
        std::fs::write(&path, content).unwrap();
        read_list(&path)
    }

    #[test]
    fn lists_are_trimmed() {
        assert_eq!(list("\u{feff}a\r\n\n  b c \nd".as_bytes()).unwrap(), ["a", "b c", "d"]);
    }

    #[test]
    fn lists_in_utf_16_are_read() {
        let wide: Vec<u8> = "\u{feff}ä\r\nb\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(list(&wide).unwrap(), ["ä", "b"]);
    }

    #[test]
    fn lists_do_not_lead_out_of_their_folder() {
        for stem in ["../a", "a/../../b", "/etc/a", "C:\\a", "..", "a\\..\\b"] {
            let error = list(format!("good\n{stem}\n").as_bytes()).unwrap_err().to_string();
            assert!(error.contains("train.txt, line 2") && error.contains("leads out"), "{error}");
        }
        assert_eq!(list(b"a..b\n..c\n").unwrap(), ["a..b", "..c"]);
    }

    #[test]
    fn bad_lists_are_errors_that_name_them() {
        let message = |content: &[u8]| list(content).unwrap_err().to_string();
        let twice = message(b"a\nb\n\na\n");
        assert!(twice.contains("train.txt, line 4: \"a\" is already in line 1"), "{twice}");
        for empty in [&b""[..], b" \n\n"] {
            let empty = message(empty);
            assert!(empty.contains("train.txt has no samples"), "{empty}");
        }
        let binary = message(b"\xc3\x28");
        assert!(binary.contains("train.txt") && binary.contains("UTF-8"), "{binary}");
        let missing = read_list("/nowhere/list.txt").unwrap_err().to_string();
        assert!(missing.contains("/nowhere/list.txt"), "{missing}");
    }

    #[test]
    fn parts_cover_all_once() {
        let parts = random_split(101, &[0.7, 0.2, 0.1], 3).unwrap();
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [71, 20, 10]);
        let mut all = parts.concat();
        all.sort_unstable();
        assert_eq!(all, (0..101).collect::<Vec<_>>());
        assert_eq!(parts, random_split(101, &[0.7, 0.2, 0.1], 3).unwrap());
        assert_ne!(parts, random_split(101, &[0.7, 0.2, 0.1], 4).unwrap());
    }

    #[test]
    fn empty_parts_and_wrong_fractions_are_errors() {
        assert!(matches!(random_split(3, &[0.9, 0.1], 0), Err(DataError::Empty { .. })));
        assert!(matches!(random_split(0, &[1.0], 0), Err(DataError::Empty { .. })));
        for fractions in [&[0.5, 0.6][..], &[1.5, -0.5], &[f64::NAN, 1.0], &[]] {
            assert!(random_split(10, fractions, 0).is_err());
        }
    }

    #[test]
    fn folds_are_stratified() {
        let foreground: Vec<f64> = (0..103).map(|i| f64::from(i * 37 % 103) / 103.0).collect();
        let folds = k_fold(&foreground, 5, 9).unwrap();
        let mut seen: Vec<usize> = folds.iter().flat_map(|fold| fold.val.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..103).collect::<Vec<_>>());
        for fold in &folds {
            assert!((20..=21).contains(&fold.val.len()));
            assert_eq!(fold.train.len() + fold.val.len(), 103);
            assert!(fold.val.iter().all(|i| !fold.train.contains(i)));
            let mean = fold.val.iter().map(|i| foreground[*i]).sum::<f64>() / fold.val.len() as f64;
            assert!((mean - 0.495).abs() < 0.03, "{mean}");
        }
        assert_eq!(folds, k_fold(&foreground, 5, 9).unwrap());
        assert_ne!(folds, k_fold(&foreground, 5, 10).unwrap());
        assert!(k_fold(&foreground, 1, 0).is_err() && k_fold(&foreground, 104, 0).is_err());
        assert!(k_fold(&[0.0, f64::NAN], 2, 0).is_err());
    }

    #[test]
    fn foreground_leaves_out_background_and_void() {
        let dataset = InMemoryDataset::new(vec![ramp(4, 1, 1)]);
        assert_eq!(foreground_fractions(&dataset, None).unwrap(), [0.75]);
        assert_eq!(foreground_fractions(&dataset, Some(3)).unwrap(), [0.5]);
    }
}
