//! The queries to one agent and the responses to them (`docs/protocol-fodc.md`, R-120 to R-131).
//!
//! A machine without clock or sockets.

mod pending;
mod slices;

use std::{collections::VecDeque, time::Duration};

use steadfast_session::Time;

use self::pending::PendingQuery;
pub(super) use self::slices::{Density, SliceShare, sending_max};
use super::{
    query::{MetricNames, Outcome, Query, Reason, Request, ResponsePart},
    time::UnixNanos,
};

/// An effect that the caller performs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action<T, D> {
    /// Sends a request to the agent.
    Send(Request),
    /// Ends the stream of this generation.
    EndStream(u64),
    /// Gives a waiter its outcome.
    Resolve(T, Outcome<D>),
}

/// What the end of a stream says about the size of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// A response exceeded the message limit.
    TooLarge,
    /// The listener had no memory for a response within the limit.
    NoMemory,
    /// Nothing, unless a response was owed.
    Other,
}

/// Limits of a [`QueryQueue`].
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryLimits {
    /// Time without a sign of life after which an agent that owes its latest values counts as
    /// unresponsive.
    pub(super) latest_timeout: Duration,
    /// The same for an agent that owes a window.
    pub(super) window_timeout: Duration,
    /// Time without a sign of life after which the stream is ended.
    pub(super) abandon_after: Duration,
    /// The size in bytes that one slice of a window of a plain agent is never expected to exceed.
    pub(super) slice_bytes: usize,
}

/// The state of an agent that outlives its registration.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CarriedState {
    pub(super) unresponsive: bool,
    /// It is unresponsive although bytes of a response arrive: they take longer than is allowed.
    dripping: bool,
    density: Density,
}

/// Time without a sign of life after which an agent that owes a window no longer counts as sending it: it
/// may be looking for the samples, and nothing waits behind that.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest time for which an agent counts as sending its window. One that takes longer is slow: it takes little
/// of the proxy's time, and others must not wait for it.
const TURN: Duration = Duration::from_secs(1);

/// Signs of life extend the time for a response to this many times its timeout, and no further.
const EXTENSION: u32 = 2;

/// The queries to one agent: one request at a time, and a queue behind it.
///
/// `T` identifies a waiter, `D` is the data of a response part.
///
/// ```text
///               stream opened             query
///   NoStream ──────────────────> Idle ───────────> Outstanding, query
///      ^                          ^                 │          │ deadline passes
///      │                          │    last part    │          v
///      │                          ├─────────────────┘     Outstanding, no query
///      │                          │    last part (discarded)   │  │
///      │                          └────────────────────────────┘  │
///      └──────────────────────────────────────────────────────────┘
///        stream ended, nothing for `abandon_after`, too many unrequested parts
/// ```
///
/// Beside that, the agent is *unresponsive* once it owes a response that nobody waits for any more,
/// and has shown no sign of life for the request's timeout, or has taken [`EXTENSION`] times as long.
/// It is then sent probes, and queries fail at once, until any response; except that after bytes that
/// only dripped the response has to be in time.
///
/// A query for the latest values goes before windows, also between two slices of one. Windows wait for
/// [`QueryQueue::start_window`]: the caller knows how many other agents are sending one.
#[derive(Debug)]
pub(super) struct QueryQueue<T, D> {
    limits: QueryLimits,
    state: State<T, D>,
    /// Empty unless the state is `Outstanding`.
    waiting: VecDeque<PendingQuery<T, D>>,
    carried: CarriedState,
    last_id: u64,
    responded: Option<Time>,
    discarded: u64,
}

#[derive(Debug, Default)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each agent, and a query would allocate it again and again"
)]
enum State<T, D> {
    #[default]
    NoStream,
    Idle(Stream),
    Outstanding {
        stream: Stream,
        request: Request,
        asked: Time,
        /// The time of the request or of the last sign of life: bytes of a response, or, while a window
        /// is owed, a heartbeat.
        alive: Time,
        /// Bytes of a response have arrived.
        has_progressed: bool,
        bytes: usize,
        samples: usize,
        /// The query that the request serves; `None` if nobody waits for the response.
        query: Option<PendingQuery<T, D>>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    generation: u64,
    profile: bool,
    unrequested: u32,
}

/// The number of different queries of one kind that may wait for one agent: windows leave capacity for
/// the latest values, and the other way round.
const MAX_WAITING: usize = 16;

/// The number of waiters that may share one query.
const MAX_WAITERS: usize = 64;

/// The number of unrequested messages after which a stream is ended.
const MAX_UNREQUESTED: u32 = 64;

impl<T, D> QueryQueue<T, D> {
    pub(super) fn new(limits: QueryLimits, carried: CarriedState) -> Self {
        Self {
            limits,
            state: State::NoStream,
            waiting: VecDeque::new(),
            carried,
            last_id: 0,
            responded: None,
            discarded: 0,
        }
    }

