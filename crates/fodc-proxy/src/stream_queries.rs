//! Queries to agents on their other streams, and the responses.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    gather::missing_text,
    lanes::{LaneKind, Message, QueryError, ResponsePart},
    registry::{AgentId, Identity},
    state::State,
};

/// The response to a query, part by part. Dropping it releases the stream for the next query.
#[derive(Debug)]
pub(super) struct PendingStreamResponse<K: LaneKind> {
    state: Arc<State>,
    agent: AgentId,
    query_id: u64,
    parts: mpsc::Receiver<ResponsePart<K>>,
    is_complete: bool,
}

/// The response of one of several agents that were queried together.
#[derive(Debug)]
pub(super) struct StreamResponse<K: LaneKind> {
    pub(super) agent: AgentId,
    pub(super) identity: Arc<Identity>,
    pub(super) result: Result<Vec<Message<K::Response>>, QueryError>,
}

/// The agents whose response to one query is missing, or not complete.
#[derive(Debug, Default)]
pub(super) struct Missing {
    asked: usize,
    /// Agents without a stream of the kind.
    without_stream: usize,
    /// Agents from which nothing has arrived.
    silent: usize,
    /// The names, and the reasons.
    agents: Vec<(String, String)>,
}

/// Parts that are received ahead of the caller.
const PARTS_AHEAD: usize = 4;

/// Sends a query to one agent.
pub(super) fn query<K: LaneKind>(
    state: &Arc<State>,
    agent: &AgentId,
    query: K::Query,
) -> Result<PendingStreamResponse<K>, QueryError> {
    state.counters.streams.of(K::NAME).queries.add(1);
    let (sender, parts) = mpsc::channel(PARTS_AHEAD);
    let now = state.now();
    let query_id = {
        let mut agents = state.agents();
        let wire = agents.wire::<K>(agent).ok_or(QueryError::Interrupted)?;
        wire.enqueue(now, query, sender)?
    };
    Ok(PendingStreamResponse {
        state: Arc::clone(state),
        agent: agent.clone(),
        query_id,
        parts,
        is_complete: false,
    })
}

/// Sends a query to each of these agents, and yields their responses in the order of arrival. An agent
/// that has not responded in full by the deadline is late.
///
/// # Cancel safety
///
/// Dropping the stream releases the agents for the next query.
pub(super) fn query_all<K: LaneKind>(
    state: &Arc<State>,
    agents: Vec<(AgentId, Arc<Identity>)>,
    message: &K::Query,
    deadline: Instant,
) -> impl Stream<Item = StreamResponse<K>> {
    let responses = agents.into_iter().map(|(agent, identity)| {
        let pending = query::<K>(state, &agent, message.clone());
        async move {
            let result = match pending {
                Ok(pending) => pending.collect(deadline).await,
                Err(error) => Err(error),
            };
            StreamResponse {
                agent,
                identity,
                result,
            }
        }
    });
    let counters = Arc::clone(&state.counters);
    responses
        .collect::<FuturesUnordered<_>>()
        .inspect(move |response| {
            if response.result.is_err() {
                counters.streams.of(K::NAME).failed.add(1);
            }
        })
}

impl<K: LaneKind> StreamResponse<K> {
    /// Takes the messages of the response. If it failed, there are none, and `missing` has the reason.
    pub(super) fn take_messages(&mut self, missing: &mut Missing) -> Vec<Message<K::Response>> {
        match &mut self.result {
            Ok(messages) => std::mem::take(messages),
            Err(error) => {
                missing.add(&self.identity, error);
                Vec::new()
            }
        }
    }
}

impl Missing {
    /// Creates the list for a query to this many agents.
    pub(super) fn new(asked: usize) -> Self {
        Self {
            asked,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, identity: &Identity, error: &QueryError) {
        match error {
            QueryError::NoStream => self.without_stream += 1,
            // It has responded.
            QueryError::Source(_) => {}
            QueryError::Busy
            | QueryError::Late
            | QueryError::StreamEnded(_)
            | QueryError::StreamReplaced
            | QueryError::MemoryExhausted
            | QueryError::TooLarge { .. }
            | QueryError::Interrupted => self.silent += 1,
        }
        self.agents.push((identity.name.clone(), error.to_string()));
    }

    /// Adds a failure beside the query. The agent counts as before.
    pub(super) fn note(&mut self, name: String, reason: String) {
        self.agents.push((name, reason));
    }

    /// Returns true if there are agents, and none of them has a stream of the kind.
    pub(super) fn is_offered_by_none(&self) -> bool {
        self.asked > 0 && self.requested() == 0
    }

    /// Returns the number of agents that have a stream of the kind.
    pub(super) fn requested(&self) -> usize {
        self.asked - self.without_stream
    }

    /// Returns the number of agents that have responded, if only with an error.
    pub(super) fn responded(&self) -> usize {
        self.requested() - self.silent
    }

    /// Returns the text of the `x-steadfast-missing` header, or `None` if no agent is missing.
    pub(super) fn text(&mut self) -> Option<String> {
        self.agents.sort_unstable();
        let agents = self.agents.iter();
        missing_text(agents.map(|(name, reason)| (&**name, &**reason)))
    }
}

impl<K: LaneKind> PendingStreamResponse<K> {
    /// Returns the next part of the response, or `None` after the last one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(super) async fn next(
        &mut self,
        deadline: Instant,
    ) -> Result<Option<Message<K::Response>>, QueryError> {
        if self.is_complete {
            return Ok(None);
        }
        let part = timeout_at(deadline, self.parts.recv()).await;
        let part = part.map_err(|_| QueryError::Late)?;
        // The lane is gone, or it could not deliver the reason to a caller that is too slow.
        let (message, is_last) = part.unwrap_or(Err(QueryError::Interrupted))?;
        self.is_complete = is_last;
        Ok(Some(message))
    }

    /// Returns the whole response.
    pub(super) async fn collect(
        mut self,
        deadline: Instant,
    ) -> Result<Vec<Message<K::Response>>, QueryError> {
        let mut messages = Vec::new();
        while let Some(message) = self.next(deadline).await? {
            messages.push(message);
        }
        Ok(messages)
    }
}

impl<K: LaneKind> Drop for PendingStreamResponse<K> {
    fn drop(&mut self) {
        let now = self.state.now();
        if let Some(wire) = self.state.agents().wire::<K>(&self.agent) {
            wire.release(now, self.query_id);
        }
    }
}
