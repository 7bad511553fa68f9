//! Queries all agents that a request selects, and collects their responses until a deadline.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    agents::PendingResponse,
    config::dispatch_time,
    filter::Filter,
    query::{Outcome, Query, Reason},
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

/// The number of agents that are queried at once. A thousand at once would mean a thousand responses
/// half read.
const BATCH: usize = 32;

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

/// Queries the agents that `filter` selects and waits for at most `time_limit`.
///
/// # Cancel safety
///
/// Dropping the future leaves the queries with the agents; their responses are then discarded.
pub(super) async fn gather(
    state: &State,
    query: Query,
    filter: &Filter,
    time_limit: Duration,
) -> Gathered {
    let (now, until) = (state.now(), Instant::now() + time_limit);
    let deadline = now + time_limit;
    // Once for all batches: an agent that registers meanwhile is not part of this page.
    let agents = state.agents().select(|identity| filter.selects(identity));
    let batches = u32::try_from(agents.len().div_ceil(BATCH)).unwrap_or(u32::MAX);
    let pause = dispatch_time(time_limit) / batches.max(1);
    let mut pending = Vec::with_capacity(agents.len());
    for batch in agents.chunks(BATCH) {
        let first = pending.len();
        // Not the time of the first batch: the timeouts of these agents begin now.
        let now = state.now();
        let queried = state
            .agents()
            .query(now, query, &filter.names, deadline, batch);
        pending.extend(queried);
        // The next batch starts when half of this one has responded, so that about one batch is being
        // read at any time, or when its share of the dispatch time is over.
        let half = pending.len() - (pending.len() - first) / 2;
        if pending.len() < agents.len() {
            let some = settle(&mut pending[first..half]);
            timeout(pause, some).await.ok();
        }
    }
    if timeout_at(until, settle(&mut pending)).await.is_err() {
        // `Time` is rounded down to microseconds, and the deadline must count as passed.
        state.on_tick(state.now().max(deadline));
    }
    let mut gathered = Gathered::default();
    for response in pending {
        gathered.add(response);
    }
    // Ids are random. By name, the lines of two responses stand in the same order.
    let name = |response: &AgentResponse| (response.identity.name.clone(), response.id.clone());
    gathered.responses.sort_by_cached_key(name);
    gathered.missing.sort_by(|a, b| a.name.cmp(&b.name));
    gathered
}

async fn settle(pending: &mut [PendingResponse]) {
    for response in pending {
        response.settle().await;
    }
}

impl Gathered {
    /// Returns a text such as `2; db-0=late, db-1=truncated(partly)`, or `None` if nothing is missing.
    pub(super) fn missing_text(&self) -> Option<String> {
        let reasons: Vec<String> = self.missing.iter().map(MissingResponse::reason).collect();
        let missing = self.missing.iter().zip(&reasons);
        missing_text(missing.map(|(missing, reason)| (&*missing.name, &**reason)))
    }

    fn add(&mut self, mut pending: PendingResponse) {
        let (parts, reason) = match pending.outcome() {
            Some(Outcome::Complete(parts)) => (Some(parts), None),
            Some(Outcome::Partial(parts, reason)) => (Some(parts), Some(reason)),
            Some(Outcome::Missing(reason)) => (None, Some(reason)),
            // The agent was forgotten, and its queue with it.
            None => (None, Some(Reason::StreamEnded)),
        };
        if let Some(reason) = reason {
            self.missing.push(MissingResponse {
                name: pending.identity.name.clone(),
                reason,
                partial: parts.is_some(),
            });
        }
        if let Some(parts) = parts {
            self.responses.push(AgentResponse {
                id: pending.id,
                identity: pending.identity,
                parts,
            });
        }
    }
}
