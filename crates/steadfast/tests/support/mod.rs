//! Shared by the integration tests. Each test binary uses its part.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses its part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

pub(crate) mod note;
#[cfg(all(unix, feature = "tls"))]
#[path = "pki.rs"]
pub(crate) mod pki;
#[cfg(all(unix, feature = "tls"))]
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod sockets;

use std::{future::Future, time::Duration};

use steadfast::session::Status;
use tokio::{sync::watch, time::timeout};

/// The time limit of a single wait, in real or virtual time.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

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
    what: &str,
    status: &mut watch::Receiver<Status>,
    wanted: impl FnMut(&Status) -> bool,
) -> Status {
    let reached = timeout(LIMIT, status.wait_for(wanted))
        .await
        .map(|reached| reached.expect("the link is there").clone());
    reached.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}: {:?}", *status.borrow()))
}