    /// Sends requests on this stream from now on. The query under way on an older stream starts anew.
    pub(super) fn on_stream_opened(
        &mut self,
        now: Time,
        generation: u64,
        profile: bool,
        out: &mut Vec<Action<T, D>>,
    ) {
        debug_assert!(
            self.generation() < Some(generation),
            "generations only grow"
        );
        // The older stream may have lost the request, and its response would be taken for one to a
        // request of the new stream.
        if let State::Outstanding {
            query: Some(mut interrupted),
            ..
        } = std::mem::take(&mut self.state)
        {
            interrupted.restart();
            // Before the others of its kind: its waiters have waited longest.
            let index = match interrupted.query {
                Query::Latest => 0,
                Query::Window(_) => self.first_window(),
            };
            self.waiting.insert(index, interrupted);
        }
        let stream = Stream {
            generation,
            profile,
            unrequested: 0,
        };
        self.start_next(now, stream, false, out);
        // A query that was waiting is as good as a probe; only an idle stream needs one.
        self.probe_if_unresponsive(now, out);
    }

    /// Reacts to the end of the stream of this generation.
    pub(super) fn on_stream_closed(
        &mut self,
        generation: u64,
        end: StreamEnd,
        out: &mut Vec<Action<T, D>>,
    ) {
        // The end of a superseded stream says nothing about the request on the newer one.
        if self.generation() != Some(generation) {
            return;
        }
        let is_too_dense = match end {
            StreamEnd::TooLarge => true,
            StreamEnd::NoMemory => false,
            // Some agents end the stream themselves instead of sending a message that is too long for
            // them, so any end while a slice is owed may mean that.
            StreamEnd::Other => self.owes_slice(),
        };
        if is_too_dense {
            self.carried.density.on_too_dense();
        }
        self.lose_stream(Reason::StreamEnded, out);
    }

    /// Queues a query at `now`, which the wall clock calls `wall`. The waiter is resolved exactly once:
    /// now, by a later call, or by [`QueryQueue::on_tick`] at its deadline.
    pub(super) fn enqueue(
        &mut self,
        (now, wall): (Time, UnixNanos),
        (query, share): (Query, SliceShare),
        names: &MetricNames,
        (waiter, deadline): (T, Time),
        out: &mut Vec<Action<T, D>>,
    ) {
        if matches!(self.state, State::NoStream) {
            return out.push(missing(waiter, Reason::NoStream));
        }
        // A page of all agents must not wait for this one. After bytes that only dripped it owes
        // nothing, and only another probe can show that it is in time again.
        if self.carried.unresponsive {
            self.probe_if_unresponsive(now, out);
            return out.push(missing(waiter, Reason::Unresponsive));
        }
        let first_window = self.first_window();
        let (waiting, index) = match query {
            Query::Latest => (first_window, first_window),
            Query::Window(_) => (self.waiting.len() - first_window, self.waiting.len()),
        };
        let has_capacity = waiting < MAX_WAITING;
        let current = match &mut self.state {
            State::NoStream | State::Idle(_) => None,
            State::Outstanding { query, .. } => query.as_mut(),
        };
        // The outstanding query is shared as well: another one would have to wait for its response
        // first.
        let same = current
            .into_iter()
            .chain(&mut self.waiting)
            .find(|pending| pending.query == query && pending.names == *names);
        match same {
            Some(pending) if pending.waiters.len() < MAX_WAITERS => {
                pending.waiters.push((waiter, deadline));
            }
            None if has_capacity => {
                let names = names.clone();
                let pending = PendingQuery::new((query, share), names, (waiter, deadline), wall);
                self.waiting.insert(index, pending);
                if let State::Idle(stream) = self.state {
                    self.start_next(now, stream, false, out);
                }
            }
            // A query with too many waiters is not queued twice: that would only move the limit.
            Some(_) | None => out.push(missing(waiter, Reason::Busy)),
        }
    }

