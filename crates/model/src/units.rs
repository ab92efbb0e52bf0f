//! Amounts with their unit, and the Kubernetes quantity syntax.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;

/// An amount of memory or storage, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// An amount of CPU time, in thousandths of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct MilliCpu(pub u64);

macro_rules! amount {
    ($type:ident) => {
        impl Add for $type {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }
        impl AddAssign for $type {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }
        impl Sum for $type {
            fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
                amounts.fold(Self::default(), Add::add)
            }
        }
        impl $type {
            /// What is left after taking `other` away, never below zero.
            pub fn minus(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }
    };
}
amount!(Bytes);
amount!(MilliCpu);

impl Bytes {
    /// Whole gibibytes.
    pub const fn gib(count: u64) -> Self {
        Self(count * GIB)
    }

    /// The amount in gibibytes.
    pub fn as_gib(self) -> f64 {
        self.0 as f64 / GIB as f64
    }

    /// Reads a Kubernetes quantity such as `32Gi` or `500M`; `GiB` and `MiB` are understood too.
    ///
    /// # Errors
    /// [`QuantityError`] if the text is not a quantity or not an amount of bytes.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        let text = trimmed.strip_suffix('B').filter(|rest| rest.ends_with('i')).unwrap_or(trimmed);
        quantity(text, 1).map(Self)
    }
}

impl MilliCpu {
    /// Reads a Kubernetes quantity of cores such as `500m`, `2` or `0.5`.
    ///
    /// # Errors
    /// [`QuantityError`] if the text is not a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        quantity(text, 1000).map(Self)
    }

    /// The amount in cores.
    pub fn as_cores(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match UNITS.iter().find(|(_, size)| self.0 >= *size) {
            Some((unit, size)) => write!(f, "{:.1} {unit}", self.0 as f64 / *size as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} cores", self.as_cores())
    }
}

/// Reads a size as people write it in a file: `32GiB`.
/// The sum of plain counts; one that is out of range is the largest number.
pub fn total(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

/// Largest amount that takes part in a sum of signed numbers: 1 PiB, or a million million cores. More than a thousand
/// times what a machine has; nothing fits that asks for it.
pub const MOST: u64 = 1 << 50;

/// An amount as a signed number, cut at [`MOST`], so that sums and percentages of it stay in range.
pub fn signed(amount: u64) -> i64 {
    i64::try_from(amount.min(MOST)).expect("2^50 is less than 2^63")
}

/// Whether an instant leaves room for every span that is added to it or taken from it: the years 1970 to 8999.
pub fn is_believable(at: Timestamp) -> bool {
    const END: i64 = 221_845_392_000;
    (0..END).contains(&at.as_second())
}

/// Reads an instant that is believable.
pub(crate) fn instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let at = Timestamp::deserialize(deserializer)?;
    if is_believable(at) { Ok(at) } else { Err(D::Error::custom(format!("{at} is not between the years 1970 and 9000"))) }
}

/// Most objects of one kind that a line of a scenario makes.
const MOST_MADE: u64 = 100_000;

/// Reads how many objects are made.
pub(crate) fn count<'de, D: Deserializer<'de>, N: TryFrom<u64>>(deserializer: D) -> Result<N, D::Error> {
    let count = u64::deserialize(deserializer)?;
    let few = (count <= MOST_MADE).then_some(count).and_then(|count| N::try_from(count).ok());
    few.ok_or_else(|| D::Error::custom(format!("{count} are more than the {MOST_MADE} that can be made")))
}

/// Reads how many objects are made, several times.
pub(crate) fn counts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let counts = Vec::<u32>::deserialize(deserializer)?;
    match counts.iter().map(|count| u64::from(*count)).sum::<u64>() {
        sum if sum <= MOST_MADE && counts.len() < 3_660 => Ok(counts),
        sum => Err(D::Error::custom(format!("{sum} on {} days are more than can be made", counts.len()))),
    }
}

pub(crate) fn written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    Bytes::parse(&text).map_err(|_| D::Error::custom(format!("`{text}` is not a size such as `32GiB`")))
}

/// The text is not a Kubernetes quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a quantity")]
pub struct QuantityError {
    /// What was read.
    pub text: String,
}

/// Reads a Kubernetes quantity in `1/scale` of its base unit, rounded up.
///
/// # Errors
/// [`QuantityError`] for anything but a non-negative decimal number with an optional suffix.
///
/// # Source
/// Suffixes and rounding: `k8s.io/apimachinery/pkg/api/resource` (n u m k M G T P E, Ki to Ei,
/// decimal exponents; `Value` and `MilliValue` round up).
pub fn quantity(text: &str, scale: u128) -> Result<u64, QuantityError> {
    parse_quantity(text.trim(), scale).ok_or_else(|| QuantityError { text: text.to_owned() })
}

fn parse_quantity(text: &str, scale: u128) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '+').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    if digits.len() > 30 {
        return None;
    }
    let mantissa: u128 = digits.parse().ok()?;
    let mut exponent = -i32::try_from(fraction.len()).ok()?;
    let mut binary: u128 = 1;
    match suffix {
        "" => {}
        "n" => exponent -= 9,
        "u" => exponent -= 6,
        "m" => exponent -= 3,
        "k" => exponent += 3,
        "M" => exponent += 6,
        "G" => exponent += 9,
        "T" => exponent += 12,
        "P" => exponent += 15,
        "E" => exponent += 18,
        "Ki" => binary = 1 << 10,
        "Mi" => binary = 1 << 20,
        "Gi" => binary = 1 << 30,
        "Ti" => binary = 1 << 40,
        "Pi" => binary = 1 << 50,
        "Ei" => binary = 1 << 60,
        other => {
            let power: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            exponent = exponent.checked_add(power)?;
        }
    }
    let amount = mantissa.checked_mul(binary)?.checked_mul(scale)?;
    let power = 10u128.checked_pow(exponent.unsigned_abs())?;
    let amount = if exponent < 0 { amount.div_ceil(power) } else { amount.checked_mul(power)? };
    u64::try_from(amount).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_follow_the_kubernetes_syntax() {
        assert_eq!(Bytes::parse("48861316Ki"), Ok(Bytes(48_861_316 * 1024)));
        assert_eq!(Bytes::parse("32GiB"), Ok(Bytes::gib(32)));
        assert_eq!(Bytes::parse("1.5Gi"), Ok(Bytes(GIB * 3 / 2)));
        assert_eq!(Bytes::parse("128974848000m"), Ok(Bytes(128_974_848)));
        assert_eq!(Bytes::parse("1e3"), Ok(Bytes(1000)));
        assert_eq!(quantity("14k", 1), Ok(14_000));
        assert_eq!(MilliCpu::parse("1680000000n"), Ok(MilliCpu(1680)));
        assert_eq!(MilliCpu::parse("0.5"), Ok(MilliCpu(500)));
        assert_eq!(MilliCpu::parse("100u"), Ok(MilliCpu(1)), "rounded up, as MilliValue does");
    }

    #[test]
    fn what_is_not_a_quantity_is_an_error_not_zero() {
        for text in ["", "Gi", "1 Gi", "-1", "1Q", "1.2.3", "1e999", "99999999999999Ei"] {
            assert!(Bytes::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,40}") {
            let _ = quantity(&text, 1000);
        }

        #[test]
        fn whole_numbers_read_as_themselves(number in 0u64..1 << 60) {
            proptest::prop_assert_eq!(quantity(&number.to_string(), 1), Ok(number));
        }
    }
}
