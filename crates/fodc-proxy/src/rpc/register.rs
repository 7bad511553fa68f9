//! The registration stream: the agent is known from its first message, and lives by each later one.

use std::time::Duration;

use prost::Message as _;
use steadfast_wire::fodc::{ProxyProfile, RegisterAgentRequest, RegisterAgentResponse};
use tokio::time::timeout;
use tonic::Status;

use super::Call;
use crate::{config::Config, registry::AgentId, state::State};

/// How long the first message may take.
const OPENING: Duration = Duration::from_secs(10);

/// Ends the registration with the stream, also when the handler is cut off.
struct Registration<'a> {
    state: &'a State,
    id: &'a AgentId,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.state.leave(self.id);
    }
}

pub(super) async fn run(mut call: Call) -> Status {
    let first = match timeout(OPENING, next(&mut call)).await {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Status::ok(""),
        Ok(Err(status)) => return status,
        Err(_) => return Status::deadline_exceeded("no registration within 10 s"),
    };
    let id = AgentId::new(&uuid::Uuid::new_v4().to_string());
    let speaks_profile = first.profile.is_some();
    let end = match call.state.register(&id, &first) {
        Ok(end) => end,
        Err(refusal) => {
            call.outbound.send(&RegisterAgentResponse {
                success: false,
                message: refusal.to_string(),
                ..RegisterAgentResponse::default()
            });
            return Status::unknown(refusal.to_string());
        }
    };
    let state = std::sync::Arc::clone(&call.state);
    let _registration = Registration {
        state: &state,
        id: &id,
    };
    call.outbound
        .send(&welcome(&state.config, &id, speaks_profile));
    loop {
        let message = tokio::select! {
            biased;
            () = end.cancelled() => return Status::unknown(format!("agent {id} not found")),
            message = next(&mut call) => message,
        };
        let heartbeat = match message {
            Ok(Some(heartbeat)) => heartbeat,
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        };
        if let Err(unknown) = state.heartbeat(&id, heartbeat) {
            return Status::unknown(unknown.to_string());
        }
    }
}

fn welcome(config: &Config, id: &AgentId, speaks_profile: bool) -> RegisterAgentResponse {
    RegisterAgentResponse {
        success: true,
        message: "registered".to_owned(),
        heartbeat_interval_seconds: i64::try_from(config.heartbeat_interval.as_secs())
            .unwrap_or(i64::MAX),
        agent_id: id.as_str().to_owned(),
        profile: speaks_profile.then_some(ProxyProfile {
            version: 1,
            max_message_bytes: config.max_message_bytes as u64,
        }),
    }
}

async fn next(call: &mut Call) -> Result<Option<RegisterAgentRequest>, Status> {
    let Some(message) = call.inbound.message().await? else {
        return Ok(None);
    };
    RegisterAgentRequest::decode(message)
        .map(Some)
        .map_err(|error| Status::internal(format!("the message can not be decoded: {error}")))
}
