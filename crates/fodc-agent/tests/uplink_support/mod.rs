//! Shared by the tests of the uplink: stores of samples, and scripted proxies.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses its part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

pub(crate) mod lane;
pub(crate) mod record;
pub(crate) mod scripted;
pub(crate) mod server;

use std::{future::Future, time::Duration};

use prost_types::Timestamp;
use steadfast::{
    LinkOptions,
    dial::Servers,
    session::{State, Status},
};
use steadfast_fodc_agent::{
    identity::Identity,
    uplink::{Builder, SampleStore, Uplink},
};
use steadfast_wire::fodc::StreamMetricsResponse;
use tokio::{sync::watch, time::timeout};

/// The time limit of a wait on real sockets, long enough for a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Waits for a future that must complete in time.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

/// Waits for a future that must complete within a day of virtual time.
pub(crate) async fn someday<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(86_400), future)
        .await
        .unwrap_or_else(|_| panic!("not within a day: {what}"))
}

/// Waits for a status that satisfies `wanted`.
pub(crate) async fn until(
    mut status: watch::Receiver<Status>,
    wanted: impl FnMut(&Status) -> bool,
) -> Status {
    let reached = status.wait_for(wanted).await;
    reached.expect("the uplink is there").clone()
}

pub(crate) fn connected(status: &Status) -> bool {
    status.state == State::Connected
}

/// Returns an identity that is valid in both dialects.
pub(crate) fn identity() -> Identity {
    Identity {
        role: "ROLE_DATA".to_owned(),
        labels: [("type".to_owned(), "hot".to_owned())].into(),
        address: Some(("10.0.0.1".to_owned(), 17_912)),
        pod_name: "db-0".to_owned(),
        container_names: vec!["data".to_owned()],
    }
}

/// Returns a builder of an uplink with that identity and a fixed seed.
pub(crate) fn agent(address: impl Into<Servers>, record: impl SampleStore) -> Builder {
    let identity = watch::Sender::new(identity());
    Uplink::builder(address, identity.subscribe(), record).link(LinkOptions::new().seed(7))
}

/// Returns the query for the newest values.
pub(crate) fn latest() -> StreamMetricsResponse {
    StreamMetricsResponse::default()
}

/// Returns the query for a window in seconds.
pub(crate) fn window(
    from: impl Into<Option<i64>>,
    to: impl Into<Option<i64>>,
) -> StreamMetricsResponse {
    let at = |seconds| Timestamp { seconds, nanos: 0 };
    StreamMetricsResponse {
        start_time: from.into().map(at),
        end_time: to.into().map(at),
        ..StreamMetricsResponse::default()
    }
}
