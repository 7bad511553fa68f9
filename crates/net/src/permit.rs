//! The permit of an open connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    ClientKey, Refusals, RequestRates, client_key::KeyedPermit, unfinished::UnfinishedMessages,
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
    pub(crate) limits: Arc<SharedLimits>,
    _connection: OwnedSemaphorePermit,
    _descriptor: OwnedSemaphorePermit,
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
        (connection, descriptor, of_client): (
            OwnedSemaphorePermit,
            OwnedSemaphorePermit,
            KeyedPermit,
        ),
    ) -> Arc<Self> {
        Arc::new(Self {
            id: limits.next_id.fetch_add(1, Relaxed),
            client,
            accepted: Instant::now(),
            limits: Arc::clone(limits),
            _connection: connection,
            _descriptor: descriptor,
            _of_client: of_client,
        })
    }

    /// Counts a request. Returns the time after which the client may send one if it must not now.
    pub(crate) fn check_rate(&self) -> Result<(), Duration> {
        match &self.limits.rates {
            Some(rates) => rates.check(&self.client),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl ConnectionPermit {
    /// Returns a permit with the default limits.
    pub(crate) fn for_test() -> Arc<Self> {
        use crate::UnfinishedLimits;

        let refusals = Refusals::default();
        let unfinished = UnfinishedMessages::new(UnfinishedLimits::default(), refusals.clone());
        let limits = SharedLimits::new(refusals, Duration::from_secs(10), unfinished, None);
        let client = ClientKey::V4(std::net::Ipv4Addr::LOCALHOST);
        let permits = || Arc::new(tokio::sync::Semaphore::new(1));
        let permit = || permits().try_acquire_owned().expect("nothing is held");
        let of_client = crate::KeyedPermits::new(1).try_acquire(client.clone());
        let of_client = of_client.expect("nothing is held");
        Self::new(client, &limits, (permit(), permit(), of_client))
    }
}
