//! Numbers as exporters write them.
//!
//! [`plain`] reads what nearly all of them are, integers and short decimals with or without an
//! exponent, and is exact: with at most 19 digits and an integer of at most 2^53, one division or
//! multiplication by a power of ten up to 10^22 rounds once (Clinger, "How to read floating point
//! numbers accurately", 1990). [`full`] reads everything else the formats know.

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// The largest integer up to which every integer is a double.
const EXACT_MAX: u64 = 1 << 53;

/// Digits that always fit a `u64`.
const DIGITS_MAX: usize = 19;

/// A number at the beginning of the bytes, and how many of them it is; none if it is not a plain
/// one. What follows it is the caller's to judge.
#[inline]
pub(crate) fn plain(bytes: &[u8]) -> Option<(f64, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut at = start;
    let mut mantissa = 0u64;
    while let Some(digit) = digit(bytes, at) {
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
        // One conversion, rounded to the nearest by definition.
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

/// An exponent of one to three digits, and where it ends.
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
        if at - start > 3 {
            return None;
        }
    }
    (at > start).then_some((sign * exponent, at))
}

/// The number that is the whole of a line, whose line feed is among the bytes, and how many bytes
/// stand before that; none if there is anything else on the line.
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

/// What can be wrong with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberFault {
    /// It is none.
    NotOne,
    /// It is too large for a double. To record an infinity would be untrue.
    OutOfRange,
}

/// Reads a whole token as Go's `ParseFloat` does, on which both formats rest, but for underscores
/// between digits: Prometheus itself refuses those. Hexadecimal floats are read where the
/// caller's format knows them.
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
        // Go, and so Prometheus, knows no sign on it.
        _ if is(token, "nan") => return Ok(f64::NAN),
        _ => return Err(NumberFault::NotOne),
    };
    Ok(if negative { -magnitude } else { magnitude })
}

fn is(token: &[u8], word: &str) -> bool {
    token.eq_ignore_ascii_case(word.as_bytes())
}

fn decimal(digits: &[u8]) -> Result<f64, NumberFault> {
    // The library would take "inf" and the like here; those begin with a letter.
    let value: f64 = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(NumberFault::NotOne)?;
    if value.is_infinite() {
        return Err(NumberFault::OutOfRange);
    }
    Ok(value)
}

/// A hexadecimal float after its `0x`: digits, perhaps a point among them, and a binary exponent,
/// which it must have.
fn hexadecimal_float(text: &[u8]) -> Result<f64, NumberFault> {
    let mark = text
        .iter()
        .position(|byte| matches!(byte, b'p' | b'P'))
        .ok_or(NumberFault::NotOne)?;
    let (mut mantissa, mut sticky) = (0u64, false);
    let (mut digits, mut point, mut exponent) = (0usize, false, 0i64);
    for byte in &text[..mark] {
        if *byte == b'.' && !point {
            point = true;
            continue;
        }
        let digit = (*byte as char).to_digit(16).ok_or(NumberFault::NotOne)?;
        digits += 1;
        // Sixty bits are more than the result has; what falls off only decides how it rounds.
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | u64::from(digit);
            exponent -= if point { 4 } else { 0 };
        } else {
            sticky |= digit != 0;
            exponent += if point { 0 } else { 4 };
        }
    }
    let written = std::str::from_utf8(&text[mark + 1..]).map_err(|_| NumberFault::NotOne)?;
    let bare = written.strip_prefix(['+', '-']).unwrap_or(written);
    if digits == 0 || bare.is_empty() || !bare.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NumberFault::NotOne);
    }
    // An exponent too long to be a number is beyond every double on its side.
    let beyond = if written.starts_with('-') {
        -1 << 40
    } else {
        1 << 40
    };
    exponent += written
        .parse::<i64>()
        .map_or(beyond, |written| written.clamp(-1 << 40, 1 << 40));
    scale(mantissa | u64::from(sticky), exponent)
}

/// `mantissa × 2^exponent`, rounded once, to even. The lowest bit of a mantissa above 2^60 may
/// stand for everything below it.
fn scale(mantissa: u64, exponent: i64) -> Result<f64, NumberFault> {
    if mantissa == 0 {
        return Ok(0.0);
    }
    let length = i64::from(64 - mantissa.leading_zeros());
    let top = length + exponent;
    if top > 1024 {
        return Err(NumberFault::OutOfRange);
    }
    // Bits that the result keeps: 53, fewer where doubles are subnormal.
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
        if rest > half || rest == half && bits & 1 == 1 {
            bits += 1;
        }
        (bits as u64, exponent + dropped)
    };
    // At most 53 bits, and a power of two in two exact steps, since one alone may not be a double.
    let step = exponent.clamp(-1000, 1000) as i32;
    let value = bits as f64 * 2f64.powi(step) * 2f64.powi((exponent - i64::from(step)) as i32);
    if value.is_infinite() {
        return Err(NumberFault::OutOfRange);
    }
    Ok(value)
}

/// Milliseconds as the Prometheus format writes them: a whole number.
pub(crate) fn milliseconds(token: &[u8]) -> Option<i64> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// Seconds as `OpenMetrics` writes them, as milliseconds, to the nearest.
pub(crate) fn seconds(token: &[u8]) -> Option<i64> {
    let milliseconds = (full(token, false).ok()? * 1000.0).round();
    // Past that a double does not tell single milliseconds apart; it is some 285,000 years.
    (milliseconds.abs() <= EXACT_MAX as f64).then_some(milliseconds as i64)
}

#[cfg(test)]
mod tests;
