//! Publishing documents: the response comes when all of them are durable.

mod body;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Json,
    body::{self as axum_body, Body},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::json;
use steadfast_streamer::{Entry, Position, PublishError, Publisher};
use tokio::time::timeout;

use self::body::documents;
use super::{error::ApiError, parameters::Parameters};
use crate::{
    idempotency::Claim, limits::client_of, metrics::Refused, rights::Peer,
    server::realtime::address, shared::Shared,
};

/// The header with the key of a request that may be repeated.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The longest key, in bytes.
const KEY_BYTES: usize = 128;

/// The largest body, in bytes.
const BODY_BYTES: usize = 8 << 20;

/// The longest wait for a body: it may be as slow as 140 KB/s at its largest.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest wait until everything is durable, as a multiple of that for the response to a subscription.
const DURABLE_TIMEOUTS: u32 = 3;

/// What happens to the documents of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// They are stored.
    Upsert,
    /// They are deleted.
    Delete,
}

/// Publishes the documents of the body.
pub(super) async fn publish(
    State(shared): State<Arc<Shared>>,
    Path((database, collection)): Path<(String, String)>,
    Query(parameters): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let (mut parameters, peer) = Parameters::read(&shared, parameters, &head)?;
    let operation = match parameters.take("op")?.as_deref() {
        None => Operation::Upsert,
        Some("delete") => Operation::Delete,
        Some(_) => return Err(ApiError::invalid("`op` is delete, or absent")),
    };
    parameters.finish()?;
    let may_publish = |peer: &Peer| {
        if peer.may_publish(&database, &collection) {
            return Ok(());
        }
        shared.metrics.refuse(Refused::Denied);
        Err(ApiError::denied("you may not publish to this collection"))
    };
    // Before the body is read: it is nothing that a stranger may have stored for a while.
    may_publish(&peer)?;
    let key = key(&head.headers)?;
    let body = tokio::select! {
        body = read_body(body) => body?,
        refused = peer.expired() => return Err(refused.into()),
    };
    // And after it, which may have taken long enough to lose the right.
    let peer = shared.rights.recheck(&peer)?.unwrap_or(peer);
    may_publish(&peer)?;
    let entries = documents(&body, (&database, &collection), operation)?;
    let count = entries.len();
    let position = match key {
        None => publish_all(&shared, shared.upstream.publisher(), entries).await?,
        Some(key) => {
            let principal = &peer.principal().name;
            let parts = [&**principal, &*database, &*collection, &*key];
            let is_delete = operation == Operation::Delete;
            let client = client_of(Some(&peer), address(&head));
            let claim = shared.keys.claim(&client, &parts, is_delete, &body)?;
            publish_once(&shared, claim, entries).await?
        }
    };
    shared.metrics.published.fetch_add(count as u64, Relaxed);
    let mut response = json!({"published": count});
    if let Some(position) = position {
        response["position"] = position.to_string().into();
    }
    Ok((StatusCode::OK, Json(response)).into_response())
}

fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    let text = key.to_str().ok().filter(|_| keys.next().is_none());
    let text = text.filter(|text| (1..=KEY_BYTES).contains(&text.len()));
    text.map(|text| Some(text.to_owned())).ok_or_else(|| {
        let message = format!("`{IDEMPOTENCY_KEY}` is one text of 1 to {KEY_BYTES} bytes of ASCII");
        ApiError::invalid(message)
    })
}

async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body has at most {BODY_BYTES} bytes; send several requests");
        ApiError::too_large(message)
    };
    if http_body::Body::size_hint(&body).lower() > BODY_BYTES as u64 {
        return Err(too_large());
    }
    let read = timeout(BODY_TIMEOUT, axum_body::to_bytes(body, BODY_BYTES)).await;
    let read = read.map_err(|_| {
        let seconds = BODY_TIMEOUT.as_secs();
        ApiError::invalid(format!(
            "the body has not come within {seconds} s; send several requests"
        ))
    })?;
    read.map_err(|error| {
        let error = error.into_inner();
        if error.is::<http_body_util::LengthLimitError>() {
            too_large()
        } else {
            ApiError::invalid(format!("the body cannot be read: {error}"))
        }
    })
}

/// Publishes with a producer of the key, so that what the log has already is not appended again: also after
/// a kill of this gateway, and through another one.
async fn publish_once(
    shared: &Shared,
    claim: Claim,
    entries: Vec<Entry>,
) -> Result<Option<Position>, ApiError> {
    let options = shared.upstream.options();
    let publisher = options.publisher(Some(claim.producer()));
    let publisher = publisher.map_err(|error| ApiError::unavailable(error.to_string()))?;
    let result = publish_all(shared, &publisher, entries).await;
    // The claim bounds the connections, so that it ends with this one.
    shared.tasks.spawn(async move {
        publisher.close().await;
        drop(claim);
    });
    result
}

/// Publishes entries, and returns the position after them; `None` if the log had all of them before.
async fn publish_all(
    shared: &Shared,
    publisher: &Publisher,
    entries: Vec<Entry>,
) -> Result<Option<Position>, ApiError> {
    let all = async {
        let mut pending = Vec::with_capacity(entries.len());
        for entry in entries {
            pending.push(publisher.enqueue(entry).await?);
        }
        let mut position = None;
        let mut refused = None;
        for (index, entry) in pending.into_iter().enumerate() {
            match entry.await {
                Ok(entry) => position = entry.position.or(position),
                // The others are published all the same, and their result is known before the response.
                Err(PublishError::Refused { message, .. }) => {
                    refused.get_or_insert(format!("document {}: {message}", index + 1));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(refused.map_or(Ok(position), Err))
    };
    let limit = shared.upstream.options().open_timeout * DURABLE_TIMEOUTS;
    match timeout(limit, all).await {
        Ok(Ok(Ok(position))) => Ok(position),
        Ok(Ok(Err(refused))) => Err(ApiError::invalid(refused)),
        Ok(Err(error)) => Err(ApiError::unavailable(error.to_string())),
        Err(_) => Err(ApiError::unavailable(
            "the documents are not known to be durable; with an idempotency key the request can be repeated",
        )),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::{
        driver::tests::{Tokens, shared},
        limits::Limits,
    };

    fn never() -> Body {
        Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_does_not_come_is_refused_in_time() {
        let started = tokio::time::Instant::now();
        let error = read_body(never()).await.unwrap_err();
        assert!(format!("{error:?}").contains("within 60 s"), "{error:?}");
        assert_eq!(started.elapsed().as_secs(), BODY_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn token_that_expires_before_the_body_is_there_is_refused() {
        let lifetime = Duration::from_secs(5);
        let tokens = Tokens::expiring(lifetime);
        let (rights, _file) = tokens.load();
        let shared = shared(rights, Limits::default());
        let request = Request::builder()
            .header("authorization", format!("Bearer {}", tokens.token()))
            .body(never())
            .unwrap();
        let place = Path(("d".to_owned(), "c".to_owned()));
        let started = tokio::time::Instant::now();
        let error = publish(State(shared), place, Query(Vec::new()), request);
        let error = error.await.unwrap_err();
        assert!(
            format!("{error:?}").contains("unauthenticated"),
            "{error:?}"
        );
        assert!(started.elapsed() <= lifetime + Duration::from_millis(10));
    }
}
