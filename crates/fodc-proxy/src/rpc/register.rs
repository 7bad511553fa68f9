//! The registration stream: its first message registers the agent, later ones are heartbeats.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use steadfast_wire::fodc::{ProxyProfile, RegisterAgentRequest, RegisterAgentResponse};
use tokio::time::timeout;
use tonic::Status;

use super::Call;
use crate::{
    config::Config,
    credentials::Credentials,
    registry::{AgentId, Refusal},
    state::State,
};

/// Longest wait for the first message.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The agent of a registration. One value, which the handler holds for as long as the agent lives.
#[derive(Debug)]
pub(super) struct Registrant {
    /// The id that the agent gets.
    pub(super) id: AgentId,
    /// `None` if there is no policy.
    pub(super) credentials: Option<Credentials>,
}

/// Ends the registration with the stream, also when the handler is dropped.
struct RegistrationGuard<'a> {
    state: &'a State,
    id: &'a AgentId,
}

impl Drop for RegistrationGuard<'_> {
    fn drop(&mut self) {
        self.state.leave(self.id);
    }
}

pub(super) async fn run(call: &mut Call, agent: &Registrant) -> Status {
    let first = match first_message(call).await {
        Ok(Some(first)) => first,
        Ok(None) => return Status::ok(""),
        Err(status) => return status,
    };
    let has_profile = first.profile.is_some();
    let credentials = agent.credentials.as_ref();
    let end = match call.state.register(&agent.id, &first, credentials) {
        Ok(end) => end,
        Err(refusal) => {
            // As from the original: a message, and then a status with the same text.
            call.outbound.send(&RegisterAgentResponse {
                success: false,
                message: refusal.to_string(),
                ..RegisterAgentResponse::default()
            });
            return match refusal {
                Refusal::Forbidden => Status::permission_denied(refusal.to_string()),
                _ => Status::unknown(refusal.to_string()),
            };
        }
    };
    let state = Arc::clone(&call.state);
    let _registration = RegistrationGuard {
        state: &state,
        id: &agent.id,
    };
    let mut response = agent.response(&state.config, has_profile);
    if let (Some(profile), Some(credentials)) = (&mut response.profile, credentials) {
        profile.expires_in_ms = Some(credentials.peer().expires_in_ms());
        profile.stream_key = credentials.key();
    }
    call.outbound.send(&response);
    loop {
        let message = tokio::select! {
            biased;
            // First, so that a heartbeat does not count for a registration that was replaced.
            () = end.cancelled() => {
                return state.end_status(|| Status::unknown(format!("agent {} not found", agent.id)));
            }
            message = next_message(call) => message,
        };
        let heartbeat = match message {
            Ok(Some(heartbeat)) => heartbeat,
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        };
        // First: newer credentials may be those of what the heartbeat says.
        let renewed = credentials.map(|it| state.renew(&agent.id, it, &heartbeat));
        let has_renewed = match renewed.transpose() {
            Ok(renewed) => renewed.unwrap_or(false),
            Err(status) => return status,
        };
        if !state.permits_heartbeat(&agent.id, &heartbeat, credentials) {
            return state.forbid();
        }
        if let Err(unknown) = state.heartbeat(&agent.id, &heartbeat) {
            return Status::unknown(unknown.to_string());
        }
        if has_profile {
            let mut response = agent.response(&state.config, has_profile);
            if let (Some(profile), true) = (&mut response.profile, has_renewed) {
                profile.expires_in_ms = credentials.map(|it| it.peer().expires_in_ms());
            }
            // Relays cut streams on which the proxy sends nothing: nginx does after a minute.
            call.outbound.send(&response);
        }
    }
}

impl Registrant {
    /// Returns the response to a registration or a heartbeat.
    fn response(&self, config: &Config, has_profile: bool) -> RegisterAgentResponse {
        RegisterAgentResponse {
            success: true,
            message: "registered".to_owned(),
            // Less than a second becomes 0, which leaves the interval to the agent.
            heartbeat_interval_seconds: i64::try_from(config.heartbeat_interval.as_secs())
                .unwrap_or(i64::MAX),
            agent_id: self.id.as_str().to_owned(),
            profile: has_profile.then(|| ProxyProfile {
                version: 1,
                max_message_bytes: config.max_message_bytes as u64,
                ..ProxyProfile::default()
            }),
        }
    }
}

async fn first_message(call: &mut Call) -> Result<Option<RegisterAgentRequest>, Status> {
    let state = Arc::clone(&call.state);
    // Without a limit, a client that sends nothing would keep its connection from becoming idle.
    let first = timeout(FIRST_MESSAGE_TIMEOUT, next_message(call));
    let end = state.tasks.drain_token();
    match end.run_until_cancelled(first).await {
        Some(Ok(first)) => first,
        Some(Err(_)) => Err(Status::deadline_exceeded("no registration within 10 s")),
        None => Err(state.end_status(|| Status::ok(""))),
    }
}

async fn next_message(call: &mut Call) -> Result<Option<RegisterAgentRequest>, Status> {
    let Some(message) = call.inbound.message().await? else {
        return Ok(None);
    };
    RegisterAgentRequest::decode(message)
        .map(Some)
        .map_err(|error| Status::internal(format!("the message cannot be decoded: {error}")))
}
