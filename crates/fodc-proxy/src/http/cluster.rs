//! `/cluster/topology` and `/cluster/lifecycle`.

use axum::{
    body::Body,
    extract::State as Shared,
    http::{Response, StatusCode},
    response::IntoResponse as _,
};

use super::{Api, MISSING, json, missing_header, parameters::RequestError};
use crate::{lifecycle, stream_queries::Missing, topology};

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
    Ok(with_missing(json(page), &mut cluster.missing))
}

pub(super) async fn lifecycle(Shared(api): Shared<Api>) -> Result<Response<Body>, RequestError> {
    let _permit = api
        .lifecycle
        .try_acquire()
        .map_err(|_| RequestError::Busy)?;
    let mut all = lifecycle::collect(&api.state).await;
    let mut missing = std::mem::take(&mut all.missing);
    let page = all.json(&missing);
    Ok(with_missing(json(page), &mut missing))
}

pub(super) fn with_missing(mut response: Response<Body>, missing: &mut Missing) -> Response<Body> {
    if let Some(missing) = missing_header(missing.text()) {
        response.headers_mut().insert(MISSING, missing);
    }
    response
}
