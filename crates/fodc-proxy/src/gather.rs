//! Queries all agents that a request selects, and collects their responses as they arrive, until a
//! deadline.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use steadfast_session::Time;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout, timeout_at},
};

use super::{
    agents::{PendingResponse, QueriedAgent},
    config::dispatch_time,
    filter::Filter,
    query::{MetricNames, Outcome, Query, Reason},
    query_queue::SliceShare,
    registry::{AgentId, Identity},
    samples::Samples,
    state::State,
};

/// The response of one agent.
#[derive(Debug)]
pub(super) struct AgentResponse {
    pub(super) id: AgentId,
    pub(super) identity: Arc<Identity>,
    pub(super) parts: Arc<Vec<Samples>>,
}

/// An agent whose response, or a part of it, is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MissingResponse {
    pub(super) name: String,
    pub(super) reason: Reason,
    /// A part of the response has arrived.
    pub(super) partial: bool,
}

/// The responses of all agents.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) responses: Vec<AgentResponse>,
    pub(super) missing: Vec<MissingResponse>,
}

/// The least number of agents that are queried at once.
const BATCH_MIN: usize = 32;

/// The bytes of responses that are expected at once. All responses of a thousand agents at once would
/// mean a thousand of them half read.
const BATCH_BYTES: usize = 4 << 20;

/// The longest name or reason in the text of missing responses, in characters.
const TEXT_MAX: usize = 128;

/// The number of names in the text of missing responses.
const MISSING_NAMES_MAX: usize = 50;

impl MissingResponse {
    fn reason(&self) -> String {
        let partly = if self.partial { "(partly)" } else { "" };
        format!("{}{partly}", self.reason.as_str())
    }
}

/// Returns the text about missing agents, with their names and reasons; `None` if there are none.
pub(super) fn missing_text<'a>(
    missing: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Option<String> {
    let count = missing.len();
    if count == 0 {
        return None;
    }
    // The text goes to a header and to a comment line, and the agent chooses its name and may have
    // chosen the reason.
    let plain = |text: &str, also: Option<char>| -> String {
        let fits = |c: char| c.is_ascii_graphic() && c != ',' || Some(c) == also;
        let fit = |c| if fits(c) { c } else { '_' };
        text.chars().take(TEXT_MAX).map(fit).collect()
    };
    let names = missing.take(MISSING_NAMES_MAX);
    let names: Vec<String> = names
        .map(|(name, reason)| format!("{}={}", plain(name, None), plain(reason, Some(' '))))
        .collect();
    Some(format!("{count}; {}", names.join(", ")))
}

/// The queries of one request to all agents that it selects, and the responses so far.
#[derive(Debug)]
pub(super) struct Gathering {
    state: Arc<State>,
    pending: FuturesUnordered<PendingResponse>,
    gathered: Gathered,
    until: Instant,
    deadline: Time,
    /// The deadline has passed, and every query has its outcome.
    has_expired: bool,
    /// Held while agents are being queried.
    _permit: OwnedSemaphorePermit,
}

impl Gathering {
    /// Queries the agents that `filter` selects, each of which has at most `time_limit`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or later the value, leaves the queries with the agents; their responses are
    /// then discarded.
    pub(super) async fn start(
        state: Arc<State>,
        permit: OwnedSemaphorePermit,
        query: Query,
        filter: &Filter,
        time_limit: Duration,
    ) -> Self {
        let (now, until) = (state.now(), Instant::now() + time_limit);
        // Once for all batches: an agent that registers meanwhile is not part of this page.
        let agents = state.agents().select(|identity| filter.selects(identity));
        let batch = match query {
            // Short responses need no batches, each of which waits for the slowest half of the others.
            Query::Latest => state.agents().fitting(&agents, BATCH_BYTES).max(BATCH_MIN),
            Query::Window(_) => BATCH_MIN,
        };
        let mut gathering = Self {
            state,
            pending: FuturesUnordered::new(),
            gathered: Gathered::default(),
            until,
            deadline: now + time_limit,
            has_expired: false,
            _permit: permit,
        };
        let batches = u32::try_from(agents.len().div_ceil(batch)).unwrap_or(u32::MAX);
        let pause = dispatch_time(time_limit) / batches.max(1);
        let query = (query, SliceShare::among(agents.len()));
        let mut batches = agents.chunks(batch).peekable();
        while let Some(batch) = batches.next() {
            gathering.query(query, &filter.names, batch);
            // The next batch starts when half of this one has responded, so that about one batch is
            // being read at any time, or when its share of the dispatch time is over.
            if batches.peek().is_some() {
                let some = gathering.collect(batch.len().div_ceil(2));
                timeout(pause, some).await.ok();
            }
        }
        gathering
    }

