//! What all requests and sockets of a gateway share.

use std::sync::{Arc, atomic::AtomicUsize};

use steadfast_session::Time;
use tokio::time::Instant;

use crate::{
    idempotency::Keys, limits::Permits, metrics::Metrics, options::GatewayOptions, rights::Rights,
    sockets::Sockets, upstream::Upstream,
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

impl Shared {
    /// Returns the time of the machines.
    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    /// Returns the moment at which the machines have a time.
    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.started + at.since(Time::ZERO)
    }
}
