//! Values that were written as decimals, as the integers they are when the point is moved.

/// Powers of ten that a double holds exactly, as far as exporters use them.
const POWERS: [f64; 13] = [
    1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12,
];

/// Up to here every integer is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The integer `bits` is, when multiplied by ten to the `exponent`.
///
/// Exact both ways: a division of two exact doubles is the double nearest to their quotient, and so
/// is a decimal that was parsed.
fn scaled(bits: u64, exponent: usize) -> Option<i64> {
    let value = f64::from_bits(bits);
    let moved = (value * POWERS[exponent]).round();
    if moved.abs() <= EXACT && restored(moved as i64, exponent) == bits {
        Some(moved as i64)
    } else {
        None
    }
}

/// The double of an integer and an exponent.
fn restored(integer: i64, exponent: usize) -> u64 {
    (integer as f64 / POWERS[exponent]).to_bits()
}

/// Finds the least exponent at which all values are integers and puts those into `integers`.
/// Nothing when there is none: NaN, infinities, negative zero, or more digits.
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
        integers.push(scaled(bits, exponent)?);
    }
    Some(exponent as u8)
}

/// Appends the doubles of `integers`; nothing for an exponent that is none.
pub(super) fn to_values(integers: &[i64], exponent: u8, values: &mut Vec<u64>) -> Option<()> {
    let exponent = usize::from(exponent);
    match exponent {
        0 => values.extend(integers.iter().map(|integer| (*integer as f64).to_bits())),
        1..13 => values.extend(integers.iter().map(|integer| restored(*integer, exponent))),
        13.. => return None,
    }
    Some(())
}
