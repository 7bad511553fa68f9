//! The deadlines of all streams in one order.

use std::collections::BTreeSet;

use steadfast_session::Time;

use super::StreamId;

/// The times at which streams must be looked at, one per stream.
///
/// A stream's timer may fire before its deadline but never after it. A message that moves a
/// deadline into the future therefore costs nothing here; the timer is set again when it fires.
#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    order: BTreeSet<(Time, StreamId)>,
}

impl TimerQueue {
    /// Sets the timer of a stream, which fires at `armed` now, to `due`.
    pub(super) fn arm(&mut self, id: StreamId, armed: Option<Time>, due: Time) {
        self.disarm(id, armed);
        self.order.insert((due, id));
    }

    pub(super) fn disarm(&mut self, id: StreamId, armed: Option<Time>) {
        if let Some(at) = armed {
            self.order.remove(&(at, id));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    pub(super) fn pop_due(&mut self, now: Time) -> Option<StreamId> {
        if self.next_due()? > now {
            return None;
        }
        self.order.pop_first().map(|(_, id)| id)
    }
}
