//! Streams of agents that are not known. Their messages are read, so that the connection does not stall,
//! and dropped.

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

/// Holds a stream of an unknown agent, as the original does: agents of the releases reopen a refused
/// stream at once.
pub(super) async fn hold_unknown(mut call: Call) -> Status {
    call.state.counters.unknown_agents.add(1);
    ignore_messages(&mut call).await
}

async fn ignore_messages(call: &mut Call) -> Status {
    loop {
        match call.inbound.next().await {
            Ok(Some(Piece::End)) => call.state.counters.ignored_messages.add(1),
            Ok(Some(Piece::Begin(_) | Piece::Data(_))) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}
