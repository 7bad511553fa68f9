//! A place in a log.

use std::{fmt, str::FromStr};

/// Names a log. Another epoch is another log, whatever the offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A place between two changes of a log: after the change at `offset`, before the next.
///
/// Offsets count from 1, so offset 0 is the place before everything. The epoch belongs to the
/// offset: positions of different epochs have no order, and the type has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The log.
    pub epoch: Epoch,
    /// Offset of the last change before this place.
    pub offset: u64,
}

/// Why a text is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a position: expected 16 hexadecimal digits, a dash and a number, as in 00c0ffee00c0ffee-42"
)]
pub struct InvalidPosition {
    text: String,
}

impl Position {
    /// The place after the change at `offset` of the log named `epoch`.
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

/// What a log holds: everything after `first`, up to and with `head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest place that can be read from; 0 while nothing was trimmed.
    pub first: u64,
    /// Offset of the newest entry; 0 while the log is empty.
    pub head: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_as_written() {
        for position in [
            Position::new(Epoch(0), 0),
            Position::new(Epoch(u64::MAX), u64::MAX),
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
    }

    #[test]
    fn a_malformed_position_is_refused() {
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
