//! The server without its sockets: streams, subscriptions, and who gets which change.
//!
//! ```text
//!   driver ── Input ──> Hub::step ── Action ──> driver
//!   (gRPC, log, clock)                 Send, End, Read
//! ```
//!
//! The hub never reads a clock, never waits and never touches a socket or the log; it is told what
//! happened and answers with what to do. Two runs with the same inputs give the same actions.
//!
//! Each subscription is either *live*, and gets a change when it is committed, or *behind* one place
//! of the log, because its credit was used up, its stream's queue was full, or it began in the past.
//! What it is behind of stays in the log and is read from there, a page at a time per stream; a slow
//! subscriber costs a place, never queued changes, and nobody waits for it.
//!
//! With a peer that began with `hello` every subscription id belongs to its session, and a newer
//! attempt of the session ends the older stream (R-31). All other peers share one namespace of ids,
//! in which the newest stream that subscribed an id holds it (R-21).

mod backlog;
mod catch_up;
mod credit;
mod delivery;
mod end;
mod limits;
mod page;
mod progress;
mod session;
mod stats;
mod stream;
mod subscription;
mod timers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};
use steadfast_session::Time;
use steadfast_wire::streamer::{GatewayMessage, StreamerMessage, gateway_message};

pub use self::{
    catch_up::ReadFault,
    end::{EndCode, EndStatus},
    limits::{InvalidLimits, Limits},
    stats::{Counters, Held, Stats},
};
use self::{
    catch_up::{Reading, Reads},
    delivery::Tail,
    end::{Cause, Misuse},
    session::Fence,
    stream::{Peer, Stream},
    subscription::Subscription,
    timers::{Agenda, Drain},
};
use crate::{
    Bounds, Epoch, Event, Position,
    matcher::{Matcher, SubscriptionKey},
};

/// Names one stream. The driver counts them up, so that the greater of two was opened later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Names one read of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Where a hub begins.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Names the server process to its peers; informative.
    pub server_id: String,
    /// Names the log.
    pub epoch: Epoch,
    /// What the log holds now; everything later comes as [`Input::Committed`].
    pub bounds: Bounds,
    /// Makes the ids of subscriptions that came without one: UUIDs of version 4 whose bits are a
    /// `ChaCha12` keystream of this seed. Random per process in earnest, fixed in a test.
    pub seed: [u8; 32],
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A peer opened a stream.
    Opened {
        /// Which.
        stream: StreamId,
    },
    /// A message came.
    Message {
        /// On which stream.
        stream: StreamId,
        /// What.
        message: GatewayMessage,
    },
    /// The peer sends no more: it ended its half, or the connection is gone.
    Ended {
        /// Which stream.
        stream: StreamId,
    },
    /// Changes are durable in the log. In order, without holes.
    Committed {
        /// The changes.
        events: Vec<Arc<Event>>,
    },
    /// The log gave up its oldest changes.
    Trimmed {
        /// The oldest place that can be read from.
        first: u64,
    },
    /// A read is done.
    ReadDone {
        /// Which.
        ticket: Ticket,
        /// The changes after the wanted place, or why there are none.
        result: Result<Vec<Arc<Event>>, ReadFault>,
    },
    /// Messages left the queue of a stream.
    Sent {
        /// Which stream.
        stream: StreamId,
        /// The sum of what [`Action::Send`] said of them.
        bytes: usize,
        /// How many.
        messages: usize,
    },
    /// The server is to stop.
    Drain {
        /// When the last stream ends.
        deadline: Time,
        /// Why, for people.
        reason: String,
    },
    /// Time has passed. Only this input ends what is overdue. Messages that came earlier must be told
    /// earlier, or a peer that the driver had no time for is taken for a silent one.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Queue a message; one stream's messages are sent in the order of their actions.
    Send {
        /// On which stream.
        stream: StreamId,
        /// What.
        message: StreamerMessage,
        /// Its encoded size, to be told again with [`Input::Sent`].
        bytes: usize,
    },
    /// End a stream. There is exactly one for each stream opened, and nothing of the stream after it.
    End {
        /// Which.
        stream: StreamId,
        /// One more message before the status, for peers that understand it.
        last: Option<StreamerMessage>,
        /// The status.
        status: EndStatus,
        /// Whether what is queued is to be sent before, as far as it can be in a short time;
        /// otherwise it is thrown away and only `last` and the status are tried.
        flush: bool,
    },
    /// Read from the log and answer with [`Input::ReadDone`], also when the stream it is for has
    /// ended meanwhile.
    Read {
        /// Names the read.
        ticket: Ticket,
        /// The place to read after.
        after: u64,
        /// At most so many events.
        max_events: usize,
        /// About so many bytes.
        max_bytes: usize,
    },
}

