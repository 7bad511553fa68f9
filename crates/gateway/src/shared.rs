//! What all requests and sockets of a gateway share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use steadfast_net::{ClientKey, KeyedPermit};
use steadfast_session::Time;
use tokio::time::Instant;

use crate::{
    idempotency::Keys,
    limits::Permits,
    metrics::{Metrics, Refused},
    options::GatewayOptions,
    rights::Rights,
    sockets::{Signals, Sockets},
    subscription::{End, EndCode},
    upstream::Upstream,
};

/// What all requests and sockets of a gateway share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: GatewayOptions,
    pub(crate) server: Arc<str>,
    pub(crate) upstream: Upstream,
    pub(crate) keys: Keys,
    pub(crate) rights: Rights,
    pub(crate) permits: Permits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) tasks: steadfast_net::Tasks,
    /// The bytes of messages that clients have begun and not finished, on all sockets.
    pub(crate) unfinished: Arc<AtomicUsize>,
    /// The bytes of snapshots that are collected and of messages that are not sent, on all sockets.
    pub(crate) waiting: Arc<AtomicUsize>,
    /// Only programs of this machine can connect, browsers included.
    pub(crate) is_loopback: bool,
    pub(crate) started: Instant,
}

/// A subscription that counts for the limit of its client, for the metrics and for its socket, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    metrics: Arc<Metrics>,
    socket: Option<Arc<Signals>>,
    _permit: KeyedPermit,
}

impl Shared {
    /// Counts a subscription.
    ///
    /// # Errors
    ///
    /// If its client has as many as it may.
    pub(crate) fn count_subscription(
        &self,
        client: ClientKey,
        socket: Option<&Arc<Signals>>,
    ) -> Result<Counted, End> {
        let permit = self.permits.subscription(client).ok_or_else(|| {
            let max = self.options.limits.subscriptions_per_principal;
            self.metrics.refuse(Refused::PrincipalSubscriptions);
            End::new(
                EndCode::Limit,
                format!("a client may have {max} subscriptions on all its sockets"),
            )
        })?;
        self.metrics.subscriptions.fetch_add(1, Relaxed);
        if let Some(socket) = socket {
            socket.figures.subscriptions.fetch_add(1, Relaxed);
        }
        Ok(Counted {
            metrics: Arc::clone(&self.metrics),
            socket: socket.cloned(),
            _permit: permit,
        })
    }

    /// Returns the time of the machines.
    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    /// Returns the moment at which the machines have a time.
    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.started + at.since(Time::ZERO)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.subscriptions.fetch_sub(1, Relaxed);
        if let Some(socket) = &self.socket {
            socket.figures.subscriptions.fetch_sub(1, Relaxed);
        }
    }
}