    /// Returns true if a window can be requested.
    pub(super) fn wants_window(&self) -> bool {
        matches!(self.state, State::Idle(_)) && !self.waiting.is_empty()
    }

    /// Requests the next window, or the next slice of one.
    pub(super) fn start_window(&mut self, now: Time, out: &mut Vec<Action<T, D>>) {
        if let State::Idle(stream) = self.state {
            self.start_next(now, stream, true, out);
        }
    }

    /// Returns true while a window arrives, but not for longer than [`TURN`] after its request.
    pub(super) fn is_sending_window(&self, now: Time) -> bool {
        matches!(&self.state, State::Outstanding { request, asked, alive, .. }
            if matches!(request.query, Query::Window(_))
                && now.since(*alive) < PAUSE
                && now.since(*asked) < TURN)
    }

    /// Returns true if somebody waits for a message that arrives now on this stream.
    pub(super) fn is_waiting_on(&self, generation: u64) -> bool {
        matches!(&self.state, State::Outstanding { stream, query: Some(_), .. }
            if stream.generation == generation)
    }

    /// Takes a message that arrived on the stream of this generation.
    pub(super) fn on_part(
        &mut self,
        now: Time,
        generation: u64,
        part: ResponsePart<D>,
        out: &mut Vec<Action<T, D>>,
    ) {
        if self.generation() != Some(generation) {
            self.discarded += 1;
            return;
        }
        match &mut self.state {
            State::Outstanding {
                stream,
                request,
                alive,
                has_progressed,
                bytes,
                samples,
                query,
                ..
                // A plain agent sends no id. It responds in order, and has only one request.
            } if !stream.profile || request.id == part.request_id => {
                *alive = now;
                *has_progressed = true;
                *bytes += part.bytes;
                *samples += part.samples;
                match query {
                    Some(query) => {
                        query.parts.push(part.data);
                        if part.from.is_some() {
                            query.incomplete = Some(Reason::Truncated);
                        }
                    }
                    None => self.discarded += 1,
                }
                // A plain agent responds with one message, whatever a later release puts into this
                // field.
                if !(part.more && stream.profile) {
                    self.on_response_complete(now, out);
                }
            }
            // A correct agent does not get here: a late response finds its request still
            // outstanding.
            State::Outstanding { stream, .. } | State::Idle(stream) => {
                self.discarded += 1;
                stream.unrequested += 1;
                if stream.unrequested >= MAX_UNREQUESTED {
                    out.push(Action::EndStream(generation));
                    self.lose_stream(Reason::StreamEnded, out);
                }
            }
            State::NoStream => unreachable!("a generation has a stream"),
        }
    }

    /// Takes note of bytes of a message that is not complete yet.
    pub(super) fn on_progress(&mut self, now: Time, generation: u64) {
        if let State::Outstanding {
            stream,
            alive,
            has_progressed,
            ..
        } = &mut self.state
            && stream.generation == generation
        {
            *alive = now;
            *has_progressed = true;
        }
    }

    /// Takes note of a heartbeat: an agent that is busy with a window is not dead. The latest values
    /// keep no agent busy: one that beats without sending them may never do so.
    pub(super) fn on_heartbeat(&mut self, now: Time) {
        if let State::Outstanding { alive, request, .. } = &mut self.state
            && matches!(request.query, Query::Window(_))
        {
            *alive = now;
        }
    }

    /// Takes a message that did not fit into memory as a whole. Its query completes with the part
    /// that did.
    pub(super) fn on_dropped_part(
        &mut self,
        now: Time,
        generation: u64,
        mut part: ResponsePart<D>,
        out: &mut Vec<Action<T, D>>,
    ) {
        if self.is_waiting_on(generation)
            && let State::Outstanding {
                query: Some(query), ..
            } = &mut self.state
        {
            query.incomplete = Some(Reason::MemoryExhausted);
            // The next slice would not fit either, and other agents need what is left.
            query.skip_rest();
        }
        // `on_part` would otherwise report an omission of the agent as the reason.
        part.from = None;
        self.on_part(now, generation, part, out);
    }

