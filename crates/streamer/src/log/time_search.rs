//! The search for a time in a log.

use std::sync::Arc;

use super::{Bounds, LogError, LogReader};
use crate::Event;

/// Returns the offset after which the first event with this timestamp or a later one follows; the head
/// if there is none.
///
/// Reads one event for each doubling of the log's length. The search takes timestamps to rise with
/// offsets. Where they fall, because a clock was set back, the result may be early or late by as much.
///
/// # Errors
///
/// Returns an error if the storage fails. Damaged events are passed over.
pub(crate) fn offset_of_time(reader: &dyn LogReader, time_ms: i64) -> Result<u64, LogError> {
    let Bounds { first, head } = reader.bounds();
    // Events up to `earlier` are before the time, and those after `later` are not, as far as they can
    // be read.
    let (mut earlier, mut later) = (first, head);
    while earlier < later {
        let middle = earlier + (later - earlier) / 2;
        match first_readable(reader, middle)? {
            Some(event) if event.offset <= later && event.timestamp < time_ms => {
                earlier = event.offset;
            }
            Some(_) | None => later = middle,
        }
    }
    Ok(earlier)
}

/// Returns the first event after an offset that can be read.
fn first_readable(reader: &dyn LogReader, mut after: u64) -> Result<Option<Arc<Event>>, LogError> {
    loop {
        let behind = match reader.read(after, 1, 0) {
            Ok(events) => return Ok(events.into_iter().next()),
            Err(LogError::Damaged { offset, .. }) => offset,
            // Trimmed since the bounds were read.
            Err(LogError::Trimmed { first, .. }) => first,
            Err(error) => return Err(error),
        };
        after = behind.max(after + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Epoch,
        log::{DocumentKey, Log as _, MemoryLog, Submission},
    };

    /// A log with one event for each of these times.
    fn log_of(times: &[i64]) -> MemoryLog {
        let mut log = MemoryLog::with_epoch(Epoch(7));
        for (index, time) in times.iter().enumerate() {
            let document = DocumentKey::new("db", "rooms", "r");
            let entry = Submission::new("p", index as u64 + 1, document, "{}");
            log.append(vec![entry], *time).unwrap();
        }
        log
    }

    #[test]
    fn time_is_found_as_a_scan_finds_it() {
        for length in 0..20 {
            // Pairs of equal times, as one commit gives them.
            let times: Vec<_> = (0..length).map(|index| 100 + index / 2 * 10).collect();
            let mut log = log_of(&times);
            for trimmed in 0..=times.len() {
                log.trim(trimmed as u64).unwrap();
                for time in 90..=210 {
                    let before = times.iter().filter(|it| **it < time).count();
                    let expected = before.max(trimmed) as u64;
                    let found = offset_of_time(&*log.reader(), time).unwrap();
                    assert_eq!(found, expected, "{time} in {times:?} after {trimmed}");
                }
            }
        }
    }

    #[test]
    fn clock_that_was_set_back_misses_by_as_much_at_most() {
        const BACK: i64 = 25;
        let times: Vec<i64> = (0..60).map(|at| at * 10 - at / 20 * (BACK + 10)).collect();
        let log = log_of(&times);
        for time in -10..700 {
            let found = offset_of_time(&*log.reader(), time).unwrap() as usize;
            let (before, after) = times.split_at(found);
            assert!(before.iter().all(|it| *it < time + BACK), "{time}: {found}");
            assert!(after.iter().all(|it| *it >= time - BACK), "{time}: {found}");
        }
    }
}
