//! The streams of an agent on which the proxy queries it, other than its metrics stream: one type for each
//! kind, and for each agent and kind a [`Lane`] with a state of its own. A stream that fails, or an
//! agent that does not respond on it, affects no other stream.
//!
//! A kind is added in four steps: a [`StreamKind`] that implements [`LaneKind`] here, its field in [`Lanes`], its
//! method in `rpc.rs`, and a module that calls `stream_queries::query` and serves the result.
//! [`LaneKind::place`] tells which message completes a response. Limits: [`WAITING_MAX`] queries
//! wait for a stream, each caller has a deadline, a message has at most `max_message_bytes`, and
//! all messages in memory share `stream_bytes`. A caller that falls behind stops the reading of that
//! stream alone, for at most [`READER_TIMEOUT`].

mod diagnostics;
mod lane;

use std::time::Duration;

pub(super) use steadfast_fodc_model::stream_kind::{
    Crashes, Lifecycle, Profiles, SchemaRegistry, StreamKind, Topology,
};
use steadfast_session::Time;
use tokio::sync::mpsc;
use tonic::Status;

use self::lane::{Action, Lane};
pub(super) use self::lane::{Delivery, Part, QueryError, WAITING_MAX};
use super::{frames::Outbound, samples::Reservation};

/// A kind of stream, as the proxy queries it.
pub(super) trait LaneKind: StreamKind {
    /// Time for which the rest of a response is awaited after its caller has given up. Until then no
    /// other query is sent, and afterwards the stream is ended. Zero if a late message does no harm: the
    /// next query is sent at once, and the message counts as its response.
    const OWED_FOR: Duration;

    /// Returns the place of a message in the response to `query`.
    fn place(query: &Self::Query, message: &Self::Response) -> Part;

    /// Returns the lane of this kind.
    fn wire(lanes: &mut Lanes) -> &mut Wire<Self>;
}

/// The lanes of one agent, by kind.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) topology: Wire<Topology>,
    pub(super) lifecycle: Wire<Lifecycle>,
    pub(super) crashes: Wire<Crashes>,
    pub(super) profiles: Wire<Profiles>,
    pub(super) schema: Wire<SchemaRegistry>,
}

/// A lane and the streams that it sends on.
#[derive(Debug)]
pub(super) struct Wire<K: LaneKind> {
    lane: Lane<K::Query, PartSender<K>>,
    /// By generation: hardly ever more than one.
    streams: Vec<(u64, Outbound)>,
}

/// A message of a response, and the memory that it takes.
#[derive(Debug)]
pub(super) struct Message<M> {
    pub(super) body: M,
    pub(super) reservation: Reservation,
}

/// Takes the parts of one response.
pub(super) type PartSender<K> = mpsc::Sender<ResponsePart<K>>;

/// A message, and true with the last one.
pub(super) type ResponsePart<K> = Result<(Message<<K as StreamKind>::Response>, bool), QueryError>;

/// Memory that a part of a message takes for each byte of its encoding, about.
pub(super) const DECODED_FACTOR: usize = 4;

/// Longest time for which a caller that takes no part stops the reading of its stream. An original agent
/// that cannot send on one stream sends no heartbeats either.
pub(super) const READER_TIMEOUT: Duration = Duration::from_secs(10);

impl LaneKind for Topology {
    // Each message is a whole topology.
    const OWED_FOR: Duration = Duration::ZERO;

    fn place(_: &Self::Query, _: &Self::Response) -> Part {
        Part::Last
    }

    fn wire(lanes: &mut Lanes) -> &mut Wire<Self> {
        &mut lanes.topology
    }
}

impl LaneKind for Lifecycle {
    // Each message is a whole state, and an agent of the originals that fails sends none.
    const OWED_FOR: Duration = Duration::ZERO;

    fn place(_: &Self::Query, _: &Self::Response) -> Part {
        Part::Last
    }

    fn wire(lanes: &mut Lanes) -> &mut Wire<Self> {
        &mut lanes.lifecycle
    }
}

