//! The permit of an open connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    ClientKey, Refusals, RequestRates, client_key::KeyedPermit, descriptors::Descriptor,
    unfinished::UnfinishedMessages,
};

/// What the connections of one listener share.
#[derive(Debug)]
pub(crate) struct SharedLimits {
    pub(crate) refusals: Refusals,
    pub(crate) first_request_timeout: Duration,
    pub(crate) unfinished: Arc<UnfinishedMessages>,
    pub(crate) rates: Option<RequestRates>,
    next_id: AtomicU64,
}

/// The right to be open, and the limits that apply meanwhile.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    pub(crate) id: u64,
    pub(crate) client: ClientKey,
    pub(crate) accepted: Instant,
    /// Whether a write waits for the peer.
    pub(crate) write_waits: Arc<AtomicBool>,
    pub(crate) limits: Arc<SharedLimits>,
    _connection: OwnedSemaphorePermit,
    _descriptor: Descriptor,
    _of_client: KeyedPermit,
}

impl SharedLimits {
    pub(crate) fn new(
        refusals: Refusals,
        first_request_timeout: Duration,
        unfinished: Arc<UnfinishedMessages>,
        rates: Option<RequestRates>,
    ) -> Arc<Self> {
        Arc::new(Self {
            refusals,
            first_request_timeout,
            unfinished,
            rates,
            next_id: AtomicU64::new(0),
        })
    }
}

impl ConnectionPermit {
    pub(crate) fn new(
        client: ClientKey,
        limits: &Arc<SharedLimits>,
        (connection, descriptor, of_client): (OwnedSemaphorePermit, Descriptor, KeyedPermit),
    ) -> Arc<Self> {
        Arc::new(Self {
            id: limits.next_id.fetch_add(1, Relaxed),
            client,
            accepted: Instant::now(),
            write_waits: Arc::default(),
            limits: Arc::clone(limits),
            _connection: connection,
            _descriptor: descriptor,
            _of_client: of_client,
        })
    }

    /// Returns the time until which the first request must be complete.
    pub(crate) fn first_request_deadline(&self) -> Instant {
        self.accepted + self.limits.first_request_timeout
    }

    /// Counts a request. Returns the time after which the client may send one if it must not now.
    pub(crate) fn check_rate(&self) -> Result<(), Duration> {
        match &self.limits.rates {
            Some(rates) => rates.check(&self.client),
            None => Ok(()),
        }
    }
}
