//! Positions in a log.

use std::{fmt, str::FromStr};

/// The id of a term of a log, in which a position was read. Only the log knows how its terms relate
/// ([`Terms`](crate::Terms)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A position in a log: after the event at `offset` and before the next one.
///
/// Its text is what an application stores to resume from.
///
/// ```
/// use steadfast_streamer_core::{Epoch, Position};
///
/// let position = Position::new(Epoch(0xc0ffee), 42);
/// assert_eq!(position.to_string(), "0000000000c0ffee-42");
/// assert_eq!("0000000000c0ffee-42".parse(), Ok(position));
/// ```
///
/// The first event has offset 1, so offset 0 is the beginning of the log. `Position` does not
/// implement `Ord` because positions of different epochs have no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The term in which the position was read.
    pub epoch: Epoch,
    /// The offset of the last event before this position.
    pub offset: u64,
}

/// An error: the text is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a position: expected 16 hexadecimal digits, a dash and a number, as in 00c0ffee00c0ffee-42"
)]
pub struct InvalidPosition {
    text: String,
}

impl Position {
    /// Returns the position after the event at `offset` of the log `epoch`.
    #[must_use]
    pub const fn new(epoch: Epoch, offset: u64) -> Self {
        Self { epoch, offset }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPosition {
            text: text.to_owned(),
        };
        let (epoch, offset) = text.split_once('-').ok_or_else(invalid)?;
        let digits = |part: &str, radix| part.bytes().all(|byte| char::from(byte).is_digit(radix));
        if epoch.len() != 16 || !digits(epoch, 16) || offset.is_empty() || !digits(offset, 10) {
            return Err(invalid());
        }
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| invalid())?;
        let offset = offset.parse().map_err(|_| invalid())?;
        Ok(Self::new(Epoch(epoch), offset))
    }
}

/// The range of events that a log holds: from `first`, exclusive, to `head`, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest offset that can be read after; 0 until the log is trimmed.
    pub first: u64,
    /// The offset of the newest event; 0 while the log is empty.
    pub head: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_text_round_trips() {
        for position in [
            Position::new(Epoch(0), 0),
            Position::new(Epoch(u64::MAX), u64::MAX),
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
    }

    #[test]
    fn malformed_position_text_is_refused() {
        for text in [
            "",
            "-",
            "12",
            "00c0ffee00c0ffee",
            "00c0ffee00c0ffee-",
            "00c0ffee00c0ffee-+1",
            "c0ffee-1",
            "00c0ffee00c0ffee-18446744073709551616",
            "+0c0ffee00c0ffee-1",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
