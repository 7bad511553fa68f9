//! Parsing of numbers.
//!
//! [`plain`] reads integers and short decimals with or without an exponent, which nearly all values
//! are. It is exact: with at most 19 digits and an integer of at most 2^53, one division or
//! multiplication by a power of ten up to 10^22 rounds once (Clinger, "How to read floating point
//! numbers accurately", 1990). [`full`] reads every number of the formats.

/// The powers of ten that a double represents exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// The largest integer up to which a double represents every integer.
const EXACT_MAX: u64 = 1 << 53;

/// The number of digits that always fits a `u64`.
const DIGITS_MAX: usize = 19;

/// Reads a plain number at the start of the bytes, and returns it with its length. The caller checks
/// the byte that follows.
#[inline]
pub(crate) fn plain(bytes: &[u8]) -> Option<(f64, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut at = start;
    let mut mantissa = 0u64;
    while let Some(digit) = digit(bytes, at) {
        // More digits than fit wrap around; such a number is left to `full` below.
        mantissa = mantissa.wrapping_mul(10).wrapping_add(digit);
        at += 1;
    }
    let mut digits = at - start;
    let mut exponent = 0i32;
    if bytes.get(at) == Some(&b'.') {
        let point = at;
        at += 1;
        while let Some(digit) = digit(bytes, at) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(digit);
            at += 1;
        }
        let decimals = at - point - 1;
        digits += decimals;
        exponent = -i32::try_from(decimals).ok()?;
    }
    if digits == 0 || digits > DIGITS_MAX {
        return None;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let (written, end) = exponent_at(bytes, at + 1)?;
        exponent += written;
        at = end;
    }
    let value = if exponent == 0 {
        // A single conversion rounds to the nearest double by definition.
        mantissa as f64
    } else {
        let power = POWERS.get(exponent.unsigned_abs() as usize)?;
        if mantissa > EXACT_MAX {
            return None;
        }
        if exponent < 0 {
            mantissa as f64 / power
        } else {
            mantissa as f64 * power
        }
    };
    Some((if negative { -value } else { value }, at))
}

#[inline]
fn digit(bytes: &[u8], at: usize) -> Option<u64> {
    let digit = bytes.get(at)?.wrapping_sub(b'0');
    (digit <= 9).then_some(u64::from(digit))
}

/// Reads an exponent of one to three digits, and returns it with the position behind it.
fn exponent_at(bytes: &[u8], mut at: usize) -> Option<(i32, usize)> {
    let sign = match bytes.get(at) {
        Some(b'-') => -1,
        _ => 1,
    };
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    let start = at;
    let mut exponent = 0;
    while let Some(digit) = digit(bytes, at) {
        exponent = exponent * 10 + digit as i32;
        at += 1;
        // Bounds the arithmetic. Longer exponents are left to `full`.
        if at - start > 3 {
            return None;
        }
    }
    (at > start).then_some((sign * exponent, at))
}

/// Reads a number that is the whole rest of a line, and returns it with the number of bytes before
/// the line feed; none if there is anything else on the line.
#[inline]
pub(crate) fn rest_of_line(bytes: &[u8]) -> Option<(f64, usize)> {
    if let Some((value, length)) = plain(bytes)
        && bytes.get(length) == Some(&b'\n')
    {
        return Some((value, length));
    }
    rest_of_line_in_full(bytes)
}

#[inline(never)]
fn rest_of_line_in_full(bytes: &[u8]) -> Option<(f64, usize)> {
    let length = memchr::memchr(b'\n', bytes)?;
    let token = &bytes[..length];
    let token = token.strip_suffix(b"\r").unwrap_or(token);
    Some((full(token).ok()?, length))
}

/// The fault of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberFault {
    /// The text is not a number.
    Invalid,
    /// The number is too large for a double. An infinity would be a wrong value.
    OutOfRange,
}

/// Reads a whole token as Prometheus does: like Go's `ParseFloat`, to which both formats refer, but without
/// hexadecimal numbers and underscores between digits.
pub(crate) fn full(token: &[u8]) -> Result<f64, NumberFault> {
    if let Some((value, length)) = plain(token)
        && length == token.len()
    {
        return Ok(value);
    }
    let (negative, digits) = match token {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let magnitude = match digits {
        [b'0'..=b'9' | b'.', ..] => decimal(digits)?,
        _ if is(digits, "inf") || is(digits, "infinity") => f64::INFINITY,
        // Go, and therefore Prometheus, rejects a sign on NaN.
        _ if is(token, "nan") => return Ok(f64::NAN),
        _ => return Err(NumberFault::Invalid),
    };
    Ok(if negative { -magnitude } else { magnitude })
}

fn is(token: &[u8], word: &str) -> bool {
    token.eq_ignore_ascii_case(word.as_bytes())
}

fn decimal(digits: &[u8]) -> Result<f64, NumberFault> {
    // The standard library also accepts "inf" and "nan", but the caller checked the first byte.
    let value: f64 = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(NumberFault::Invalid)?;
    if value.is_infinite() {
        return Err(NumberFault::OutOfRange);
    }
    Ok(value)
}

/// Reads a timestamp of the Prometheus format: whole milliseconds.
pub(crate) fn milliseconds(token: &[u8]) -> Option<i64> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// Reads a timestamp of `OpenMetrics`, seconds, and returns the nearest millisecond.
pub(crate) fn seconds(token: &[u8]) -> Option<i64> {
    let milliseconds = (full(token).ok()? * 1000.0).round();
    // Beyond 2^53 ms, about 285,000 years, a double does not represent every millisecond.
    (milliseconds.abs() <= EXACT_MAX as f64).then_some(milliseconds as i64)
}

#[cfg(test)]
mod tests;
