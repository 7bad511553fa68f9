//! Conversion of values that were written as decimals to integers, by a shift of the decimal point.

/// The powers of ten that exporters use. A double holds each exactly.
const POWERS: [f64; 13] = [
    1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12,
];

/// Every integer up to here is a double.
pub(crate) const EXACT: u64 = 1 << 53;

/// Multiplies a value by ten to the `exponent`. Returns the integer if dividing it restores the value
/// bit for bit.
///
/// This holds for every decimal of few digits: parsing yields the double nearest to the decimal, and so
/// does dividing one exact double by another.
pub(crate) fn scaled(bits: u64, exponent: usize) -> Option<i64> {
    let integer = nearest(bits, exponent);
    (integer.unsigned_abs() <= EXACT && restored(integer, exponent) == bits).then_some(integer)
}

/// Multiplies a value by ten to the `exponent`, and returns the integer next to the product. Which one
/// that is belongs to the format: readers compute it again.
pub(crate) fn nearest(bits: u64, exponent: usize) -> i64 {
    let value = f64::from_bits(bits);
    // The cast cuts off what is behind the point, saturates, and turns NaN into zero.
    if exponent == 0 {
        return value as i64;
    }
    let moved = value * POWERS[exponent];
    (moved + 0.5_f64.copysign(moved)) as i64
}

/// Divides an integer by ten to the `exponent`.
pub(crate) fn restored(integer: i64, exponent: usize) -> u64 {
    let integer = integer as f64;
    // Most values are integers, and a division takes longer than all else here.
    let value = match exponent {
        0 => integer,
        1.. => integer / POWERS[exponent],
    };
    value.to_bits()
}

/// Returns an exponent that was read, or `None` if it is invalid.
pub(crate) fn checked(exponent: u8) -> Option<usize> {
    Some(usize::from(exponent)).filter(|exponent| *exponent < POWERS.len())
}

/// Finds the smallest exponent that turns all values into integers, and puts these into `integers`.
/// Returns `None` if there is none: for NaN, infinities, negative zero, and too many digits.
pub(super) fn to_integers(values: &[u64], integers: &mut Vec<i64>) -> Option<u8> {
    integers.clear();
    let mut exponent = 0;
    for &bits in values {
        while scaled(bits, exponent).is_none() {
            exponent += 1;
            if exponent == POWERS.len() {
                return None;
            }
        }
    }
    for &bits in values {
        // An early value may exceed `EXACT` at the exponent that a later one needed.
        integers.push(scaled(bits, exponent)?);
    }
    Some(exponent as u8)
}

/// Appends the values of `integers`. Returns `None` if the exponent is invalid.
pub(super) fn to_values(integers: &[i64], exponent: u8, values: &mut Vec<u64>) -> Option<()> {
    let exponent = checked(exponent)?;
    values.extend(integers.iter().map(|integer| restored(*integer, exponent)));
    Some(())
}
