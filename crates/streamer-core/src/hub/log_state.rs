//! The hub's knowledge of the log.

use std::{collections::VecDeque, sync::Arc};

use steadfast_wire::streamer::{self as wire, ResyncReason};

use super::Limits;
use crate::{Bounds, Epoch, Event, Position, Terms};

/// The bounds of the log, its damage, and its newest events.
#[derive(Debug)]
pub(super) struct LogState {
    terms: Terms,
    bounds: Bounds,
    /// The newest offset that was found damaged; 0 if none was.
    damaged: u64,
    recent: RecentEvents,
}

/// The newest events, in memory, without holes and up to the head.
#[derive(Debug)]
struct RecentEvents {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl LogState {
    pub(super) fn new(terms: Terms, bounds: Bounds, limits: &Limits) -> Self {
        Self {
            terms,
            bounds,
            damaged: 0,
            recent: RecentEvents {
                events: VecDeque::new(),
                bytes: 0,
                max_events: limits.tail_events,
                max_bytes: limits.tail_bytes,
            },
        }
    }

    /// Returns the term in which the event at an offset was written.
    pub(super) fn written_in(&self, offset: u64) -> Epoch {
        self.terms.written_in(offset)
    }

    /// Returns true if a position belongs to this log, although it may be beyond the head.
    pub(super) fn contains(&self, position: Position) -> bool {
        self.terms.contain(position)
    }

    pub(super) fn head(&self) -> u64 {
        self.bounds.head
    }

    pub(super) fn position(&self, offset: u64) -> Position {
        Position::new(self.terms.current(), offset)
    }

    /// Takes the event after the head.
    pub(super) fn append(&mut self, event: &Arc<Event>) {
        debug_assert_eq!(event.offset, self.bounds.head + 1, "a hole in the log");
        self.bounds.head = event.offset;
        self.recent.push(event);
    }

    /// Moves the head past events that are only in the log.
    pub(super) fn skip_to(&mut self, head: u64) {
        self.bounds.head = head;
        // `recent_after` finds offsets by counting from the front, so that there must be no hole.
        self.recent.clear();
    }

    /// Drops the events in memory, so that they are read from the log with the states before them.
    pub(super) fn forget_recent(&mut self) {
        self.recent.clear();
    }

    pub(super) fn trim(&mut self, first: u64) {
        // Faults of reads tell it too, and may arrive out of order.
        self.bounds.first = self.bounds.first.max(first);
    }

    pub(super) fn mark_damaged(&mut self, offset: u64) {
        self.damaged = self.damaged.max(offset);
    }

    /// Returns the events after an offset that are in memory, at most `max` of them. Empty if the
    /// first of them is no longer in memory.
    pub(super) fn recent_after(&self, offset: u64, max: usize) -> Vec<Arc<Event>> {
        self.recent.after(offset).take(max).cloned().collect()
    }

    /// Returns true if the event after an offset is in memory.
    pub(super) fn has_recent_after(&self, offset: u64) -> bool {
        self.recent.after(offset).next().is_some()
    }

    /// Returns the offset at which a subscription starts that has no position: `after`, or a later one
    /// from which nothing is known to be missing.
    pub(super) fn start_after(&self, after: u64) -> u64 {
        let oldest = self.bounds.first.max(self.damaged);
        after.max(oldest).min(self.bounds.head)
    }

    /// Returns the offset at which a subscription starts, and the reason if it is not the one it
    /// asked for.
    pub(super) fn start(&self, resume: Option<&wire::Position>) -> (u64, Option<ResyncReason>) {
        let head = self.bounds.head;
        let Some(resume) = resume else {
            return (head, None);
        };
        // First, because the offset of another log says nothing about this one (decision 0016).
        if !self.terms.contain((*resume).into()) {
            (head, Some(ResyncReason::Epoch))
        } else if resume.offset > head {
            // No server told such a position in this term. Accepted, it would be silent until the
            // log reaches it.
            (head, Some(ResyncReason::Future))
        } else if resume.offset < self.bounds.first {
            // `first` itself is accepted: a position is the point after its event.
            (head, Some(ResyncReason::Trimmed))
        } else if resume.offset < self.damaged {
            // The read would meet this damage; the response can tell it at once.
            (head, Some(ResyncReason::Damaged))
        } else {
            (resume.offset, None)
        }
    }
}

impl RecentEvents {
    fn after(&self, offset: u64) -> impl Iterator<Item = &Arc<Event>> {
        let first = self.events.front().map(|first| first.offset);
        // None below the first event: the log, not an empty page, has what is missing.
        let skipped = first.and_then(|first| (offset + 1).checked_sub(first));
        let skipped = skipped.and_then(|skipped| usize::try_from(skipped).ok());
        self.events.iter().skip(skipped.unwrap_or(usize::MAX))
    }

    fn push(&mut self, event: &Arc<Event>) {
        self.events.push_back(Arc::clone(event));
        self.bytes += event.held_bytes();
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.held_bytes();
        }
    }

    fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }
}
