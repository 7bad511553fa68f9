//! Streams that are accepted and held, and on which nothing is asked yet. What an agent sends
//! unasked is read, so that it can not stall, and dropped.

use tonic::Status;

use super::Call;
use crate::{
    frames::Piece,
    registry::AgentId,
    state::{State, add},
};

/// Counts the stream for as long as it is open.
pub(super) struct Held<'a> {
    state: &'a State,
    id: &'a AgentId,
    method: &'static str,
}

impl<'a> Held<'a> {
    pub(super) fn new(state: &'a State, id: &'a AgentId, method: &'static str) -> Self {
        Self { state, id, method }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.state.release(self.id, self.method);
    }
}

pub(super) async fn run(mut call: Call, id: AgentId, method: &'static str) -> Status {
    let state = std::sync::Arc::clone(&call.state);
    let Some(end) = state.hold(&id, method) else {
        return stranger(call).await;
    };
    let _held = Held::new(&state, &id, method);
    tokio::select! {
        biased;
        () = end.cancelled() => Status::aborted("the registration has ended"),
        status = swallow(&mut call) => status,
    }
}

/// A stream whose agent is not known: held, as the original does, or the agent would storm.
pub(super) async fn stranger(mut call: Call) -> Status {
    add(&call.state.counters.strangers, 1);
    swallow(&mut call).await
}

async fn swallow(call: &mut Call) -> Status {
    loop {
        match call.inbound.next().await {
            Ok(Some(Piece::End)) => add(&call.state.counters.dropped, 1),
            Ok(Some(Piece::Begin(_) | Piece::Data(_))) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}
