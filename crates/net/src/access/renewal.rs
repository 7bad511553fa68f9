//! Newer credentials of a peer whose stream is open.

use std::{fmt, num::NonZeroU32};

use steadfast_access::Refused;
use tokio::sync::watch;
use tonic::Status;

use super::{AccessControl, KnownPeer, unauthenticated};
use crate::{MessageRate, RequestRate};

/// The peer of a call, which may renew its credentials as long as it stays the same principal.
pub struct RenewablePeer {
    current: watch::Sender<KnownPeer>,
    limit: RenewalLimit,
}

/// The messages with newer credentials that one stream may still send.
#[derive(Debug)]
pub struct RenewalLimit(MessageRate);

/// The reason why newer credentials end their stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    /// They come too often.
    #[error(
        "newer credentials came more than {} times at once, and then once in 1s; send them less often",
        RATE.burst
    )]
    TooOften,
    /// They are refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Each message is verified, and what the stream holds is compared with its rights. What a peer sent in the
/// right intervals may arrive together after a stall.
const RATE: RequestRate = RequestRate {
    per_second: NonZeroU32::new(1).expect("not zero"),
    burst: NonZeroU32::new(3).expect("not zero"),
};

impl RenewablePeer {
    /// Returns the peer as its call has begun.
    #[must_use]
    pub fn new(peer: KnownPeer) -> Self {
        Self {
            current: watch::Sender::new(peer),
            limit: RenewalLimit::default(),
        }
    }

    /// Returns the peer with its newest credentials.
    #[must_use]
    pub fn peer(&self) -> KnownPeer {
        self.current.borrow().clone()
    }

    /// Subscribes to the peer.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<KnownPeer> {
        self.current.subscribe()
    }

    /// Returns the peer with newer credentials, or `None` if everybody may do everything. They do not count
    /// before [`RenewablePeer::replace`].
    ///
    /// # Errors
    ///
    /// If the credentials are refused, are those of another principal, or come too often.
    pub fn with_newer(
        &self,
        access: &AccessControl,
        authorization: &str,
    ) -> Result<Option<KnownPeer>, NotRenewed> {
        let newer = self.limit.identify(access, authorization)?;
        // What the call holds belongs to the principal that opened it.
        let is_other = |it: &KnownPeer| it.principal() != self.current.borrow().principal();
        if newer.as_ref().is_some_and(is_other) {
            return Err(Refused::OtherPrincipal.into());
        }
        Ok(newer)
    }

    /// Puts newer credentials in the place of the last ones.
    pub fn replace(&self, newer: KnownPeer) {
        self.current.send_replace(newer);
    }
}

impl RenewalLimit {
    /// Returns the peer that sends newer credentials on its stream, or `None` if everybody may do everything.
    /// Any principal: the caller compares it with that of the stream.
    ///
    /// # Errors
    ///
    /// If the credentials are refused, or come too often.
    pub fn identify(
        &self,
        access: &AccessControl,
        authorization: &str,
    ) -> Result<Option<KnownPeer>, NotRenewed> {
        if !self.0.admit(1) {
            return Err(NotRenewed::TooOften);
        }
        Ok(access.reidentify(authorization)?)
    }
}

impl Default for RenewalLimit {
    fn default() -> Self {
        Self(MessageRate::new(RATE))
    }
}

impl NotRenewed {
    /// Returns the status of the stream.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::TooOften => Status::resource_exhausted(self.to_string()),
            Self::Refused(cause) => unauthenticated(cause),
        }
    }
}

impl fmt::Debug for RenewablePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RenewablePeer");
        shown.field("principal", &self.current.borrow().principal());
        shown.finish_non_exhaustive()
    }
}
