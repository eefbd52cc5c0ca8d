use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Number format in which the layers of a network multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits, as networks are trained.
    #[default]
    F32,
    /// bfloat16 (8 bits of precision, the range of f32), summed in f32.
    Bf16,
    /// Integers of 8 bits, summed in 32: for networks whose activations' ranges are known.
    Int8,
}

impl Precision {
    /// All precisions, by [name](Self::name).
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Name in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An unknown name of a precision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no precision {0:?}; known are f32, bf16 and int8, and for some programs auto")]
pub struct UnknownPrecision(String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        Self::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| UnknownPrecision(name.into()))
    }
}

/// A precision, or whichever is fastest: what a flag asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrecisionChoice {
    /// This one.
    Fixed(Precision),
    /// The fastest whose measured loss is within a bound.
    Auto,
}

impl FromStr for PrecisionChoice {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        if name == "auto" { Ok(Self::Auto) } else { name.parse().map(Self::Fixed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
            assert_eq!(serde_json::to_string(&precision).unwrap(), format!("{:?}", precision.name()));
        }
        assert_eq!("auto".parse(), Ok(PrecisionChoice::Auto));
        assert_eq!("bf16".parse(), Ok(PrecisionChoice::Fixed(Precision::Bf16)));
        assert!("fp16".parse::<Precision>().unwrap_err().to_string().contains("f32, bf16 and int8"));
    }
}
