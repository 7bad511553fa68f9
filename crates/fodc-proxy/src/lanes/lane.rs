//! The queries of one agent on the streams of one kind: at most one is outstanding, the others wait.
//!
//! ```text
//!   enqueue ──> waiting (at most 8) ──> outstanding ── last part ──> done, the next one is sent
//!                  │ no stream            │ released before the last part
//!                  v                      v
//!                failed                 abandoned: the next one waits for the last part
//! ```
//!
//! The machine has no clock and no socket. `Q` is a query, and `S` takes the parts of its response.

use std::{collections::VecDeque, time::Duration};

use steadfast_session::Time;

/// The queries of one agent on the streams of one kind.
#[derive(Debug)]
pub(super) struct Lane<Q, S> {
    /// From here on a query waits [`STREAM_GRACE`] for the first stream.
    registered: Time,
    /// Time for which an abandoned query keeps the stream; see `LaneKind::OWED_FOR`.
    owed_for: Duration,
    /// The open streams, oldest first. Queries go to the last one.
    streams: Vec<u64>,
    outstanding: Option<Outstanding<Q, S>>,
    waiting: VecDeque<Waiting<Q, S>>,
    last_query_id: u64,
}

#[derive(Debug)]
struct Waiting<Q, S> {
    query_id: u64,
    query: Q,
    sender: S,
}

#[derive(Debug)]
struct Outstanding<Q, S> {
    generation: u64,
    waiting: Waiting<Q, S>,
    /// A part of the response has arrived.
    responded: bool,
    /// The time at which its caller stopped waiting.
    abandoned: Option<Time>,
}

/// The place of a message in the response to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Another part follows.
    More,
    /// The response is complete.
    Last,
    /// The message belongs to another query.
    Foreign,
}

/// The receiver of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery<S> {
    /// The caller of the outstanding query. True with the last part.
    To(S, bool),
    /// A caller that has stopped waiting.
    Abandoned,
    /// No query asked for the message.
    Unrequested,
}

/// The reason why a query has no response, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("no stream")]
    NoStream,
    #[error("busy")]
    Busy,
    #[error("late")]
    Late,
    /// The stream ended, with this status.
    #[error("stream ended: {0}")]
    StreamEnded(String),
    /// A newer stream of the agent replaced the one on which a part of the response had arrived.
    #[error("stream replaced")]
    StreamReplaced,
    #[error("no room")]
    MemoryExhausted,
    /// A message would take more memory than one may.
    #[error("message of {bytes} bytes in memory exceeds the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// The agent has no data, or not all of it, for this reason.
    #[error("{0}")]
    Source(String),
    /// The agent was forgotten or replaced, or the caller took no part for too long.
    #[error("interrupted")]
    Interrupted,
}

/// An action for the caller of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action<Q, S> {
    Send(u64, Q),
    Fail(S, QueryError),
    /// The agent owes the rest of a response that nobody waits for.
    EndStream(u64),
}

/// The number of queries that may wait. The HTTP interface serves no more requests for one page.
pub(crate) const WAITING_MAX: usize = 8;

/// Time from the registration in which a query waits for the agent's stream, because agents open their
/// streams one after the other. Later, an agent without one does not offer it.
const STREAM_GRACE: Duration = Duration::from_secs(2);

impl<Q: Clone, S: Clone> Lane<Q, S> {
    pub(super) fn new(registered: Time, owed_for: Duration) -> Self {
        Self {
            registered,
            owed_for,
            streams: Vec::new(),
            outstanding: None,
            waiting: VecDeque::new(),
            last_query_id: 0,
        }
    }

    /// Queues a query. Returns the id that releases it.
    pub(super) fn enqueue(
        &mut self,
        now: Time,
        query: Q,
        sender: S,
        out: &mut Vec<Action<Q, S>>,
    ) -> Result<u64, QueryError> {
        if self.streams.is_empty() && self.is_settled(now) {
            return Err(QueryError::NoStream);
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(QueryError::Busy);
        }
        self.last_query_id += 1;
        let query_id = self.last_query_id;
        self.waiting.push_back(Waiting {
            query_id,
            query,
            sender,
        });
        self.send_next(out);
        Ok(query_id)
    }

    /// Takes note that the caller of a query waits no longer, also after its last part.
    pub(super) fn release(&mut self, now: Time, query_id: u64, out: &mut Vec<Action<Q, S>>) {
        self.waiting.retain(|waiting| waiting.query_id != query_id);
        let Some(outstanding) = &mut self.outstanding else {
            return;
        };
        if outstanding.waiting.query_id == query_id {
            outstanding.abandoned = Some(now);
            // The next message is as good a response to the next query.
            if self.owed_for.is_zero() {
                self.outstanding = None;
                self.send_next(out);
            }
        }
    }

