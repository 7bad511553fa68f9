//! `/diagnostics`, `/pressure-profiles` and the download of a profile.

use axum::{
    body::Body,
    extract::{Path, RawQuery, State as Shared},
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse as _,
};
use futures_util::StreamExt as _;

use super::{
    Api,
    cluster::with_missing,
    json, missing_header,
    parameters::{Parameters, RequestError},
    with_ignored,
};
use crate::{
    crashes,
    lanes::QueryError,
    profiles::{self, DownloadError, KINDS},
};

pub(super) async fn crashes(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, RequestError> {
    let parameters = Parameters::parse_without_times(query.as_deref())?;
    let (ignored, filter) = (parameters.ignored(), parameters.filter);
    let _permit = api.crashes.try_acquire().map_err(|_| RequestError::Busy)?;
    let (crashes, mut missing) = crashes::collect(&api.state, &filter).await;
    if crashes.is_empty() && missing.is_offered_by_none() {
        // An array has no place for a reason, and an empty one would mean that nothing crashed.
        let text =
            "no agent reports crashes: give the agents --crash-source-dir or --crash-files\n";
        return Ok((StatusCode::NOT_IMPLEMENTED, text).into_response());
    }
    let page = json(crashes::page(&crashes));
    let page = with_missing(page, missing_header(missing.text()));
    Ok(with_ignored(page, ignored))
}

pub(super) async fn profiles(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, RequestError> {
    let parameters = Parameters::parse_without_times(query.as_deref())?;
    let (ignored, filter) = (parameters.ignored(), parameters.filter);
    let _permit = api.profiles.try_acquire().map_err(|_| RequestError::Busy)?;
    let (profiles, mut missing) = profiles::list(&api.state, &filter).await;
    if missing.is_offered_by_none() {
        let text = "no agent captures profiles: give the agents --pressure-profiler-enabled\n";
        return Ok((StatusCode::NOT_IMPLEMENTED, text).into_response());
    }
    let page = json(profiles::page(&profiles));
    let page = with_missing(page, missing_header(missing.text()));
    Ok(with_ignored(page, ignored))
}

pub(super) async fn download(
    Shared(api): Shared<Api>,
    Path((pod, id, kind)): Path<(String, String, String)>,
) -> Result<Response<Body>, RequestError> {
    if !KINDS.contains(&&*kind) {
        let text = "unknown profile type: it is heap or goroutine\n";
        return Ok((StatusCode::BAD_REQUEST, text).into_response());
    }
    let permit = api.downloads.clone().try_acquire_owned();
    let permit = permit.map_err(|_| RequestError::Busy)?;
    let download = match profiles::download(&api.state, &pod, &id, &kind).await {
        Ok(download) => download,
        Err(error) => return Ok((status(&error), format!("{error}\n")).into_response()),
    };
    // Held until the body ends or its client is gone.
    let contents = download.contents.map(move |piece| {
        let _permit = &permit;
        piece
    });
    let mut response = Response::new(Body::from_stream(contents));
    let headers = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    let disposition = format!("attachment; filename=\"{}\"", download.filename);
    if let Ok(disposition) = HeaderValue::try_from(disposition) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// Returns the status of a download of which nothing was sent.
fn status(error: &DownloadError) -> StatusCode {
    match error {
        DownloadError::Unknown | DownloadError::Refused(_) => StatusCode::NOT_FOUND,
        DownloadError::Failed(QueryError::Late) => StatusCode::GATEWAY_TIMEOUT,
        DownloadError::Failed(QueryError::Busy | QueryError::MemoryExhausted) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        DownloadError::Failed(_) | DownloadError::WrongSize { .. } | DownloadError::TooLong => {
            StatusCode::BAD_GATEWAY
        }
    }
}
