//! What happens because time passes: silence, stalls, looks, and the end of a drain.

use std::{collections::BTreeSet, time::Duration};

use steadfast_session::Time;
use steadfast_wire::streamer::{self as wire, streamer_message::Payload};

use super::{Action, Cause, Hub, Peer, StreamId, end::millis};

/// When to look at which stream. An entry may be too early, never too late: a message that moves a
/// deadline on costs nothing here.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    order: BTreeSet<(Time, StreamId)>,
}

/// The server is stopping.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) deadline: Time,
    pub(super) reason: String,
}

impl Agenda {
    pub(super) fn disarm(&mut self, id: StreamId, armed: Option<Time>) {
        if let Some(at) = armed {
            self.order.remove(&(at, id));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn first(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    fn due(&mut self, now: Time) -> Option<StreamId> {
        if self.first()? > now {
            return None;
        }
        self.order.pop_first().map(|(_, id)| id)
    }
}

impl Hub {
    /// Sees to it that a stream is looked at no later than its deadline.
    pub(super) fn arm(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(due) = stream.deadline(&self.limits) else {
            return;
        };
        if stream.armed.is_none_or(|armed| due < armed) {
            self.agenda.disarm(id, stream.armed.replace(due));
            self.agenda.order.insert((due, id));
        }
    }

    /// Does what is due.
    pub(super) fn fire(&mut self, out: &mut Vec<Action>) {
        if let Some(drain) = &self.drain
            && drain.deadline <= self.now
        {
            let cause = Cause::Drained(drain.reason.clone());
            while let Some(id) = self.streams.keys().next().copied() {
                self.end(id, &cause, out);
            }
        }
        while let Some(id) = self.agenda.due(self.now) {
            self.on_due(id, out);
            self.arm(id);
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let drain = self.drain.as_ref().filter(|_| !self.streams.is_empty());
        let drain = drain.map(|drain| drain.deadline);
        [self.agenda.first(), drain].into_iter().flatten().min()
    }

    fn on_due(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.armed = None;
        if let Peer::Refused { cause, until } = &stream.peer {
            if *until <= now {
                let cause = cause.clone();
                self.end(id, &cause, out);
            }
        } else if let Some(silence) = stream.silence
            && stream.heard + silence <= now
        {
            self.end(id, &Cause::Silent(silence), out);
        } else if stream
            .outbox
            .stalls_at(&self.limits)
            .is_some_and(|at| at <= now)
        {
            self.end(id, &Cause::Stalled(self.limits.stall_timeout), out);
        } else if stream.progress.next <= now {
            self.look(id, out);
        }
    }

    /// Announces the stop. Profile peers are told and leave by themselves; plain ones can not be
    /// told, and are ended as soon as everything for them was sent, so that they look for another
    /// server early. At the deadline every stream ends.
    pub(super) fn on_drain(&mut self, deadline: Time, reason: String, out: &mut Vec<Action>) {
        let deadline = self
            .drain
            .as_ref()
            .map_or(deadline, |older| older.deadline.min(deadline));
        let left: Duration = deadline - self.now;
        let ids: Vec<_> = self.streams.keys().copied().collect();
        let announcement = wire::Drain {
            deadline_ms: millis(left),
            reason: reason.clone(),
        };
        let cause = Cause::Drained(reason.clone());
        self.drain = Some(Drain { deadline, reason });
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            match &stream.peer {
                Peer::Profile(_) => {
                    let drain = Payload::Drain(announcement.clone());
                    stream.send(self.now, id, drain, &self.limits, out);
                    self.arm(id);
                }
                Peer::Plain => self.end_if_settled(id, out),
                Peer::Unknown => self.refuse(id, cause.clone(), out),
                Peer::Refused { .. } => {}
            }
        }
    }

    /// During a drain, ends a plain stream for which nothing is left to send.
    pub(super) fn end_if_settled(&mut self, id: StreamId, out: &mut Vec<Action>) {
        if let Some(drain) = &self.drain
            && let Some(stream) = self.streams.get(&id)
            && matches!(stream.peer, Peer::Plain)
            && stream.is_settled()
        {
            let cause = Cause::Drained(drain.reason.clone());
            self.end(id, &cause, out);
        }
    }
}