    /// Sends queries on this stream from now on.
    pub(super) fn on_opened(&mut self, generation: u64, out: &mut Vec<Action<Q, S>>) {
        if let Some(outstanding) = self.outstanding.take() {
            let waiting = outstanding.waiting;
            match (outstanding.abandoned, outstanding.responded) {
                (Some(_), _) => {}
                // The older stream may be dead, and its agent has not noticed.
                (None, false) => self.waiting.push_front(waiting),
                (None, true) => {
                    out.push(Action::Fail(waiting.sender, QueryError::StreamReplaced));
                }
            }
            self.end_if_owing(outstanding.generation, out);
        }
        self.streams.push(generation);
        self.send_next(out);
    }

    /// Takes note that a stream has ended, with this status.
    pub(super) fn on_closed(&mut self, generation: u64, status: &str, out: &mut Vec<Action<Q, S>>) {
        self.streams.retain(|open| *open != generation);
        let ended = || QueryError::StreamEnded(status.to_owned());
        let lost = self
            .outstanding
            .take_if(|outstanding| outstanding.generation == generation);
        if let Some(lost) = lost
            && lost.abandoned.is_none()
        {
            out.push(Action::Fail(lost.waiting.sender, ended()));
        }
        if self.streams.is_empty() {
            let waiting = self.waiting.drain(..);
            out.extend(waiting.map(|waiting| Action::Fail(waiting.sender, ended())));
        }
        self.send_next(out);
    }

    /// Returns true if a message that begins now on this stream may belong to a response.
    pub(super) fn is_waiting_on(&self, generation: u64) -> bool {
        let outstanding = self.outstanding.as_ref();
        outstanding.is_some_and(|outstanding| outstanding.generation == generation)
    }

    /// Takes a message, which `part` places in the response to the outstanding query.
    pub(super) fn on_message(
        &mut self,
        generation: u64,
        part: impl FnOnce(&Q) -> Part,
        out: &mut Vec<Action<Q, S>>,
    ) -> Delivery<S> {
        let asked = |outstanding: &&mut Outstanding<Q, S>| outstanding.generation == generation;
        let Some(outstanding) = self.outstanding.as_mut().filter(asked) else {
            return Delivery::Unrequested;
        };
        let is_last = match part(&outstanding.waiting.query) {
            Part::Foreign => return Delivery::Unrequested,
            Part::More => false,
            Part::Last => true,
        };
        outstanding.responded = true;
        let delivery = match outstanding.abandoned {
            Some(_) => Delivery::Abandoned,
            None => Delivery::To(outstanding.waiting.sender.clone(), is_last),
        };
        if is_last {
            self.outstanding = None;
            self.send_next(out);
        }
        delivery
    }

    /// Fails the outstanding query of a stream. The rest of its response is discarded.
    pub(super) fn fail(
        &mut self,
        now: Time,
        generation: u64,
        error: QueryError,
        out: &mut Vec<Action<Q, S>>,
    ) {
        if let Some(outstanding) = &self.outstanding
            && outstanding.generation == generation
            && outstanding.abandoned.is_none()
        {
            let Waiting {
                query_id, sender, ..
            } = &outstanding.waiting;
            out.push(Action::Fail(sender.clone(), error));
            self.release(now, *query_id, out);
        }
    }

    pub(super) fn on_tick(&mut self, now: Time, out: &mut Vec<Action<Q, S>>) {
        if self.streams.is_empty() && self.is_settled(now) {
            let waiting = self.waiting.drain(..);
            out.extend(waiting.map(|waiting| Action::Fail(waiting.sender, QueryError::NoStream)));
        }
        let overdue = self.outstanding.take_if(|outstanding| {
            let abandoned = outstanding.abandoned;
            abandoned.is_some_and(|abandoned| now >= abandoned + self.owed_for)
        });
        if let Some(overdue) = overdue {
            self.end_if_owing(overdue.generation, out);
            self.send_next(out);
        }
    }

    /// Returns the query to which the agent owes a response.
    pub(super) fn outstanding(&self) -> Option<&Q> {
        let outstanding = self.outstanding.as_ref()?;
        Some(&outstanding.waiting.query)
    }

    fn is_settled(&self, now: Time) -> bool {
        now >= self.registered + STREAM_GRACE
    }

    /// Ends a stream on which a response is owed, unless its late parts do no harm.
    fn end_if_owing(&mut self, generation: u64, out: &mut Vec<Action<Q, S>>) {
        if !self.owed_for.is_zero() {
            self.streams.retain(|open| *open != generation);
            out.push(Action::EndStream(generation));
        }
    }

    fn send_next(&mut self, out: &mut Vec<Action<Q, S>>) {
        if self.outstanding.is_some() {
            return;
        }
        if let Some(&generation) = self.streams.last()
            && let Some(waiting) = self.waiting.pop_front()
        {
            out.push(Action::Send(generation, waiting.query.clone()));
            self.outstanding = Some(Outstanding {
                generation,
                waiting,
                responded: false,
                abandoned: None,
            });
        }
    }
}

#[cfg(test)]
mod tests;
