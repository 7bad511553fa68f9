//! The states of documents before events, read back from the log.

use std::sync::Arc;

use super::LogReader;
use crate::{Event, Previous};

/// Reads the states before those events that are wanted, in order, while they have no more than
/// `max_bytes` together. The events after that stay as they are: subscriptions are in doubt about them.
pub(crate) fn complete(
    reader: &dyn LogReader,
    events: &mut [Arc<Event>],
    wanted: &[bool],
    max_bytes: usize,
) {
    let mut left = max_bytes;
    for (event, _) in events.iter_mut().zip(wanted).filter(|(_, wanted)| **wanted) {
        let completed = with_previous(reader, event);
        if let Previous::Read(before) = &completed.previous {
            match left.checked_sub(before.weight()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
        *event = completed;
    }
}

/// Reads the event by which the document of an event was changed before, and returns the event with it.
/// Where it cannot be read, because it was trimmed or is damaged, returns the event as it is.
#[must_use]
pub fn with_previous(reader: &dyn LogReader, event: &Arc<Event>) -> Arc<Event> {
    let Previous::At(offset) = event.previous else {
        return Arc::clone(event);
    };
    let found = reader.read(offset - 1, 1, usize::MAX);
    let before = found.ok().and_then(|events| events.into_iter().next());
    // The log of the offset may have lost it, and then begins with a later one.
    match before.filter(|before| before.offset == offset) {
        Some(before) => Arc::new(Event {
            previous: Previous::Read(before),
            ..Event::clone(event)
        }),
        None => Arc::clone(event),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Epoch,
        log::{DocumentKey, Log as _, MemoryLog, Submission},
    };

    #[test]
    fn states_before_events_are_read_up_to_a_limit() {
        let mut log = MemoryLog::with_epoch(Epoch(1));
        let submit = |sequence| {
            let document = DocumentKey::new("default", "users", "a");
            Submission::new("p", sequence, document, format!("{{\"n\":{sequence}}}"))
        };
        log.append((1..=6).map(submit).collect(), 0).unwrap();
        let reader = log.reader();
        let events = reader.read(0, 6, usize::MAX).unwrap();
        let weight = events[2].weight();
        let read = |wanted: [bool; 6], max_bytes| {
            let mut events = events.clone();
            complete(&*reader, &mut events, &wanted, max_bytes);
            let is_read = |event: &Arc<Event>| matches!(event.previous, Previous::Read(_));
            events.iter().map(is_read).collect::<Vec<_>>()
        };
        assert_eq!(read([true; 6], usize::MAX)[..2], [false, true]);
        let wanted = [false, false, false, true, true, true];
        assert_eq!(read(wanted, 3 * weight), wanted);
        let two = [false, false, false, true, true, false];
        assert_eq!(read(wanted, 3 * weight - 1), two);
        assert_eq!(read(wanted, weight - 1), [false; 6]);
    }
}
