//! Limits on what one client may hold.

use std::{
    cmp::Ordering,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use steadfast_net::{ClientKey, KeyedPermit, KeyedPermits, RequestRate};

use crate::rights::Peer;

/// Limits of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Open connections. Default 65,536.
    pub connections: usize,
    /// Open connections of one address, or of one /64 network of IPv6. Default 32,768.
    pub client_connections: usize,
    /// Sockets and streams of one principal. Default 16,384.
    pub sockets_per_principal: usize,
    /// Subscriptions of one socket. Default 256.
    pub subscriptions_per_socket: usize,
    /// Subscriptions of one principal, on all its sockets. Default 65,536.
    pub subscriptions_per_principal: usize,
    /// Messages that a socket may send. Default 100 per second, and 2,000 at once: a client that connects
    /// again repeats all its subscriptions.
    pub messages: RequestRate,
    /// Bytes of a frame of a client. Default 64 KiB.
    pub frame_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            client_connections: 32_768,
            sockets_per_principal: 16_384,
            subscriptions_per_socket: 256,
            subscriptions_per_principal: 65_536,
            messages: RequestRate {
                per_second: NonZeroU32::new(100).expect("not zero"),
                burst: NonZeroU32::new(2_000).expect("not zero"),
            },
            frame_bytes: 64 << 10,
        }
    }
}

/// The bytes of snapshots and unsent messages on all sockets, from which nobody collects a snapshot.
pub(crate) const WAITING_BYTES: usize = 512 << 20;

/// The permits that are in use.
#[derive(Debug)]
pub(crate) struct Permits {
    sockets: Arc<KeyedPermits>,
    subscriptions: Arc<KeyedPermits>,
}

/// Returns the client that limits are counted for: the principal of a peer, or its address if it has no
/// credentials or there is no policy.
pub(crate) fn client_of(peer: Option<&Peer>, address: Option<IpAddr>) -> ClientKey {
    let peer = peer.filter(|peer| peer.shares_limits());
    match (peer, address) {
        (Some(peer), _) => ClientKey::Principal(peer.principal().name),
        (None, Some(address)) => ClientKey::from(address),
        (None, None) => ClientKey::Principal("unknown".into()),
    }
}

impl Permits {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            sockets: KeyedPermits::new(limits.sockets_per_principal),
            subscriptions: KeyedPermits::new(limits.subscriptions_per_principal),
        }
    }

    /// Returns the permit of a socket, or `None` if its principal has as many as it may.
    pub(crate) fn socket(&self, key: ClientKey) -> Option<KeyedPermit> {
        self.sockets.try_acquire(key)
    }

    /// Returns the permit of a subscription, or `None` if its principal has as many as it may.
    pub(crate) fn subscription(&self, key: ClientKey) -> Option<KeyedPermit> {
        self.subscriptions.try_acquire(key)
    }
}

/// Bytes that one socket holds, counted with those of all others until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    of_all: Arc<AtomicUsize>,
    own: usize,
}

impl Held {
    pub(crate) fn new(of_all: &Arc<AtomicUsize>) -> Self {
        Self {
            of_all: Arc::clone(of_all),
            own: 0,
        }
    }

    pub(crate) fn own(&self) -> usize {
        self.own
    }

    /// Sets the bytes of this socket. Returns those of all.
    pub(crate) fn set(&mut self, own: usize) -> usize {
        let before = std::mem::replace(&mut self.own, own);
        match own.cmp(&before) {
            Ordering::Equal => self.of_all.load(Relaxed),
            Ordering::Greater => self.of_all.fetch_add(own - before, Relaxed) + own - before,
            Ordering::Less => self.of_all.fetch_sub(before - own, Relaxed) - (before - own),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