impl Lanes {
    pub(super) fn new(now: Time) -> Self {
        Self {
            topology: Wire::new(now),
            lifecycle: Wire::new(now),
            crashes: Wire::new(now),
            profiles: Wire::new(now),
            schema: Wire::new(now),
        }
    }

    pub(super) fn on_tick(&mut self, now: Time) {
        self.topology.step(|lane, out| lane.on_tick(now, out));
        self.lifecycle.step(|lane, out| lane.on_tick(now, out));
        self.crashes.step(|lane, out| lane.on_tick(now, out));
        self.profiles.step(|lane, out| lane.on_tick(now, out));
        self.schema.step(|lane, out| lane.on_tick(now, out));
    }
}

impl<K: LaneKind> Wire<K> {
    fn new(now: Time) -> Self {
        Self {
            lane: Lane::new(now, K::OWED_FOR),
            streams: Vec::new(),
        }
    }

    /// Sends queries on this stream from now on.
    pub(super) fn open(&mut self, generation: u64, outbound: Outbound) {
        // Exactly: a proxy holds five of these for each of its agents.
        self.streams.reserve_exact(1);
        self.streams.push((generation, outbound));
        self.step(|lane, out| lane.on_opened(generation, out));
    }

    /// Takes note that a stream has ended, with this status.
    pub(super) fn close(&mut self, generation: u64, status: &str) {
        self.take_stream(generation);
        self.step(|lane, out| lane.on_closed(generation, status, out));
    }

    fn take_stream(&mut self, generation: u64) -> Option<Outbound> {
        let at = self.streams.iter().position(|(of, _)| *of == generation)?;
        Some(self.streams.remove(at).1)
    }

    /// Returns true if the agent has a stream of the kind.
    pub(super) fn is_open(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Returns true if a message that begins now on this stream may belong to a response.
    pub(super) fn is_waiting_on(&self, generation: u64) -> bool {
        self.lane.is_waiting_on(generation)
    }

    /// Returns the query to which the agent owes a response.
    pub(super) fn outstanding(&self) -> Option<&K::Query> {
        self.lane.outstanding()
    }

    /// Fails the outstanding query of a stream.
    pub(super) fn fail(&mut self, now: Time, generation: u64, error: QueryError) {
        self.step(|lane, out| lane.fail(now, generation, error, out));
    }

    pub(super) fn enqueue(
        &mut self,
        now: Time,
        query: K::Query,
        sender: PartSender<K>,
    ) -> Result<u64, QueryError> {
        self.step(|lane, out| lane.enqueue(now, query, sender, out))
    }

    pub(super) fn release(&mut self, now: Time, query_id: u64) {
        self.step(|lane, out| lane.release(now, query_id, out));
    }

    /// Takes a message and returns its receiver.
    pub(super) fn on_message(
        &mut self,
        generation: u64,
        message: &K::Response,
    ) -> Delivery<PartSender<K>> {
        self.step(|lane, out| lane.on_message(generation, |query| K::place(query, message), out))
    }

    /// Steps the lane and performs its actions.
    fn step<T>(
        &mut self,
        step: impl FnOnce(
            &mut Lane<K::Query, PartSender<K>>,
            &mut Vec<Action<K::Query, PartSender<K>>>,
        ) -> T,
    ) -> T {
        let mut out = Vec::new();
        let result = step(&mut self.lane, &mut out);
        for action in out {
            match action {
                Action::Send(generation, query) => {
                    let stream = self.streams.iter().find(|(of, _)| *of == generation);
                    if let Some((_, outbound)) = stream {
                        outbound.send(&query);
                    }
                }
                // A full channel has a caller that reads slowly: the end of the channel tells it.
                Action::Fail(sender, error) => drop(sender.try_send(Err(error))),
                Action::EndStream(generation) => {
                    if let Some(outbound) = self.take_stream(generation) {
                        outbound.end(Status::aborted("no complete response for too long"));
                    }
                }
            }
        }
        result
    }
}
