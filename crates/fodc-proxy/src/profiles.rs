//! `/pressure-profiles`: the profiles that agents have captured.

mod download;
mod json;

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use steadfast_wire::fodc::{
    ListProfiles, StreamPressureProfilesResponse, stream_pressure_profiles_response::Command,
};
use tokio::time::Instant;
use uuid::Uuid;

pub(super) use self::{
    download::{DownloadError, KINDS, download},
    json::page,
};
use super::{
    filter::Filter,
    lanes::{Profiles, QueryError},
    profile_catalog::ListedProfile,
    state::State,
    stream_queries::{Missing, query_all},
};

/// Time limit of a list, as in the original.
const LIST_TIMEOUT: Duration = Duration::from_secs(8);

/// Asks the selected agents for their profiles. Of an agent that does not respond, or that is sending a
/// profile, the list before counts.
///
/// # Cancel safety
///
/// Dropping the future releases the agents; lists that are complete are kept.
pub(super) async fn list(state: &Arc<State>, filter: &Filter) -> (Vec<ListedProfile>, Missing) {
    let now = state.now();
    let mut agents = state.agents().select_online(now, filter);
    let mut missing = Missing::new(agents.len());
    agents.retain(|(agent, identity)| {
        let is_sending = state.agents().wire::<Profiles>(agent).is_some_and(|wire| {
            let query = wire.outstanding().and_then(|query| query.command.as_ref());
            matches!(query, Some(Command::FetchProfile(_)))
        });
        if is_sending {
            let reason = "sending a profile; listed as before".to_owned();
            missing.add(identity, &QueryError::Source(reason));
        }
        !is_sending
    });
    let list = ListProfiles {
        request_id: Uuid::new_v4().to_string(),
    };
    let query = StreamPressureProfilesResponse {
        command: Some(Command::ListProfiles(list)),
    };
    let deadline = Instant::now() + LIST_TIMEOUT;
    let mut responses = query_all::<Profiles>(state, agents, &query, deadline);
    while let Some(response) = responses.next().await {
        let mut catalog = state.profiles();
        match response.result {
            Ok(messages) => {
                let messages = messages.into_iter().map(|message| message.body);
                let is_whole = catalog.replace(response.agent, &response.identity, messages);
                if !is_whole {
                    missing.add(
                        &response.identity,
                        &QueryError::Source("too many profiles".to_owned()),
                    );
                }
            }
            Err(error) => {
                if matches!(error, QueryError::NoStream | QueryError::StreamEnded(_)) {
                    // Nothing of it can be fetched.
                    catalog.remove(&response.agent);
                }
                missing.add(&response.identity, &error);
            }
        }
    }
    let online = state.agents().select_online(state.now(), filter);
    let known = state.agents().online(state.now());
    let mut catalog = state.profiles();
    catalog.retain(|agent| known.iter().any(|(known, _)| known == agent));
    let agents = online.iter().map(|(agent, _)| agent);
    (catalog.select(agents), missing)
}
