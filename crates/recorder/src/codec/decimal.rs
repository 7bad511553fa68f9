//! Conversion of values that were written as decimals to integers, by a shift of the decimal point.

/// The powers of ten that exporters use. A double holds each exactly.
const POWERS: [f64; 13] = [
    1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12,
];

/// Every integer up to here is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Multiplies a value by ten to the `exponent`. Returns the integer if dividing it restores the value
/// bit for bit.
///
/// This holds for every decimal of few digits: parsing yields the double nearest to the decimal, and so
/// does dividing one exact double by another.
fn scaled(bits: u64, exponent: usize) -> Option<i64> {
    let value = f64::from_bits(bits);
    let moved = (value * POWERS[exponent]).round();
    // NaN and infinities fail the first test, negative zero the second.
    if moved.abs() <= EXACT && restored(moved as i64, exponent) == bits {
        Some(moved as i64)
    } else {
        None
    }
}

/// Divides an integer by ten to the `exponent`.
fn restored(integer: i64, exponent: usize) -> u64 {
    (integer as f64 / POWERS[exponent]).to_bits()
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
    let exponent = usize::from(exponent);
    match exponent {
        0 => values.extend(integers.iter().map(|integer| (*integer as f64).to_bits())),
        1..13 => values.extend(integers.iter().map(|integer| restored(*integer, exponent))),
        13.. => return None,
    }
    Some(())
}
