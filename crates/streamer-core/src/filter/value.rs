//! The values of conditions.

use std::fmt;

use serde_json::Value as Json;

/// A value that a field is compared with.
///
/// There is no object. [`Filter::new`](super::Filter::new) refuses doubles that are not
/// finite.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Null, which equals null only. A field that is missing is not null.
    Null,
    /// Text, compared byte by byte.
    Text(String),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// A boolean; false is less than true.
    Bool(bool),
    /// A list; types may be mixed.
    List(Vec<Value>),
}

/// The reason why a JSON value cannot be the value of a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidValue {
    /// The value is an object.
    #[error("a filter value cannot be an object; name a field inside it, as in `a.b == 1`")]
    Object,
    /// The integer is larger than a filter can hold, and no double equals it.
    #[error("{0} is too large: the largest integer of a filter is {max}", max = i64::MAX)]
    TooLarge(u64),
}

impl Value {
    /// Returns the name of the type, for error messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Text(_) => "a string",
            Self::Int(_) => "an integer",
            Self::Double(_) => "a double",
            Self::Bool(_) => "a boolean",
            Self::List(_) => "a list",
        }
    }

    pub(super) fn is_finite(&self) -> bool {
        match self {
            Self::Double(double) => double.is_finite(),
            // Inside lists, too: elements are compared like other values.
            Self::List(values) => values.iter().all(Self::is_finite),
            Self::Null | Self::Text(_) | Self::Int(_) | Self::Bool(_) => true,
        }
    }

    /// Returns whether it is null, or a list with null in it.
    pub(super) fn has_null(&self) -> bool {
        match self {
            Self::Null => true,
            Self::List(values) => values.iter().any(Self::has_null),
            Self::Text(_) | Self::Int(_) | Self::Double(_) | Self::Bool(_) => false,
        }
    }
}

/// Writes JSON, so that text and numbers differ.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            // Quoted and escaped, so that `from_text` reads the same value again.
            Self::Text(text) => write!(f, "{}", Json::from(&**text)),
            Self::Int(int) => write!(f, "{int}"),
            // Unlike `Display`, `Debug` keeps exponents, and the point that makes it a double.
            Self::Double(double) => write!(f, "{double:?}"),
            Self::Bool(bool) => write!(f, "{bool}"),
            Self::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "," };
                    write!(f, "{separator}{value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

impl TryFrom<u64> for Value {
    type Error = InvalidValue;

    /// Above `i64::MAX`, only numbers that a double represents exactly are allowed.
    fn try_from(number: u64) -> Result<Self, InvalidValue> {
        if let Ok(int) = i64::try_from(number) {
            return Ok(Self::Int(int));
        }
        // The wire has no unsigned integer: beyond `i64` only a double can carry the number.
        let double = number as f64;
        // In 128 bits, because the cast to `u64` saturates: the largest `u64` would seem exact.
        if double as u128 == u128::from(number) {
            Ok(Self::Double(double))
        } else {
            Err(InvalidValue::TooLarge(number))
        }
    }
}

impl TryFrom<&Json> for Value {
    type Error = InvalidValue;

    fn try_from(json: &Json) -> Result<Self, InvalidValue> {
        match json {
            Json::Null => Ok(Self::Null),
            Json::Object(_) => Err(InvalidValue::Object),
            Json::Bool(bool) => Ok(Self::Bool(*bool)),
            Json::String(text) => Ok(Self::Text(text.clone())),
            Json::Array(values) => {
                let values = values.iter().map(Self::try_from);
                Ok(Self::List(values.collect::<Result<_, _>>()?))
            }
            Json::Number(number) => {
                // Before `as_i64`: it also covers the positive integers beyond `i64`, which must
                // not be rounded silently.
                if let Some(whole) = number.as_u64() {
                    return Self::try_from(whole);
                }
                let double = || Self::Double(number.as_f64().unwrap_or(f64::NAN));
                Ok(number.as_i64().map_or_else(double, Self::Int))
            }
        }
    }
}

impl From<f64> for Value {
    fn from(double: f64) -> Self {
        Self::Double(double)
    }
}

impl From<f32> for Value {
    fn from(double: f32) -> Self {
        Self::Double(double.into())
    }
}

impl From<bool> for Value {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Self>, const N: usize> From<[T; N]> for Value {
    fn from(values: [T; N]) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

macro_rules! from_integers {
    ($($whole:ty)*) => {$(
        impl From<$whole> for Value {
            fn from(int: $whole) -> Self {
                Self::Int(int.into())
            }
        }
    )*};
}

from_integers!(i8 i16 i32 i64 u8 u16 u32);
