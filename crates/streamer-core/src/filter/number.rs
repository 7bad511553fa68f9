//! Numbers, compared by their mathematical value.

use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
};

use super::Value;

/// A finite number, with one representation for each mathematical value.
///
/// Numbers are equal whether they came as `i64`, `u64` or `f64`. Comparison never casts an integer to
/// `f64`: that would make 2⁵³ and 2⁵³ + 1 equal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    /// An integer of at most 2⁶⁴ in magnitude.
    Whole(i128),
    /// Any other number: it has a fraction or is larger than every `u64`.
    Double(f64),
}

impl Number {
    /// Returns `None` if the number is not finite, which no JSON number is.
    pub(crate) fn of_json(number: &serde_json::Number) -> Option<Self> {
        // Integers first: `as_f64` would round those beyond 2⁵³ (S16).
        if let Some(whole) = number.as_i64() {
            return Some(whole.into());
        }
        if let Some(whole) = number.as_u64() {
            return Some(whole.into());
        }
        number
            .as_f64()
            .filter(|double| double.is_finite())
            .map(Self::from)
    }

    /// Returns the nearest double. Of two numbers the lesser never has the greater double, but two
    /// numbers may share one.
    pub(crate) fn to_f64(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Double(double) => double,
        }
    }
}

impl Number {
    /// Returns the value of a filter that equals this number.
    pub(crate) fn to_value(self) -> Value {
        match self {
            Self::Whole(whole) => {
                i64::try_from(whole).map_or(Value::Double(self.to_f64()), Value::Int)
            }
            Self::Double(double) => Value::Double(double),
        }
    }
}

impl From<u64> for Number {
    fn from(whole: u64) -> Self {
        Self::Whole(whole.into())
    }
}

impl From<i64> for Number {
    fn from(whole: i64) -> Self {
        Self::Whole(whole.into())
    }
}

impl From<f64> for Number {
    fn from(double: f64) -> Self {
        // Integers and doubles of one value must hash alike, so that they get one form.
        if double.fract() == 0.0 && double.abs() <= WHOLE_MAX {
            // An integer far inside the range of i128: the cast is exact, and −0.0 becomes 0.
            Self::Whole(double as i128)
        } else {
            Self::Double(double)
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            // Neither is zero, so the total order is the mathematical order.
            (Self::Double(a), Self::Double(b)) => a.total_cmp(&b),
            // Never equal: a double that equals an integer up to 2⁶⁴ is kept as `Whole`.
            (Self::Whole(a), Self::Double(b)) => whole_against_double(a, b),
            (Self::Double(a), Self::Whole(b)) => whole_against_double(b, a).reverse(),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            // Its value fits into 65 bits; the sign decides for the rest.
            Self::Whole(whole) => (*whole as u64, *whole < 0).hash(state),
            Self::Double(double) => double.to_bits().hash(state),
        }
    }
}

/// Compares with the integral part of the double, then with its fraction.
fn whole_against_double(whole: i128, double: f64) -> Ordering {
    // Compared as integers: as doubles, 2⁵³ + 1 and 2⁵³ would be equal.
    let whole_part = double.trunc();
    // The cast saturates beyond every `whole` there is, so that a saturated value compares correctly.
    whole
        .cmp(&(whole_part as i128))
        .then_with(|| 0.0_f64.total_cmp(&(double - whole_part)))
}

/// 2⁶⁴, the first double above every `u64`.
const WHOLE_MAX: f64 = 18_446_744_073_709_551_616.0;
