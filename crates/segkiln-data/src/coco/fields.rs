//! Fields that programs write in more than one way.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};

use super::CocoSegmentation;

/// A whole number. Programs that keep ids and sizes as floats write 7.0.
struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Whole, E> {
                Ok(Whole(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Whole, E> {
                i64::try_from(value).map(Whole).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Whole, E> {
                match value.fract() == 0.0 && value.abs() < 2f64.powi(53) {
                    true => Ok(Whole(value as i64)),
                    false => Err(E::invalid_value(Unexpected::Float(value), &self)),
                }
            }
        }
        json.deserialize_any(Number)
    }
}

/// A whole number from 0 to 2³² - 1.
pub(super) struct Unsigned(pub u32);

impl<'de> Deserialize<'de> for Unsigned {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let Whole(value) = Deserialize::deserialize(json)?;
        let wrong = |_| D::Error::custom(format!("{value} should be a number from 0 to {}", u32::MAX));
        u32::try_from(value).map(Self).map_err(wrong)
    }
}

/// An id.
pub(super) fn whole<'de, D: Deserializer<'de>>(json: D) -> Result<i64, D::Error> {
    Whole::deserialize(json).map(|Whole(value)| value)
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
        Some(Unsigned(0)) => Err(D::Error::custom("is 0; an image has at least one pixel")),
        side => Ok(side.map(|Unsigned(side)| side)),
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
pub(super) fn mask<'de, D: Deserializer<'de>>(json: D) -> Result<Option<CocoSegmentation>, D::Error> {
    let mask = Option::deserialize(json)?;
    Ok(mask.filter(|mask| !matches!(mask, CocoSegmentation::Polygons(polygons) if polygons.is_empty())))
}