    /// Acts on the deadlines that have passed.
    pub(super) fn on_tick(&mut self, now: Time, out: &mut Vec<Action<T, D>>) {
        let measured_for = self.is_measuring().then(|| self.first_window());
        if let State::Outstanding { query, .. } = &mut self.state {
            if let Some(pending) = query {
                pending.expire(now, Reason::Late, out);
            }
            // The request stays outstanding: its response is still to come, and belongs to no later
            // query.
            query.take_if(|pending| pending.waiters.is_empty());
        }
        for (index, pending) in self.waiting.iter_mut().enumerate() {
            // An agent that was asked was slow; behind it, the queries before it were.
            let is_asked = !pending.parts.is_empty() || measured_for == Some(index);
            let reason = if is_asked { Reason::Late } else { Reason::Busy };
            pending.expire(now, reason, out);
        }
        self.waiting.retain(|pending| !pending.waiters.is_empty());
        self.check_responsiveness(now, out);
    }

    /// Judges an agent that owes a response.
    fn check_responsiveness(&mut self, now: Time, out: &mut Vec<Action<T, D>>) {
        let State::Outstanding {
            stream,
            request,
            asked,
            alive,
            has_progressed,
            query,
            ..
        } = &self.state
        else {
            return;
        };
        let (silent, owed) = (now.since(*alive), now.since(*asked));
        let limit = self.limits.timeout(request.query);
        // Signs of life extend the first limit again and again; this one bounds an agent that only
        // drips.
        let is_over_time = owed >= limit * EXTENSION;
        if query.is_none() && (silent >= limit || is_over_time) {
            self.carried.unresponsive = true;
            self.carried.dripping |= is_over_time && *has_progressed;
        }
        // The stream of an agent that drips is of no more use than that of a silent one.
        let abandon_after = self.limits.abandon_after;
        if silent >= abandon_after || owed >= abandon_after * EXTENSION {
            self.carried.unresponsive = true;
            out.push(Action::EndStream(stream.generation));
            // Plain agents only log a response that they cannot send, so that silence may mean the
            // same.
            if self.owes_slice() {
                self.carried.density.on_too_dense();
            }
            self.lose_stream(Reason::Late, out);
        }
    }

    pub(super) fn carried_state(&self) -> CarriedState {
        self.carried
    }

    /// Returns the generation of the stream that requests are sent on.
    pub(super) fn generation(&self) -> Option<u64> {
        match &self.state {
            State::NoStream => None,
            State::Idle(stream) | State::Outstanding { stream, .. } => Some(stream.generation),
        }
    }

    /// Returns true if a request has not been responded to.
    pub(super) fn is_outstanding(&self) -> bool {
        matches!(self.state, State::Outstanding { .. })
    }

    pub(super) fn is_unresponsive(&self) -> bool {
        self.carried.unresponsive
    }

    /// Returns the time of the last response to a request.
    pub(super) fn responded(&self) -> Option<Time> {
        self.responded
    }

    /// Returns an estimate of the bytes of the latest values.
    pub(super) fn latest_bytes(&self) -> usize {
        self.carried.density.latest_bytes() as usize
    }

    /// Returns the number of messages that nobody waited for.
    pub(super) fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Returns true if the latest values are owed whose size the next window needs.
    fn is_measuring(&self) -> bool {
        !self.carried.density.is_known()
            && matches!(&self.state, State::Outstanding { stream, request, query: None, .. }
                if !stream.profile && request.query == Query::Latest)
    }

    /// Returns true if a part of a window is owed by an agent that cannot split its response.
    fn owes_slice(&self) -> bool {
        matches!(&self.state, State::Outstanding { stream, request, .. }
            if !stream.profile && matches!(request.query, Query::Window(_)))
    }

    /// Returns the index in the queue behind all queries for the latest values, which go first.
    fn first_window(&self) -> usize {
        let is_window = |pending: &PendingQuery<T, D>| matches!(pending.query, Query::Window(_));
        let found = self.waiting.iter().position(is_window);
        found.unwrap_or(self.waiting.len())
    }