/// The server's streams and subscriptions as one machine.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    server_id: String,
    epoch: Epoch,
    bounds: Bounds,
    /// The newest entry of the log that was found damaged; 0 for none.
    damaged: u64,
    now: Time,
    ids: ChaCha12Rng,
    next_key: u64,
    streams: BTreeMap<StreamId, Stream>,
    /// Streams that are only told that they are not taken; not counted among the others.
    refused: BTreeSet<StreamId>,
    subscriptions: BTreeMap<SubscriptionKey, Subscription>,
    matcher: Matcher,
    /// Ids of plain peers and the subscription that owns each.
    plain: BTreeMap<Arc<str>, SubscriptionKey>,
    sessions: BTreeMap<Arc<str>, Fence>,
    tail: Tail,
    reads: Reads,
    agenda: Agenda,
    drain: Option<Drain>,
    counters: Counters,
    /// Room for one event's matches, kept to spare allocations.
    matched: Vec<SubscriptionKey>,
    grouped: Vec<(StreamId, SubscriptionKey)>,
}

impl Hub {
    /// A hub without streams.
    ///
    /// # Errors
    ///
    /// When the limits can not work together.
    pub fn new(origin: Origin, limits: Limits) -> Result<Self, InvalidLimits> {
        limits.check()?;
        let (hash_seed, _) = origin.seed.as_chunks::<8>();
        Ok(Self {
            tail: Tail::new(limits.tail_events, limits.tail_bytes),
            limits,
            server_id: origin.server_id,
            epoch: origin.epoch,
            bounds: origin.bounds,
            damaged: 0,
            now: Time::ZERO,
            ids: ChaCha12Rng::from_seed(origin.seed),
            next_key: 0,
            streams: BTreeMap::new(),
            refused: BTreeSet::new(),
            subscriptions: BTreeMap::new(),
            matcher: Matcher::new(u64::from_le_bytes(hash_seed[0])),
            plain: BTreeMap::new(),
            sessions: BTreeMap::new(),
            reads: Reads::default(),
            agenda: Agenda::default(),
            drain: None,
            counters: Counters::default(),
            matched: Vec::new(),
            grouped: Vec::new(),
        })
    }

