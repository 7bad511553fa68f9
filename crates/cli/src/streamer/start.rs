//! The value of `--from`: where a subscription begins.

use std::time::SystemTime;

use jiff::Timestamp;
use steadfast_streamer::Position;

use crate::units;

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Start {
    /// The next change.
    #[default]
    Now,
    /// The oldest change that the log still has.
    Oldest,
    /// The first change after a position.
    After(Position),
    /// The first change at a time or later.
    Since(SystemTime),
}

/// Parses `now`, `oldest`, a position, a duration before `now`, with a minus or not, or a time of RFC 3339.
fn parse(text: &str, now: SystemTime) -> Result<Start, String> {
    match text {
        "now" => return Ok(Start::Now),
        "oldest" => return Ok(Start::Oldest),
        _ => {}
    }
    // First: no duration and no time of day has the 16 hexadecimal digits of a position.
    if let Ok(position) = text.parse() {
        return Ok(Start::After(position));
    }
    if let Ok(before) = units::duration(text.strip_prefix('-').unwrap_or(text)) {
        // More than the clock holds is before every event.
        let time = now.checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH);
        return Ok(Start::Since(time));
    }
    text.parse::<Timestamp>()
        .map(|time| Start::Since(time.into()))
        .map_err(|_| {
            "write oldest, now, a position as --json prints it, a time like 2026-03-01T08:00:00Z, \
             or 15m for the last 15 minutes"
                .to_owned()
        })
}

/// Parses an argument; durations end now.
pub(super) fn from_argument(text: &str) -> Result<Start, String> {
    parse(text, SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steadfast_streamer::Epoch;

    use super::*;

    #[test]
    fn start_is_a_word_a_position_a_duration_or_a_time() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let now = at(1_767_225_660);
        let before = |seconds| Start::Since(now - Duration::from_secs(seconds));
        for (text, expected) in [
            ("now", Start::Now),
            ("oldest", Start::Oldest),
            (
                "0000000000000007-12",
                Start::After(Position::new(Epoch(7), 12)),
            ),
            ("15m", before(900)),
            ("-15m", before(900)),
            ("1h0m30s", before(3_630)),
            ("7d", before(7 * 24 * 3_600)),
            ("2026-01-01T00:00:00Z", Start::Since(at(1_767_225_600))),
            ("2026-01-01T01:00:00+01:00", Start::Since(at(1_767_225_600))),
        ] {
            assert_eq!(parse(text, now), Ok(expected), "{text}");
        }
        // Neither a date without a zone nor half a position means one place.
        for text in ["", "-", "newest", "2026-01-01", "7-12", "--15m"] {
            let error = parse(text, now).unwrap_err();
            assert!(error.contains("oldest, now, a position"), "{text}: {error}");
        }
    }
}