    fn lose_stream(&mut self, reason: Reason, out: &mut Vec<Action<T, D>>) {
        let current = match std::mem::take(&mut self.state) {
            State::Outstanding { query, .. } => query,
            State::NoStream | State::Idle(_) => None,
        };
        // Waiting queries fail as well: whether the agent opens another stream in time is unknown.
        for pending in current.into_iter().chain(self.waiting.drain(..)) {
            pending.finish(Some(reason), out);
        }
    }

    /// Sends a request that nobody waits for, to learn whether the agent responds again.
    fn probe_if_unresponsive(&mut self, now: Time, out: &mut Vec<Action<T, D>>) {
        if let State::Idle(stream) = self.state
            && self.carried.unresponsive
        {
            let all = MetricNames::default();
            self.send(now, stream, Query::Latest, all, None, out);
        }
    }

    /// Starts or continues the next query on a stream without a request. Only with `may_send_window` it
    /// may be one for a window.
    fn start_next(
        &mut self,
        now: Time,
        stream: Stream,
        may_send_window: bool,
        out: &mut Vec<Action<T, D>>,
    ) {
        self.state = State::Idle(stream);
        if !may_send_window && self.first_window() == 0 {
            return;
        }
        let Some(mut next) = self.waiting.pop_front() else {
            return;
        };
        let density = self.carried.density;
        let window = if stream.profile {
            // It can split its response, so that it gets the whole window.
            next.take_window()
        } else if next.has_rest() && !density.is_known() {
            // A window of unknown size may be longer than the agent can send, and some never come back
            // from that. The size of its latest values is a safe estimate.
            self.waiting.push_front(next);
            let all = MetricNames::default();
            return self.send(now, stream, Query::Latest, all, None, out);
        } else {
            next.take_slice(density, self.limits.slice_bytes)
        };
        let query = window.map_or(Query::Latest, Query::Window);
        let names = next.names.clone();
        self.send(now, stream, query, names, Some(next), out);
    }

    fn send(
        &mut self,
        now: Time,
        stream: Stream,
        query: Query,
        names: MetricNames,
        pending: Option<PendingQuery<T, D>>,
        out: &mut Vec<Action<T, D>>,
    ) {
        // Never 0, which is the id of a response without one.
        self.last_id += 1;
        let request = Request {
            generation: stream.generation,
            id: self.last_id,
            query,
            names,
            profile: stream.profile,
        };
        out.push(Action::Send(request.clone()));
        self.state = State::Outstanding {
            stream,
            request,
            asked: now,
            alive: now,
            has_progressed: false,
            bytes: 0,
            samples: 0,
            query: pending,
        };
    }

    fn on_response_complete(&mut self, now: Time, out: &mut Vec<Action<T, D>>) {
        let State::Outstanding {
            stream,
            request,
            asked,
            bytes,
            samples,
            query,
            ..
        } = std::mem::take(&mut self.state)
        else {
            unreachable!("a response completes a request");
        };
        self.responded = Some(now);
        let limit = self.limits.timeout(request.query) * EXTENSION;
        // After a drip, a response that is late again does not show that the next will be in time.
        if !self.carried.dripping || now.since(asked) < limit {
            self.carried.unresponsive = false;
            self.carried.dripping = false;
        }
        // The size of a response with some of the series says nothing about one with all.
        if !request.profile || request.names.list().is_empty() {
            let density = &mut self.carried.density;
            match request.query {
                Query::Latest => density.learn_latest(bytes, samples),
                Query::Window(window) => density.learn(window, bytes, samples),
            }
        }
        if let Some(mut pending) = query {
            if let Query::Window(slice) = request.query {
                pending.on_slice(slice, samples == 0);
            }
            if pending.has_rest() {
                // Queries for the latest values do not wait for all of a window.
                self.waiting.insert(self.first_window(), pending);
            } else {
                pending.finish(None, out);
            }
        }
        self.start_next(now, stream, false, out);
    }
}

impl QueryLimits {
    fn timeout(&self, query: Query) -> Duration {
        match query {
            Query::Latest => self.latest_timeout,
            Query::Window(_) => self.window_timeout,
        }
    }
}

fn missing<T, D>(waiter: T, reason: Reason) -> Action<T, D> {
    Action::Resolve(waiter, Outcome::Missing(reason))
}

#[cfg(test)]
mod tests;
