//! The download of one profile.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use steadfast_wire::fodc::{
    FetchPressureProfile, StreamPressureProfilesResponse,
    stream_pressure_profiles_request::Payload, stream_pressure_profiles_response::Command,
};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::list;
use crate::{
    filter::Filter,
    lanes::{Profiles, QueryError},
    profile_catalog::ListedProfile,
    state::State,
    stream_queries::{PendingStreamResponse, query},
};

/// The types of profiles.
pub(crate) const KINDS: [&str; 2] = ["heap", "goroutine"];

/// A profile whose first chunk has arrived.
pub(crate) struct Download<S> {
    /// The name for the client's file.
    pub(crate) filename: String,
    /// The contents. An error ends the response without its regular end.
    pub(crate) contents: S,
}

/// The reason why there is no profile, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error("no such profile")]
    Unknown,
    #[error("the agent cannot send the profile: {0}")]
    Refused(String),
    #[error("the agent did not send the profile: {0}")]
    Failed(#[from] QueryError),
    #[error("the profile has {sent} bytes, but it was listed with {listed}")]
    WrongSize { sent: u64, listed: u64 },
    #[error("the profile is longer than {PROFILE_BYTES} bytes")]
    TooLong,
}

/// The chunks of a profile.
struct Chunks {
    pending: PendingStreamResponse<Profiles>,
    sent: u64,
    /// 0 if the list does not say it.
    listed: u64,
}

/// Time limit of each chunk, as in the original.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest profile. Nothing of it is kept here; it is a bound on what an agent can make a client
/// store.
const PROFILE_BYTES: u64 = 1 << 30;

/// Fetches a profile. Everything that can fail before the first byte has then not failed.
///
/// # Cancel safety
///
/// Dropping the future or the contents releases the agent.
pub(crate) async fn download(
    state: &Arc<State>,
    pod: &str,
    id: &str,
    kind: &str,
) -> Result<Download<impl Stream<Item = Result<Bytes, DownloadError>> + use<>>, DownloadError> {
    let find = || state.profiles().find(pod, id, kind);
    let mut found = find();
    if found.is_none() {
        // Nobody has listed it since the agent registered.
        let filter = Filter {
            pod: Some(pod.to_owned()),
            ..Filter::default()
        };
        list(state, &filter).await;
        found = find();
    }
    let (listed, profile) = found.ok_or(DownloadError::Unknown)?;
    let fetch = FetchPressureProfile {
        request_id: Uuid::new_v4().to_string(),
        profile_id: id.to_owned(),
        r#type: kind.to_owned(),
        filepath: profile.filepath,
    };
    let message = StreamPressureProfilesResponse {
        command: Some(Command::FetchProfile(fetch)),
    };
    let mut chunks = Chunks {
        pending: query::<Profiles>(state, &listed.agent, message)?,
        sent: 0,
        listed: u64::try_from(profile.size_bytes).unwrap_or(0),
    };
    let filename = filename(&listed, kind);
    let first = chunks.next().await?;
    let state = (first, chunks, filename.clone());
    let contents = stream::try_unfold(state, |(ready, mut chunks, filename)| async move {
        let Some(ready) = ready else {
            return Ok(None);
        };
        let next = chunks.next().await.inspect_err(|error| {
            warn!(filename, %error, "a download is cut");
        })?;
        Ok(Some((ready, (next, chunks, filename))))
    });
    Ok(Download { filename, contents })
}

impl Chunks {
    /// Returns the next data, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, DownloadError> {
        loop {
            let deadline = Instant::now() + CHUNK_TIMEOUT;
            let Some(message) = self.pending.next(deadline).await? else {
                let (sent, listed) = (self.sent, self.listed);
                if listed != 0 && sent != listed {
                    return Err(DownloadError::WrongSize { sent, listed });
                }
                return Ok(None);
            };
            // Other messages are not part of the response.
            let Some(Payload::Chunk(chunk)) = message.body.payload else {
                continue;
            };
            if !chunk.error.is_empty() {
                return Err(DownloadError::Refused(chunk.error));
            }
            self.sent += chunk.data.len() as u64;
            if self.sent > PROFILE_BYTES {
                return Err(DownloadError::TooLong);
            }
            // The last chunk usually is.
            if !chunk.data.is_empty() {
                return Ok(Some(chunk.data));
            }
        }
    }
}

/// Returns the name for the client's file. The agent chooses its parts, and they go to a header.
fn filename(listed: &ListedProfile, kind: &str) -> String {
    let identity = &listed.identity;
    let id = &listed.record.profile_id;
    let name = format!("{}-{}-{id}-{kind}.pprof", identity.name, identity.role);
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars()
        .map(|c| if safe(c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use steadfast_wire::fodc::PressureProfileRecord;

    use super::*;
    use crate::registry::{AgentId, Identity};

    #[test]
    fn file_name_has_no_character_that_a_header_interprets() {
        let listed = ListedProfile {
            agent: AgentId::new("1"),
            identity: Arc::new(Identity::of_pod("p\"od/..\r\nx: y", "röle")),
            record: Arc::new(PressureProfileRecord {
                profile_id: "20260301T080000.1Z".to_owned(),
                ..Default::default()
            }),
        };
        assert_eq!(
            filename(&listed, "heap"),
            "p_od_..__x__y-r_le-20260301T080000.1Z-heap.pprof"
        );
    }
}
