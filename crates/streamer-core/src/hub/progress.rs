//! How a quiet subscription learns that the log moved on, and heartbeats, which carry it.

use std::time::Duration;

use steadfast_session::Time;
use steadfast_wire::streamer::{self as wire, Heartbeat, HeartbeatAck, streamer_message::Payload};

use super::{Action, Cause, Hub, StreamId, session::SILENT_INTERVALS};

/// The progress told on one stream. It holds for every subscription that was live at the time, so
/// that telling it costs nothing per subscription.
#[derive(Debug)]
pub(super) struct Progress {
    /// How often it was told.
    pub(super) count: u64,
    /// The last place told.
    pub(super) offset: u64,
    /// When to look whether there is something to tell.
    pub(super) next: Time,
}

impl Progress {
    pub(super) fn new(now: Time) -> Self {
        Self {
            count: 0,
            offset: 0,
            next: now,
        }
    }
}

impl Hub {
    pub(super) fn on_heartbeat(
        &mut self,
        id: StreamId,
        heartbeat: &Heartbeat,
        out: &mut Vec<Action>,
    ) {
        let progress = self.tell_progress(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.peer.is_profile() {
            // A plain peer does not say how often it means to send them: see how often it does.
            let own = stream
                .heartbeat
                .map_or(Duration::ZERO, |last| self.now - last);
            let own = (own * SILENT_INTERVALS).min(PLAIN_SILENCE_MAX);
            stream.silence = Some(own.max(self.limits.plain_silence));
        }
        stream.heartbeat = Some(self.now);
        let ack = Payload::HeartbeatAck(HeartbeatAck {
            timestamp: heartbeat.timestamp,
            progress,
        });
        stream.send(self.now, id, ack, &self.limits, out);
    }

    /// Tells a profile peer of a head that moved, unless its queue is full: it will be told of a
    /// later one. Ends the stream of a subscription that is too far behind.
    pub(super) fn look(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let head = self.bounds.head;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.progress.next = self.now + self.limits.progress_interval;
        if let (Some(limit), Some(lowest)) = (self.limits.max_lag, stream.backlog.lowest())
            && head - lowest > limit
        {
            let lag = head - lowest;
            return self.end(id, &Cause::Lagging { lag, limit }, out);
        }
        if stream.ids.is_empty() || stream.outbox.is_full() || stream.progress.offset >= head {
            return;
        }
        if let Some(progress) = self.tell_progress(id)
            && let Some(stream) = self.streams.get_mut(&id)
        {
            let progress = Payload::Progress(progress);
            stream.send(self.now, id, progress, &self.limits, out);
        }
    }

    /// The progress to tell a profile peer, counted as told. None if so many subscriptions are behind
    /// that naming them would cost more than it is worth.
    fn tell_progress(&mut self, id: StreamId) -> Option<wire::Progress> {
        let position = self.wire_position(self.bounds.head);
        let stream = self.streams.get_mut(&id)?;
        let behind = stream.backlog.len();
        if !stream.peer.is_profile() || behind > BEHIND_MAX || behind * 2 > stream.ids.len() {
            return None;
        }
        stream.progress.count += 1;
        stream.progress.offset = position.offset;
        self.counters.progress += 1;
        let names = stream.backlog.keys();
        Some(wire::Progress {
            position: Some(position),
            behind: names
                .filter_map(|key| Some(self.subscriptions.get(&key)?.id.to_string()))
                .collect(),
        })
    }
}

/// Names in one progress; 256 of the longest are 64 KiB.
const BEHIND_MAX: usize = 256;
/// Longest silence granted to a plain peer, however rare its heartbeats.
const PLAIN_SILENCE_MAX: Duration = Duration::from_secs(15 * 60);
