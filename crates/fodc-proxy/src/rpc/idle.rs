//! Streams of agents that are not known. Their messages are read, so that the connection does not stall,
//! and dropped.

use std::sync::Arc;

use tonic::Status;

use super::Call;
use crate::{frames::Piece, registry::AgentId, state::State};

/// Counts a stream of an agent while it is open.
pub(super) struct StreamGuard<'a> {
    state: &'a State,
    id: &'a AgentId,
    method: &'static str,
}

impl<'a> StreamGuard<'a> {
    pub(super) fn new(state: &'a State, id: &'a AgentId, method: &'static str) -> Self {
        Self { state, id, method }
    }
}

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        self.state.agents().close_stream(self.id, self.method);
    }
}

/// Holds a stream of an unknown agent until the proxy stops, as the original does: agents of the releases
/// reopen a refused stream at once.
pub(super) async fn hold_unknown(call: &mut Call) -> Status {
    let state = Arc::clone(&call.state);
    state.counters.unknown_agents.add(1);
    let end = state.tasks.drain_token();
    let held = end.run_until_cancelled(ignore_messages(call)).await;
    held.unwrap_or_else(|| state.end_status(|| Status::ok("")))
}

async fn ignore_messages(call: &mut Call) -> Status {
    loop {
        match call.inbound.next().await {
            Ok(Some(Piece::End)) => call.state.counters.ignored_messages.add(1),
            Ok(Some(Piece::Begin(_) | Piece::Data(_))) => {}
            Ok(None) => return Status::ok(""),
            Err(error) => return error.into(),
        }
    }
}
