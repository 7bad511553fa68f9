//! `/cluster/topology` and `/cluster/lifecycle`.

use axum::{
    body::Body,
    extract::State as Shared,
    http::{HeaderValue, Response, StatusCode},
    response::IntoResponse as _,
};

use super::{Api, MISSING, json, missing_header, parameters::RequestError, run_blocking};
use crate::{lifecycle, topology};

pub(super) async fn topology(Shared(api): Shared<Api>) -> Result<Response<Body>, RequestError> {
    let _permit = api.topology.try_acquire().map_err(|_| RequestError::Busy)?;
    let mut cluster = topology::collect(&api.state).await;
    if cluster.missing.is_offered_by_none() {
        // The shape of the releases has no place for a reason, and an empty page would be taken for
        // an empty cluster.
        let text = "no agent offers a topology: give the agents --cluster-state-ports\n";
        return Ok((StatusCode::NOT_IMPLEMENTED, text).into_response());
    }
    let agents = api.state.agents().by_pod(api.state.now());
    let page = cluster.json(&agents);
    Ok(with_missing(
        json(page),
        missing_header(cluster.missing.text()),
    ))
}

pub(super) async fn lifecycle(Shared(api): Shared<Api>) -> Result<Response<Body>, RequestError> {
    let _permit = api
        .lifecycle
        .try_acquire()
        .map_err(|_| RequestError::Busy)?;
    let mut all = lifecycle::collect(&api.state).await;
    let missing = missing_header(all.missing.text());
    // The groups of a large cluster have many objects on many nodes.
    let page = run_blocking(move || all.json(&mut api.state.schema())).await?;
    Ok(with_missing(json(page), missing))
}

pub(super) fn with_missing(
    mut response: Response<Body>,
    missing: Option<HeaderValue>,
) -> Response<Body> {
    if let Some(missing) = missing {
        response.headers_mut().insert(MISSING, missing);
    }
    response
}
