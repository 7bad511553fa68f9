//! The credentials of a registration, as its stream renews them.

use std::fmt;

use steadfast_net::{
    KeyedPermit, MessageRate,
    access::{CREDENTIALS_RATE, KnownPeer},
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
    current: watch::Sender<KnownPeer>,
    /// Streams that show it are a part of the registration: only its client knows it.
    key: Uuid,
    rate: MessageRate,
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
            current: watch::Sender::new(peer),
            key: Uuid::new_v4(),
            rate: MessageRate::new(CREDENTIALS_RATE),
        }
    }

    pub(super) fn peer(&self) -> KnownPeer {
        self.current.borrow().clone()
    }

    pub(super) fn key(&self) -> String {
        self.key.simple().to_string()
    }

    /// Returns the time for which they are valid, in ms; 0 if they do not expire.
    pub(super) fn expires_in_ms(&self) -> u64 {
        let expires_in = self.current.borrow().expires_in();
        let millis = expires_in.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        millis.map_or(0, |millis| millis.max(1))
    }

    /// Replaces them.
    pub(super) fn replace(&self, newer: KnownPeer) {
        self.current.send_replace(newer);
    }

    /// Counts newer ones. Returns false if they come too often.
    pub(super) fn admit_newer(&self) -> bool {
        self.rate.admit(1)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<KnownPeer> {
        self.current.subscribe()
    }

    pub(super) fn owner(&self) -> Owner {
        Owner {
            principal: self.current.borrow().principal(),
            key: self.key,
            credentials: self.subscribe(),
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
