//! The states of documents before events, read back from the log.

use std::sync::Arc;

use super::LogReader;
use crate::{Event, Previous};

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
