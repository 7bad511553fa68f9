//! A long poll, for those who have nothing else.

use std::{sync::Arc, time::Duration};

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;
use steadfast_streamer::client::{JsonLines, Projection};
use tokio::time::{Instant, timeout_at};

use crate::{
    http::error::ApiError,
    rights::Peer,
    shared::Shared,
    subscription::{Event, Request},
    upstream::Handle,
};

/// The most items of one response.
pub(super) const MAX_ITEMS: usize = 1_000;
pub(super) const DEFAULT_ITEMS: usize = 100;

/// The size from which no item is added to a response, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// The end of a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// The time without an item.
    pub(super) time: Duration,
    /// The number of items.
    pub(super) items: usize,
}

/// Responds with the next items, or with none when the time is over. The wait ends with the credentials.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    peer: Peer,
    wanted: Request,
    fields: Option<Projection>,
    wait: Wait,
) -> Result<Response, ApiError> {
    tokio::select! {
        // First: what is there at the end of the credentials is not shown.
        biased;
        refused = peer.expired() => Err(refused.into()),
        response = respond(shared, &peer, wanted, fields, wait) => response,
    }
}

async fn respond(
    shared: &Arc<Shared>,
    peer: &Peer,
    wanted: Request,
    fields: Option<Projection>,
    wait: Wait,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + wait.time;
    let has_start = wanted.from.is_some();
    let mut handle = shared.upstream.open(wanted, peer);
    match handle.next().await {
        Event::Ended(end) => return Err(end.into()),
        Event::Opened { .. } | Event::Item(_) | Event::Window { .. } | Event::Progress(_) => {}
    }
    let lines = JsonLines {
        subscription: None,
        fields: fields.as_ref(),
    };
    let mut items = String::new();
    if has_start {
        tokio::select! {
            collected = collect(&mut handle, lines, deadline, wait.items, &mut items) => collected?,
            // The client asks the next gateway, from the same position.
            () = shared.tasks.draining() => {}
        }
    }
    if shared.rights.recheck(peer)?.is_some() {
        // What was read belongs to the rights before.
        return Err(ApiError::unavailable("the rules have changed; ask again"));
    }
    let Some(position) = handle.position() else {
        let what = "the Streamer has no positions, or has lost them; read the documents again";
        return Err(ApiError::unavailable(what));
    };
    let body = format!("{{\"items\":[{items}],\"position\":\"{position}\"}}");
    let json = HeaderValue::from_static("application/json");
    let not_stored = HeaderValue::from_static("no-store");
    let headers = [
        (header::CONTENT_TYPE, json),
        (header::CACHE_CONTROL, not_stored),
    ];
    Ok((headers, body).into_response())
}

/// Waits for an item, and takes those after it that are there already.
async fn collect(
    handle: &mut Handle,
    lines: JsonLines<'_>,
    deadline: Instant,
    limit: usize,
    items: &mut String,
) -> Result<(), ApiError> {
    let Ok(mut event) = timeout_at(deadline, handle.next()).await else {
        return Ok(());
    };
    let mut count = 0;
    loop {
        match event {
            Event::Item(item) => {
                if count > 0 {
                    items.push(',');
                }
                count += 1;
                lines.write(&item, items);
            }
            // The items before it are told first; the next request learns of the end.
            Event::Ended(_) if count > 0 => return Ok(()),
            Event::Ended(end) => return Err(end.into()),
            Event::Opened { .. } | Event::Window { .. } | Event::Progress(_) => {}
        }
        if count >= limit || items.len() >= MAX_BYTES {
            return Ok(());
        }
        match handle.next().now_or_never() {
            Some(next) => event = next,
            None => return Ok(()),
        }
    }
}
