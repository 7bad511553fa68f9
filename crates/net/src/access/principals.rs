//! Limits on the calls of one principal, over all its connections. Those of a peer without credentials count for
//! its address.

use std::{sync::Arc, time::Duration};

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use super::KnownPeer;
use crate::{KeyedPermit, KeyedPermits, Refusal, Refusals, RequestRate, RequestRates};

/// The calls that one principal may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrincipalLimits {
    /// Open calls at most. Default 5,000.
    pub calls: usize,
    /// Maximum rate of calls. Default 2,000 per second, 20,000 at once.
    pub rate: RequestRate,
}

/// Counts the calls of each principal. Clones share the counters.
#[derive(Clone, Debug)]
pub struct Principals(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    limits: PrincipalLimits,
    open: Arc<KeyedPermits>,
    rates: RequestRates,
    refusals: Refusals,
}

impl Default for PrincipalLimits {
    /// As for an address: far above what one process does, and half of what the Streamer has in all.
    fn default() -> Self {
        Self {
            calls: 5_000,
            rate: RequestRate::default(),
        }
    }
}

impl Principals {
    /// Returns counters without calls. What they refuse is counted in `refusals`.
    #[must_use]
    pub fn new(limits: PrincipalLimits, refusals: Refusals) -> Self {
        Self(Arc::new(Counted {
            limits,
            open: KeyedPermits::new(limits.calls),
            rates: RequestRates::new(limits.rate),
            refusals,
        }))
    }

    /// Counts a call. The permit is held for as long as the call is open.
    ///
    /// # Errors
    ///
    /// Returns the status of a call that is too many, with the time to return if that is known.
    pub fn admit(&self, peer: &KnownPeer) -> Result<KeyedPermit, Status> {
        self.try_admit(peer).map_err(Status::from)
    }

    /// Does the same for any protocol.
    pub(super) fn try_admit(&self, peer: &KnownPeer) -> Result<KeyedPermit, TooManyCalls> {
        let Counted {
            limits,
            open,
            rates,
            refusals,
        } = &*self.0;
        let key = peer.client_key();
        if let Err(wait) = rates.check(&key) {
            refusals.count(Refusal::PrincipalRate);
            return Err(TooManyCalls::Rate(wait));
        }
        open.try_acquire(key).ok_or_else(|| {
            refusals.count(Refusal::PrincipalCalls);
            TooManyCalls::Open(limits.calls)
        })
    }
}

/// The refusal of a call that is too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooManyCalls {
    /// The principal has as many open ones as it may.
    #[error("you have {0} open calls, which is the limit of one principal; end some")]
    Open(usize),
    /// The next one is accepted after this time.
    #[error("you make more calls than one principal may; try again in {} ms", .0.as_millis())]
    Rate(Duration),
}

impl TooManyCalls {
    /// Returns the time to return if that is known.
    pub(super) fn wait(self) -> Option<Duration> {
        match self {
            Self::Open(_) => None,
            Self::Rate(wait) => Some(wait),
        }
    }
}

impl From<TooManyCalls> for Status {
    fn from(refused: TooManyCalls) -> Self {
        let mut metadata = MetadataMap::new();
        if let Some(wait) = refused.wait() {
            // As from the listener (gRFC A6).
            let pushback = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(pushback));
        }
        Self::with_metadata(Code::ResourceExhausted, refused.to_string(), metadata)
    }
}