    /// Waits for all responses, and returns them by name.
    pub(super) async fn all(mut self) -> Gathered {
        while let Some(response) = self.next().await {
            self.gathered.add(response);
        }
        self.take_gathered()
    }

    fn query(&mut self, query: (Query, SliceShare), names: &MetricNames, batch: &[AgentId]) {
        // Not the time of the first batch: the timeouts of these agents begin now.
        let (now, deadline) = (self.state.now(), self.deadline);
        let mut agents = self.state.agents();
        let queried = agents.query(now, query, names, deadline, batch);
        self.pending.extend(queried);
    }

    /// Collects this many further responses, or fewer if all have arrived.
    async fn collect(&mut self, responses: usize) {
        for _ in 0..responses {
            let Some(response) = self.pending.next().await else {
                return;
            };
            self.gathered.add(response);
        }
    }

    /// Collects responses until all have arrived or `limit` is over.
    pub(super) async fn collect_for(&mut self, limit: Duration) {
        let all = async {
            while let Some(response) = self.next().await {
                self.gathered.add(response);
            }
        };
        timeout(limit, all).await.ok();
    }

    /// Returns the next response, or `None` after the last. At the deadline the agents that have not
    /// responded are missing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<QueriedAgent> {
        if !self.has_expired {
            if let Ok(next) = timeout_at(self.until, self.pending.next()).await {
                return next;
            }
            self.has_expired = true;
            // `Time` is rounded down to microseconds, and the deadline must count as passed.
            let now = self.state.now().max(self.deadline);
            self.state.on_tick(now);
        }
        // The tick has resolved each of them.
        self.pending.next().await
    }

    /// Takes the responses so far, by name.
    pub(super) fn take_gathered(&mut self) -> Gathered {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.sort();
        gathered
    }

    /// Returns the identities of the agents that have not responded.
    pub(super) fn outstanding(&self) -> impl ExactSizeIterator<Item = &Identity> {
        self.pending.iter().map(PendingResponse::identity)
    }
}

impl Gathered {
    /// Returns a text such as `2; db-0=late, db-1=truncated(partly)`, or `None` if nothing is missing.
    pub(super) fn missing_text(&self) -> Option<String> {
        let reasons: Vec<String> = self.missing.iter().map(MissingResponse::reason).collect();
        let missing = self.missing.iter().zip(&reasons);
        missing_text(missing.map(|(missing, reason)| (&*missing.name, &**reason)))
    }

    /// Adds the response of an agent, or the reason for its absence.
    pub(super) fn add(&mut self, queried: QueriedAgent) {
        let (parts, reason) = match queried.outcome {
            Some(Outcome::Complete(parts)) => (Some(parts), None),
            Some(Outcome::Partial(parts, reason)) => (Some(parts), Some(reason)),
            Some(Outcome::Missing(reason)) => (None, Some(reason)),
            // The agent was forgotten, and its queue with it.
            None => (None, Some(Reason::StreamEnded)),
        };
        if let Some(reason) = reason {
            self.missing.push(MissingResponse {
                name: queried.identity.name.clone(),
                reason,
                partial: parts.is_some(),
            });
        }
        if let Some(parts) = parts {
            self.responses.push(AgentResponse {
                id: queried.id,
                identity: queried.identity,
                parts,
            });
        }
    }

    fn sort(&mut self) {
        // Ids are random. By name, the lines of two responses stand in the same order.
        let name = |response: &AgentResponse| (response.identity.name.clone(), response.id.clone());
        self.responses.sort_by_cached_key(name);
        self.missing.sort_by(|a, b| a.name.cmp(&b.name));
    }
}
