//! The beginning of a profile stream, and the fence between the streams of one session.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use steadfast_wire::streamer::{Hello, Welcome, streamer_message::Payload};

use super::{Action, Cause, Hub, Misuse, Peer, StreamId, end::millis, stream::Profile};

/// The stream that holds a session. It is kept only as long as the stream: a late attempt can do
/// harm only while there is a newer one to displace.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) stream: StreamId,
    pub(super) attempt: u64,
}

impl Hub {
    pub(super) fn on_hello(&mut self, id: StreamId, hello: Hello, out: &mut Vec<Action>) {
        if let Err(misuse) = self.check_hello(id, &hello) {
            return self.misuse(id, misuse, out);
        }
        let session: Arc<str> = hello.session_id.into();
        let attempt = hello.attempt;
        let held = self
            .sessions
            .get(&session)
            .map(|fence| (fence.stream, fence.attempt));
        let mut inherited = BTreeSet::new();
        if let Some((older, current)) = held {
            if attempt <= current {
                return self.end(id, &Cause::Late { attempt, current }, out);
            }
            if let Some(older) = self.streams.get(&older) {
                inherited = older.ids.keys().cloned().collect();
            }
            self.end(older, &Cause::Fenced { by: attempt }, out);
        }
        self.sessions.insert(
            Arc::clone(&session),
            Fence {
                stream: id,
                attempt,
            },
        );
        let asked = Duration::from_millis(hello.heartbeat_interval_ms.into());
        let interval = if asked.is_zero() {
            HEARTBEAT_DEFAULT
        } else {
            asked
        };
        let interval = interval.clamp(self.limits.heartbeat_min, self.limits.heartbeat_max);
        let welcome = Welcome {
            version: VERSION,
            server_id: self.server_id.clone(),
            head: Some(self.wire_position(self.bounds.head)),
            heartbeat_interval_ms: if interval == asked {
                0
            } else {
                millis(interval)
            },
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.peer = Peer::Profile(Profile { session, inherited });
        stream.silence = Some(interval * SILENT_INTERVALS);
        stream.progress.next = self.now + self.limits.progress_interval;
        stream.send(self.now, id, Payload::Welcome(welcome), &self.limits, out);
    }

    fn check_hello(&self, id: StreamId, hello: &Hello) -> Result<(), Misuse> {
        let limit = self.limits.id_bytes;
        match self.streams.get(&id).map(|stream| &stream.peer) {
            Some(Peer::Unknown) | None => {}
            Some(Peer::Plain | Peer::Profile(_) | Peer::Refused { .. }) => {
                return Err(Misuse::HelloNotFirst);
            }
        }
        if hello.version == 0 {
            Err(Misuse::Version)
        } else if hello.session_id.is_empty() || hello.session_id.len() > limit {
            Err(Misuse::Session { limit })
        } else if hello.attempt == 0 {
            Err(Misuse::Attempt)
        } else {
            Ok(())
        }
    }
}

/// The version of the profile spoken here. A peer with a newer one speaks this one with us.
const VERSION: u32 = 1;
/// The interval given to a peer that names none.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(30);
/// Intervals without a message after which a peer is given up.
pub(super) const SILENT_INTERVALS: u32 = 3;
