//! Durations and sizes as people write them, and figures as people read them.

use std::{num::NonZeroU32, time::Duration};

use jiff::{Span, SpanRelativeTo};

/// Reads `30s`, `250ms`, `1m30s`, `2h`, `7d`, ISO 8601, or what Go calls a duration.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Some(duration) = go_duration(text) {
        return Ok(duration);
    }
    let wanted =
        || format!("{text:?} is not a duration; write a number and a unit, like 30s, 250ms or 7d");
    let span: Span = text.trim().parse().map_err(|_| wanted())?;
    let signed = span
        // A setting has no date, so that no clock change makes a day shorter.
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wanted())?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is negative; a duration is not"))
}

/// Reads a duration as Go writes and reads it, like `1h0m0s`, `1.5h30m`, `.5s` or `0`.
///
/// The friendly form of jiff takes a fraction in the last unit only, and a whole part before it.
fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000), // U+00B5
        ("μs", 1_000), // U+03BC
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let (mut nanos, is_empty) = (0_u128, rest.is_empty());
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, behind) = behind.split_at(end.unwrap_or(behind.len()));
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // 18 digits are finer than a nanosecond of an hour, and their product fits.
        let fraction = &fraction[..fraction.len().min(18)];
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let digits = |digits: &str| match digits {
            "" => Some(0),
            digits => digits.parse::<u64>().ok().map(u128::from),
        };
        let part = digits(fraction)? * scale / 10_u128.pow(fraction.len() as u32);
        nanos += digits(whole)? * scale + part;
        rest = behind;
    }
    let nanos = u64::try_from(nanos).ok().filter(|_| !is_empty)?;
    Some(Duration::from_nanos(nanos))
}

/// Reads `64MiB`, `10MB`, `4096` (bytes).
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wanted = || {
        format!("{text:?} is not a size; write a whole number and a unit, like 64MiB, 10MB or 4096")
    };
    let scale = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()));
    let (_, scale) = scale.ok_or_else(wanted)?;
    let number: u64 = number.parse().map_err(|_| wanted())?;
    number
        .checked_mul(*scale)
        .ok_or_else(|| format!("{text:?} is more than 64 bits hold"))
}

/// Reads a number from 1 on.
pub(crate) fn at_least_one(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a whole number from 1 on; write one, like 100"))
}

const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("MB", 1000_u64.pow(2)),
    ("GB", 1000_u64.pow(3)),
    ("TB", 1000_u64.pow(4)),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Returns a duration with the precision that a reader needs: `840 µs`, `12 ms`, `1.4 s`, `2 min 5 s`.
pub(crate) fn readable(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{} ms", duration.as_millis()),
        1_000_000..60_000_000 => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!(
            "{} min {} s",
            duration.as_secs() / 60,
            duration.as_secs() % 60
        ),
    }
}

/// Returns a number with its thousands apart: `1 234 567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Returns a number of seconds that whatever listens at an address has told.
pub(crate) fn seconds(seconds: f64) -> String {
    readable(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("2h", 7_200_000),
            ("7d", 7 * 86_400_000),
            ("PT5S", 5_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, nanos) in [
            ("0", 0),
            ("1h0m0s", 3_600_000_000_000),
            ("1.5h30m", 7_200_000_000_000),
            ("2m.5s", 120_500_000_000),
            ("+1.s", 1_000_000_000),
            ("100us", 100_000),
            ("100\u{b5}s", 100_000),
            ("100\u{3bc}s", 100_000),
            ("1.234567890123456789012s", 1_234_567_890),
            ("5m3m", 480_000_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in [
            ".s",
            "1",
            "1.5",
            "-5m3m",
            "1..5s",
            "1e3s",
            "99999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wrong_duration_says_how_to_write_one() {
        for text in ["", "30", "abc", "s", "1y", "30 parsecs"] {
            let error = duration(text).unwrap_err();
            assert!(error.contains("like 30s"), "{text}: {error}");
        }
        assert!(duration("-1s").unwrap_err().contains("negative"));
    }

    #[test]
    fn sizes_are_read_in_both_systems_of_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("12B", 12),
            ("10kB", 10_000),
            ("10 KiB", 10_240),
            ("64MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("1TB", 1_000_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_wrong_size_says_how_to_write_one() {
        for text in ["", "MiB", "1.5GiB", "-1", "10 apples", "+3"] {
            assert!(size(text).unwrap_err().contains("like 64MiB"), "{text}");
        }
        assert!(size("99999999TiB").unwrap_err().contains("64 bits"));
        assert!(size("99999999999999999999").is_err());
    }

    #[test]
    fn figures_are_written_for_readers() {
        assert_eq!(readable(Duration::from_micros(999)), "999 µs");
        assert_eq!(readable(Duration::from_micros(12_345)), "12 ms");
        assert_eq!(readable(Duration::from_millis(1_449)), "1.4 s");
        assert_eq!(readable(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(100), "100");
    }
}
