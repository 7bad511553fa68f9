//! Collecting events up to a count and a weight.

use std::sync::Arc;

use crate::Event;

/// Events read so far, and the room for more. The first one always fits, whatever it weighs, so
/// that reading gets on.
#[derive(Debug)]
pub(super) struct Page {
    events: Vec<Arc<Event>>,
    max_events: usize,
    bytes_left: usize,
}

impl Page {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            events: Vec::new(),
            max_events,
            bytes_left: max_bytes,
        }
    }

    /// Whether another event may be pushed. The last one may weigh more than there is left.
    pub(super) fn has_room(&self) -> bool {
        self.events.len() < self.max_events && (self.events.is_empty() || self.bytes_left > 0)
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        debug_assert!(self.has_room());
        self.bytes_left = self.bytes_left.saturating_sub(event.weight());
        self.events.push(event);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn into_events(self) -> Vec<Arc<Event>> {
        self.events
    }
}
