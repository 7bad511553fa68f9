//! The queries to one agent and the responses to them (`docs/protocol-fodc.md`, R-120 to R-131).
//!
//! A machine without clock or sockets.

mod slices;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use steadfast_session::Time;

pub(super) use self::slices::Density;
use self::slices::first_slice;
use super::{
    query::{MetricNames, Outcome, Query, Reason, Request, ResponsePart},
    time::Window,
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

/// Limits of a [`QueryQueue`].
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryLimits {
    /// Time without a response after which an agent counts as unresponsive.
    pub(super) unresponsive_after: Duration,
    /// Time without a response after which the stream is ended.
    pub(super) abandon_after: Duration,
    /// The size in bytes to aim at for one slice of a window of a plain agent.
    pub(super) slice_bytes: usize,
}

/// The state of an agent that outlives its registration.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CarriedState {
    pub(super) unresponsive: bool,
    pub(super) density: Density,
}

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
/// Beside that, the agent is *unresponsive* from `unresponsive_after` without a response that nobody
/// waits for any more, until any response. It is then sent probes, and queries fail at once.
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
enum State<T, D> {
    #[default]
    NoStream,
    Idle(Stream),
    Outstanding {
        stream: Stream,
        request: Request,
        /// The time of the request or of the last part.
        since: Time,
        bytes: usize,
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

#[derive(Debug)]
struct PendingQuery<T, D> {
    query: Query,
    names: MetricNames,
    waiters: Vec<(T, Time)>,
    parts: Vec<D>,
    /// The rest of the window that no request has covered yet.
    rest: Option<Window>,
    incomplete: Option<Reason>,
}

/// The number of different queries that may wait for one agent.
const MAX_WAITING: usize = 8;

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
            self.waiting.push_front(interrupted);
        }
        let stream = Stream {
            generation,
            profile,
            unrequested: 0,
        };
        self.start_next(now, stream, out);
        self.probe_if_unresponsive(now, out);
    }

    /// Reacts to the end of the stream of this generation. With `oversized` a response exceeded the
    /// message limit.
    pub(super) fn on_stream_closed(
        &mut self,
        generation: u64,
        oversized: bool,
        out: &mut Vec<Action<T, D>>,
    ) {
        if self.generation() != Some(generation) {
            return;
        }
        if oversized {
            self.carried.density.on_oversized();
        }
        self.lose_stream(Reason::StreamEnded, out);
    }

    /// Queues a query. The waiter is resolved exactly once: now, by a later call, or by
    /// [`QueryQueue::on_tick`] at its deadline.
    pub(super) fn enqueue(
        &mut self,
        now: Time,
        query: Query,
        names: &MetricNames,
        waiter: T,
        deadline: Time,
        out: &mut Vec<Action<T, D>>,
    ) {
        if matches!(self.state, State::NoStream) {
            return out.push(missing(waiter, Reason::NoStream));
        }
        if self.carried.unresponsive {
            self.probe_if_unresponsive(now, out);
            return out.push(missing(waiter, Reason::Unresponsive));
        }
        let has_capacity = self.waiting.len() < MAX_WAITING;
        let current = match &mut self.state {
            State::NoStream | State::Idle(_) => None,
            State::Outstanding { query, .. } => query.as_mut(),
        };
        let same = current
            .into_iter()
            .chain(&mut self.waiting)
            .find(|pending| pending.query == query && pending.names == *names);
        match same {
            Some(pending) if pending.waiters.len() < MAX_WAITERS => {
                pending.waiters.push((waiter, deadline));
            }
            None if has_capacity => {
                self.waiting.push_back(PendingQuery {
                    query,
                    names: names.clone(),
                    waiters: vec![(waiter, deadline)],
                    parts: Vec::new(),
                    rest: None,
                    incomplete: None,
                });
                if let State::Idle(stream) = self.state {
                    self.start_next(now, stream, out);
                }
            }
            Some(_) | None => out.push(missing(waiter, Reason::Busy)),
        }
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
                since,
                bytes,
                query,
                // A plain agent sends no id. It responds in order, and has only one request.
            } if !stream.profile || request.id == part.request_id => {
                self.carried.unresponsive = false;
                self.responded = Some(now);
                *since = now;
                *bytes += part.bytes;
                match query {
                    Some(query) => {
                        query.parts.push(part.data);
                        if part.from.is_some() {
                            query.incomplete = Some(Reason::Truncated);
                        }
                    }
                    None => self.discarded += 1,
                }
                if !(part.more && stream.profile) {
                    self.on_response_complete(now, out);
                }
            }
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

    /// Takes a message that did not fit into memory. Its query completes without it.
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
            query.rest = None;
        }
        part.from = None;
        self.on_part(now, generation, part, out);
    }

    /// Acts on the deadlines that have passed.
    pub(super) fn on_tick(&mut self, now: Time, out: &mut Vec<Action<T, D>>) {
        if let State::Outstanding { query, .. } = &mut self.state {
            if let Some(pending) = query {
                pending.expire(now, Reason::Late, out);
            }
            query.take_if(|pending| pending.waiters.is_empty());
        }
        for pending in &mut self.waiting {
            pending.expire(now, Reason::Busy, out);
        }
        self.waiting.retain(|pending| !pending.waiters.is_empty());
        let State::Outstanding {
            stream,
            since,
            query,
            ..
        } = &self.state
        else {
            return;
        };
        let (waited, generation) = (now.since(*since), stream.generation);
        if query.is_none() && waited >= self.limits.unresponsive_after {
            self.carried.unresponsive = true;
        }
        if waited >= self.limits.abandon_after {
            self.carried.unresponsive = true;
            out.push(Action::EndStream(generation));
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

    /// Returns the number of messages that nobody waited for.
    pub(super) fn discarded(&self) -> u64 {
        self.discarded
    }

    fn lose_stream(&mut self, reason: Reason, out: &mut Vec<Action<T, D>>) {
        let current = match std::mem::take(&mut self.state) {
            State::Outstanding { query, .. } => query,
            State::NoStream | State::Idle(_) => None,
        };
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

    /// Starts the next query on a stream without a request.
    fn start_next(&mut self, now: Time, stream: Stream, out: &mut Vec<Action<T, D>>) {
        let Some(mut next) = self.waiting.pop_front() else {
            self.state = State::Idle(stream);
            return;
        };
        if let Query::Window(window) = next.query {
            next.rest = Some(window);
        }
        self.send_next_slice(now, stream, next, out);
    }

    fn send_next_slice(
        &mut self,
        now: Time,
        stream: Stream,
        mut pending: PendingQuery<T, D>,
        out: &mut Vec<Action<T, D>>,
    ) {
        let query = match pending.rest.take() {
            None => Query::Latest,
            // It can split its response, so that it gets the whole window.
            Some(rest) if stream.profile => Query::Window(rest),
            Some(rest) => {
                let bytes = self.limits.slice_bytes;
                let (slice, rest) = first_slice(rest, self.carried.density, bytes);
                pending.rest = rest;
                Query::Window(slice)
            }
        };
        let names = pending.names.clone();
        self.send(now, stream, query, names, Some(pending), out);
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
            since: now,
            bytes: 0,
            query: pending,
        };
    }

    fn on_response_complete(&mut self, now: Time, out: &mut Vec<Action<T, D>>) {
        let State::Outstanding {
            stream,
            request,
            bytes,
            query,
            ..
        } = std::mem::take(&mut self.state)
        else {
            unreachable!("a response completes a request");
        };
        // The size of a response with some of the series says nothing about one with all.
        if !request.profile || request.names.list().is_empty() {
            let density = &mut self.carried.density;
            match request.query {
                Query::Latest => density.learn_latest(bytes),
                Query::Window(window) => density.learn(window, bytes),
            }
        }
        match query {
            Some(pending) if pending.rest.is_some() => {
                self.send_next_slice(now, stream, pending, out);
            }
            Some(pending) => {
                pending.finish(None, out);
                self.start_next(now, stream, out);
            }
            None => self.start_next(now, stream, out),
        }
    }
}

impl<T, D> PendingQuery<T, D> {
    fn restart(&mut self) {
        self.parts.clear();
        self.rest = None;
        self.incomplete = None;
    }

    /// Resolves the waiters whose deadline has passed.
    fn expire(&mut self, now: Time, reason: Reason, out: &mut Vec<Action<T, D>>) {
        let expired: Vec<_> = self
            .waiters
            .extract_if(.., |(_, deadline)| *deadline <= now)
            .collect();
        // Parts go to the last waiters only: while one is left, it may still get all of them.
        let parts = if self.waiters.is_empty() {
            std::mem::take(&mut self.parts)
        } else {
            Vec::new()
        };
        resolve(expired, parts, Some(reason), out);
    }

    fn finish(self, reason: Option<Reason>, out: &mut Vec<Action<T, D>>) {
        resolve(self.waiters, self.parts, reason.or(self.incomplete), out);
    }
}

fn missing<T, D>(waiter: T, reason: Reason) -> Action<T, D> {
    Action::Resolve(waiter, Outcome::Missing(reason))
}

fn resolve<T, D>(
    waiters: Vec<(T, Time)>,
    parts: Vec<D>,
    reason: Option<Reason>,
    out: &mut Vec<Action<T, D>>,
) {
    let parts = Arc::new(parts);
    for (waiter, _) in waiters {
        let outcome = match reason {
            None => Outcome::Complete(Arc::clone(&parts)),
            Some(reason) if parts.is_empty() => Outcome::Missing(reason),
            Some(reason) => Outcome::Partial(Arc::clone(&parts), reason),
        };
        out.push(Action::Resolve(waiter, outcome));
    }
}

#[cfg(test)]
mod tests;
