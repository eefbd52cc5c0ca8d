//! Fields that programs write in more than one way.

use serde::{Deserialize, Deserializer, de::Error};

use super::Segmentation;

#[derive(Deserialize)]
#[serde(untagged, expecting = "should be a whole number")]
enum Number {
    Whole(i64),
    Float(f64),
}

/// A whole number. Programs that keep ids as floats write 7.0.
pub(super) fn whole<'de, D: Deserializer<'de>>(json: D) -> Result<i64, D::Error> {
    match Number::deserialize(json)? {
        Number::Whole(value) => Ok(value),
        Number::Float(value) if value.fract() == 0.0 && value.abs() < 2f64.powi(53) => Ok(value as i64),
        Number::Float(value) => Err(D::Error::custom(format!("{value} should be a whole number"))),
    }
}

/// A text that may be `null`.
pub(super) fn text<'de, D: Deserializer<'de>>(json: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(json)?.unwrap_or_default())
}

/// `true`, `false` or a number, of which only 0 is false; `null` is false.
pub(super) fn flag<'de, D: Deserializer<'de>>(json: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "should be true, false, 0 or 1")]
    enum Flag {
        Bool(bool),
        Number(f64),
    }
    Ok(match Option::deserialize(json)? {
        Some(Flag::Bool(flag)) => flag,
        Some(Flag::Number(number)) => number != 0.0,
        None => false,
    })
}

/// Width or height of an image.
pub(super) fn side<'de, D: Deserializer<'de>>(json: D) -> Result<Option<u32>, D::Error> {
    match Option::deserialize(json)? {
        Some(0) => Err(D::Error::custom("is 0; an image has at least one pixel")),
        side => Ok(side),
    }
}

/// A box `[x, y, width, height]`; none where the list is empty.
pub(super) fn bbox<'de, D: Deserializer<'de>>(json: D) -> Result<Option<[f64; 4]>, D::Error> {
    const MOST: f64 = 1e9;
    let Some(values) = Option::<Vec<f64>>::deserialize(json)?.filter(|values| !values.is_empty()) else {
        return Ok(None);
    };
    if let Some(value) = values.iter().find(|value| value.abs() > MOST) {
        return Err(D::Error::custom(format!("{value} is not within ±1e9; correct the box or remove the entry")));
    }
    let count = values.len();
    let wrong = |_| D::Error::custom(format!("has {count} numbers; a box is [x, y, width, height]"));
    values.try_into().map(Some).map_err(wrong)
}

/// A mask; none where the list is empty, as many write who have boxes alone.
pub(super) fn mask<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Segmentation>, D::Error> {
    let mask = Option::deserialize(json)?;
    Ok(mask.filter(|mask| !matches!(mask, Segmentation::Polygons(polygons) if polygons.is_empty())))
}
