//! `/diagnostics`: the crashes that agents report.

mod json;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use steadfast_wire::fodc::StreamCrashDiagnosticsResponse;
use tokio::time::Instant;

pub(super) use self::json::page;
use super::{
    crash_store::Crash,
    filter::Filter,
    lanes::{Crashes, QueryError},
    registry::{AgentId, Identity},
    state::State,
    stream_queries::{Missing, query},
};

/// Time for which crashes are awaited: agents of the originals do not mark the end of theirs.
const WAIT: Duration = Duration::from_secs(2);

/// Queries the selected agents. Returns every crash of these agents that is known, also of agents that
/// are gone: a crash is usually followed by another registration.
///
/// # Cancel safety
///
/// Dropping the future releases the agents; what has arrived is kept.
pub(super) async fn collect(state: &Arc<State>, filter: &Filter) -> (Vec<Arc<Crash>>, Missing) {
    let agents = state.agents().select_online(state.now(), filter);
    let mut missing = Missing::new(agents.len());
    let deadline = Instant::now() + WAIT;
    let responses = agents.into_iter().map(|(agent, identity)| async move {
        let result = keep_crashes(state, &agent, &identity, deadline).await;
        (identity, result)
    });
    let mut responses: FuturesUnordered<_> = responses.collect();
    while let Some((identity, result)) = responses.next().await {
        if let Err(error) = result {
            state.counters.streams.of("crash").failed.add(1);
            missing.add(&identity, &error);
        }
    }
    (state.crashes().select(filter), missing)
}

/// Stores the crashes of one agent as they arrive.
async fn keep_crashes(
    state: &Arc<State>,
    agent: &AgentId,
    identity: &Arc<Identity>,
    deadline: Instant,
) -> Result<(), QueryError> {
    let message = StreamCrashDiagnosticsResponse {
        request_diagnostics: true,
    };
    let mut pending = query::<Crashes>(state, agent, message)?;
    loop {
        match pending.next(deadline).await {
            Ok(Some(message)) if message.body.complete => {}
            Ok(Some(message)) => state.crashes().insert(Crash {
                agent: agent.clone(),
                identity: Arc::clone(identity),
                report: message.body,
            }),
            Ok(None) => return Ok(()),
            Err(QueryError::Late) => {
                let is_open = state
                    .agents()
                    .wire::<Crashes>(agent)
                    .is_some_and(|wire| wire.is_open());
                return match (is_open, identity.has_profile()) {
                    (false, _) => Err(QueryError::NoStream),
                    (true, true) => Err(QueryError::Late),
                    // The usual end of a response without an end marker.
                    (true, false) => Ok(()),
                };
            }
            Err(error) => return Err(error),
        }
    }
}
