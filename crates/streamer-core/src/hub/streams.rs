//! The open streams, the sessions that they hold, and their timers.

use std::collections::BTreeMap;

use steadfast_session::Time;

use super::{
    StreamId,
    context::Context,
    end_cause::EndCause,
    session_key::SessionKey,
    stream::{Peer, Stream},
    timer_queue::TimerQueue,
};

/// The table of open streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Boxed, because half of a tree that grows at one end is empty.
    open: BTreeMap<StreamId, Box<Stream>>,
    /// The number of open streams that are being refused.
    refused: usize,
    sessions: BTreeMap<SessionKey, Holder>,
    timers: TimerQueue,
}

/// The stream that holds a session. An entry lasts as long as its stream: an old attempt can do harm
/// only while there is a newer one to displace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) stream: StreamId,
    pub(super) attempt: u64,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn timers(&self) -> usize {
        self.timers.len()
    }

    pub(super) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.open.get(&id).map(|stream| &**stream)
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        Some(&mut **self.open.get_mut(&id)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.open.values().map(|stream| &**stream)
    }

    /// Returns the streams from an id on, oldest first.
    pub(super) fn from(&self, id: StreamId) -> impl Iterator<Item = &Stream> {
        self.open.range(id..).map(|(_, stream)| &**stream)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.open.values_mut().map(|stream| &mut **stream)
    }

    pub(super) fn ids(&self) -> Vec<StreamId> {
        self.open.keys().copied().collect()
    }

    /// Adds a stream.
    pub(super) fn open(&mut self, id: StreamId, now: Time) {
        let older = self.open.insert(id, Box::new(Stream::new(id, now)));
        debug_assert!(older.is_none(), "a stream id was used again");
    }

    /// Marks a stream as refused until `until`, or returns false if too many are being refused.
    pub(super) fn refuse(&mut self, id: StreamId, cause: EndCause, until: Time) -> bool {
        if self.refused >= MAX_REFUSED {
            return false;
        }
        if let Some(stream) = self.open.get_mut(&id) {
            stream.set_peer(Peer::Refused { cause, until });
            self.refused += 1;
        }
        true
    }

    /// Removes a stream, its session and its timer.
    pub(super) fn remove(&mut self, id: StreamId) -> Option<Box<Stream>> {
        let stream = self.open.remove(&id)?;
        match stream.peer() {
            Peer::Profile(profile) => {
                // A fenced stream may end after its successor has taken the session.
                if self
                    .sessions
                    .get(&profile.key)
                    .is_some_and(|holder| holder.stream == id)
                {
                    self.sessions.remove(&profile.key);
                }
            }
            Peer::Refused { .. } => self.refused -= 1,
            Peer::Unknown | Peer::Plain => {}
        }
        // Here and nowhere else, so that no timer outlives its stream.
        self.timers.disarm(id, stream.armed);
        Some(stream)
    }

    /// Returns the stream that holds a session.
    pub(super) fn holder(&self, session: SessionKey) -> Option<Holder> {
        self.sessions.get(&session).copied()
    }

    /// Makes a stream the holder of a session.
    pub(super) fn hold(&mut self, session: SessionKey, stream: StreamId, attempt: u64) {
        self.sessions.insert(session, Holder { stream, attempt });
    }

    /// Sets the timer of a stream so that it fires no later than the stream's deadline.
    pub(super) fn arm(&mut self, id: StreamId, cx: &Context) {
        if let Some(stream) = self.open.get_mut(&id)
            && let Some(due) = stream.deadline(cx)
            && stream.armed.is_none_or(|armed| due < armed)
        {
            self.timers.arm(id, stream.armed, due);
            stream.armed = Some(due);
        }
    }

    /// Returns the next stream whose timer has fired.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<StreamId> {
        let id = self.timers.pop_due(now)?;
        if let Some(stream) = self.open.get_mut(&id) {
            stream.armed = None;
        }
        Some(id)
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        self.timers.next_due()
    }
}

/// The maximum number of streams being refused at once. Further streams end without a message.
const MAX_REFUSED: usize = 256;