    /// Takes one input, adds what is to be done to `out`, and says when the next
    /// [`Input::Tick`] is due; that may be now, or be past.
    ///
    /// Inputs about streams that have ended are ignored: they were under way. Time never goes back;
    /// an earlier `now` counts as the latest one.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Action>) -> Option<Time> {
        self.now = self.now.max(now);
        match input {
            Input::Opened { stream } => self.on_opened(stream, out),
            Input::Message { stream, message } => self.on_message(stream, message, out),
            Input::Ended { stream } => self.end(stream, &Cause::Finished, out),
            Input::Committed { events } => self.on_committed(events, out),
            Input::Trimmed { first } => self.bounds.first = self.bounds.first.max(first),
            Input::ReadDone { ticket, result } => self.on_read_done(ticket, result, out),
            Input::Sent {
                stream,
                bytes,
                messages,
            } => self.on_sent(stream, bytes, messages, out),
            Input::Drain { deadline, reason } => self.on_drain(deadline, reason, out),
            Input::Tick => self.fire(out),
        }
        self.start_reads(out);
        self.deadline()
    }

    /// The newest place.
    #[must_use]
    pub fn head(&self) -> Position {
        Position::new(self.epoch, self.bounds.head)
    }

    /// What it was set up with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn on_opened(&mut self, id: StreamId, out: &mut Vec<Action>) {
        debug_assert!(
            !self.streams.contains_key(&id),
            "a stream id was used again"
        );
        let refusal = if let Some(drain) = &self.drain {
            Some(Cause::Drained(drain.reason.clone()))
        } else if self.streams.len() - self.refused.len() >= self.limits.streams {
            Some(Cause::Full {
                limit: self.limits.streams,
            })
        } else {
            None
        };
        self.streams.insert(id, Stream::new(self.now));
        self.counters.opened += 1;
        if let Some(cause) = refusal {
            self.refuse(id, cause, out);
        }
    }

    /// Turns a stream away. It is heard for a moment more, because a peer that begins with hello is
    /// owed a final message with the time to come back at, and another must not be sent one.
    fn refuse(&mut self, id: StreamId, cause: Cause, out: &mut Vec<Action>) {
        if self.refused.len() >= REFUSED_AT_ONCE {
            return self.end(id, &cause, out);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.peer = Peer::Refused {
                cause,
                until: self.now + REFUSAL_TIME,
            };
            self.refused.insert(id);
            self.arm(id);
        }
    }

    fn on_message(&mut self, id: StreamId, message: GatewayMessage, out: &mut Vec<Action>) {
        use gateway_message::Payload;

        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.heard = self.now;
        let Some(payload) = message.payload else {
            return;
        };
        match &payload {
            Payload::Hello(_) | Payload::Credit(_) => stream.speaks_profile = true,
            Payload::Subscribe(_) | Payload::Unsubscribe(_) | Payload::Heartbeat(_) => {
                stream.peer.settle_plain();
            }
        }
        if let Peer::Refused { cause, .. } = &stream.peer {
            let cause = cause.clone();
            return self.end(id, &cause, out);
        }
        match payload {
            Payload::Hello(hello) => self.on_hello(id, hello, out),
            Payload::Credit(credit) => self.on_credit(id, &credit, out),
            Payload::Heartbeat(heartbeat) => self.on_heartbeat(id, &heartbeat, out),
            Payload::Subscribe(request) => self.on_subscribe(id, request, out),
            Payload::Unsubscribe(request) => self.on_unsubscribe(id, request, out),
        }
        self.check_queue(id, out);
        self.arm(id);
    }

    fn on_sent(&mut self, id: StreamId, bytes: usize, messages: usize, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.outbox.sent(self.now, bytes, messages, &self.limits);
        self.want_read(id);
        self.end_if_settled(id, out);
    }

    /// Ends a stream whose peer asks faster than it reads. Its answers are never dropped one by one,
    /// and reading from it never waits for them.
    fn check_queue(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let limit = self.limits.outbound_bytes;
        if let Some(stream) = self.streams.get(&id)
            && stream.outbox.bytes() > limit
        {
            let unsent = stream.outbox.bytes();
            self.end(id, &Cause::Unread { unsent, limit }, out);
        }
    }

    /// Ends a stream and frees everything it holds. Nothing happens if it has ended.
    fn end(&mut self, id: StreamId, cause: &Cause, out: &mut Vec<Action>) {
        let Some(stream) = self.release(id) else {
            return;
        };
        self.counters.count_end(cause);
        out.push(Action::End {
            stream: id,
            last: stream
                .speaks_profile
                .then(|| cause.last(&self.limits))
                .flatten(),
            status: cause.status(),
            flush: cause.flushes(),
        });
    }

    /// Takes a stream out of everything that knows it.
    fn release(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        for (name, key) in &stream.ids {
            self.subscriptions.remove(key);
            self.matcher.remove(*key);
            if self.plain.get(name) == Some(key) {
                self.plain.remove(name);
            }
        }
        match &stream.peer {
            Peer::Profile(profile) => {
                if self
                    .sessions
                    .get(&profile.session)
                    .is_some_and(|fence| fence.stream == id)
                {
                    self.sessions.remove(&profile.session);
                }
            }
            Peer::Refused { .. } => {
                self.refused.remove(&id);
            }
            Peer::Unknown | Peer::Plain => {}
        }
        if let Reading::Waiting(turn) = stream.reading {
            self.reads.forget(turn);
        }
        self.agenda.disarm(id, stream.armed);
        Some(stream)
    }

    fn misuse(&mut self, id: StreamId, misuse: Misuse, out: &mut Vec<Action>) {
        self.end(id, &Cause::Misuse(misuse), out);
    }
}

/// Streams that are being turned away at one time; more are ended before they have said anything.
const REFUSED_AT_ONCE: usize = 256;
/// How long a stream that is turned away has for its first message.
const REFUSAL_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
