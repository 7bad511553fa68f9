//! The credentials of a registration, as its stream renews them.

use std::fmt;

use steadfast_net::{
    KeyedPermit,
    access::{KnownPeer, RenewablePeer},
};
use tokio::sync::watch;
use uuid::Uuid;

/// A peer whose call counts for its principal for as long as this lives.
#[derive(Debug)]
pub(super) struct AdmittedPeer {
    pub(super) known: KnownPeer,
    pub(super) permit: KeyedPermit,
}

/// The credentials of a registration, which its stream renews.
pub(super) struct Credentials {
    pub(super) renewable: RenewablePeer,
    /// Streams that show it are a part of the registration: only its client knows it.
    key: Uuid,
}

/// The principal of an agent, and the credentials of its registration.
pub(super) struct Owner {
    principal: String,
    key: Uuid,
    credentials: watch::Receiver<KnownPeer>,
}

impl Credentials {
    pub(super) fn new(peer: KnownPeer) -> Self {
        Self {
            renewable: RenewablePeer::new(peer),
            key: Uuid::new_v4(),
        }
    }

    /// Returns the peer of the registration.
    pub(super) fn peer(&self) -> KnownPeer {
        self.renewable.peer()
    }

    pub(super) fn key(&self) -> String {
        self.key.simple().to_string()
    }

    pub(super) fn owner(&self) -> Owner {
        Owner {
            principal: self.peer().principal(),
            key: self.key,
            credentials: self.renewable.subscribe(),
        }
    }
}

impl Owner {
    pub(super) fn is(&self, principal: &str) -> bool {
        self.principal == principal
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.is(&other.principal)
    }

    /// Returns the credentials of the registration for a stream that shows its key.
    pub(super) fn credentials(&self, key: Uuid) -> Option<watch::Receiver<KnownPeer>> {
        (self.key == key).then(|| self.credentials.clone())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Owner");
        shown.field("principal", &self.principal);
        shown.finish_non_exhaustive()
    }
}
