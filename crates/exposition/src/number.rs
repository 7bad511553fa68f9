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
pub(crate) fn rest_of_line(bytes: &[u8], hexadecimal: bool) -> Option<(f64, usize)> {
    if let Some((value, length)) = plain(bytes)
        && bytes.get(length) == Some(&b'\n')
    {
        return Some((value, length));
    }
    rest_of_line_in_full(bytes, hexadecimal)
}

#[inline(never)]
fn rest_of_line_in_full(bytes: &[u8], hexadecimal: bool) -> Option<(f64, usize)> {
    let length = memchr::memchr(b'\n', bytes)?;
    let token = &bytes[..length];
    let token = token.strip_suffix(b"\r").unwrap_or(token);
    Some((full(token, hexadecimal).ok()?, length))
}

/// The fault of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberFault {
    /// The text is not a number.
    Invalid,
    /// The number is too large for a double. An infinity would be a wrong value.
    OutOfRange,
}

/// Reads a whole token as Go's `ParseFloat` does, to which both formats refer, except for underscores
/// between digits, which Prometheus itself rejects.
pub(crate) fn full(token: &[u8], hexadecimal: bool) -> Result<f64, NumberFault> {
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
        [b'0', b'x' | b'X', hex @ ..] if hexadecimal => hexadecimal_float(hex)?,
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

/// Reads a hexadecimal float after its `0x`: digits with at most one point, and a binary exponent,
/// which is required.
fn hexadecimal_float(text: &[u8]) -> Result<f64, NumberFault> {
    let mark = text
        .iter()
        .position(|byte| matches!(byte, b'p' | b'P'))
        .ok_or(NumberFault::Invalid)?;
    let (mut mantissa, mut sticky) = (0u64, false);
    let (mut digits, mut point, mut exponent) = (0usize, false, 0i64);
    for byte in &text[..mark] {
        if *byte == b'.' && !point {
            point = true;
            continue;
        }
        let digit = (*byte as char).to_digit(16).ok_or(NumberFault::Invalid)?;
        digits += 1;
        // The result has 53 bits, so digits beyond 60 bits only decide the rounding.
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | u64::from(digit);
            exponent -= if point { 4 } else { 0 };
        } else {
            sticky |= digit != 0;
            exponent += if point { 0 } else { 4 };
        }
    }
    let written = std::str::from_utf8(&text[mark + 1..]).map_err(|_| NumberFault::Invalid)?;
    let bare = written.strip_prefix(['+', '-']).unwrap_or(written);
    if digits == 0 || bare.is_empty() || !bare.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NumberFault::Invalid);
    }
    // An exponent that does not fit an `i64` overflows or underflows every double.
    let beyond = if written.starts_with('-') {
        -1 << 40
    } else {
        1 << 40
    };
    // Clamped, so that the sum with the digits' share cannot overflow.
    exponent += written
        .parse::<i64>()
        .map_or(beyond, |written| written.clamp(-1 << 40, 1 << 40));
    scale(mantissa | u64::from(sticky), exponent)
}

/// Returns `mantissa × 2^exponent`, rounded once, to even. The lowest bit of a mantissa above 2^60
/// may stand for all bits below it.
fn scale(mantissa: u64, exponent: i64) -> Result<f64, NumberFault> {
    if mantissa == 0 {
        return Ok(0.0);
    }
    let length = i64::from(64 - mantissa.leading_zeros());
    let top = length + exponent;
    if top > 1024 {
        return Err(NumberFault::OutOfRange);
    }
    // A normal double has 53 bits, a subnormal one has fewer.
    let kept = 53.min(top + 1074);
    if kept < 0 {
        return Ok(0.0);
    }
    let dropped = length - kept;
    let (bits, exponent) = if dropped <= 0 {
        (mantissa, exponent)
    } else {
        let wide = u128::from(mantissa);
        let half = 1u128 << (dropped - 1);
        let rest = wide & ((1 << dropped) - 1);
        let mut bits = wide >> dropped;
        // Half goes to even, as Go and IEEE 754 round.
        if rest > half || rest == half && bits & 1 == 1 {
            bits += 1;
        }
        (bits as u64, exponent + dropped)
    };
    // Both multiplications are exact. A single power of two may be out of range.
    let step = exponent.clamp(-1000, 1000) as i32;
    let value = bits as f64 * 2f64.powi(step) * 2f64.powi((exponent - i64::from(step)) as i32);
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
    let milliseconds = (full(token, false).ok()? * 1000.0).round();
    // Beyond 2^53 ms, about 285,000 years, a double does not represent every millisecond.
    (milliseconds.abs() <= EXACT_MAX as f64).then_some(milliseconds as i64)
}

#[cfg(test)]
mod tests;
