//! The changes of a collection: server-sent events, or a long poll.

mod events;
mod poll;

use std::sync::Arc;

use axum::{
    extract::{Path, Query, Request, State},
    http::{HeaderMap, header},
    response::Response,
};

#[cfg(test)]
pub(crate) use self::events::Stream;
use self::poll::{MAX_ITEMS, Wait};
use super::{
    error::ApiError,
    parameters::{Parameters, position},
};
use crate::{limits::client_of, server::realtime::address, shared::Shared};

/// The header in which a browser repeats the last id of a stream of events.
const LAST_EVENT_ID: &str = "last-event-id";

/// Serves changes in the form that the client accepts.
pub(super) async fn changes(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<(String, String)>,
    Query(parameters): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, _) = request.into_parts();
    let (mut parameters, peer) = Parameters::read(&shared, parameters, &head)?;
    let (mut wanted, fields) = parameters.take_request(place)?;
    wanted.left = parameters.take_flag("left")?;
    wanted.from = parameters.take_position("from")?;
    if wants_events(&head.headers) {
        wanted.snapshot = parameters.take_flag("snapshot")?;
        parameters.finish()?;
        wanted.left |= wanted.snapshot;
        // A browser repeats the query of the first connection. The header is newer.
        if let Some(last) = last_event_id(&head.headers)? {
            wanted.from = Some(position(last)?);
        }
        return events::serve(&shared, peer, wanted, fields, &head).await;
    }
    let wait = Wait {
        time: parameters.take_wait()?,
        items: parameters.take_number("limit", 1..=MAX_ITEMS, poll::DEFAULT_ITEMS)?,
    };
    parameters.finish()?;
    let client = client_of(Some(&peer), address(&head));
    let _counted = shared.count_subscription(client, None)?;
    poll::serve(&shared, peer, wanted, fields, wait).await
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter();
    let mut accepts = accepts.filter_map(|value| value.to_str().ok());
    accepts.any(|value| value.contains("text/event-stream"))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let text = value.to_str();
    let text = text.map_err(|_| ApiError::invalid("`last-event-id` is not a position"))?;
    // A stream that has sent no id.
    Ok(Some(text).filter(|text| !text.is_empty()))
}
