//! What limits are counted by.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One client, as limits see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// An IPv4 address, also one written as IPv6.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address. One host is given that many addresses, so that a limit
    /// on single addresses would not bind it.
    V6(u64),
    /// The name of an authenticated client.
    Principal(Arc<str>),
}

/// The number of things that each client holds, within a limit.
#[derive(Debug)]
pub struct KeyedPermits {
    limit: usize,
    /// A client without permits has no entry, so that the map is as large as what is open.
    held: Mutex<HashMap<ClientKey, usize>>,
}

/// A permit of one client; returned when dropped.
#[derive(Debug)]
pub struct KeyedPermit {
    from: Arc<KeyedPermits>,
    key: ClientKey,
}

impl From<IpAddr> for ClientKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl KeyedPermits {
    /// Returns permits of which each client may hold `limit`.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: Mutex::default(),
        })
    }

    /// Returns a permit, or `None` if the client holds as many as it may.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, key: ClientKey) -> Option<KeyedPermit> {
        let mut held = self.held();
        let count = held.get(&key).copied().unwrap_or(0);
        if count >= self.limit {
            return None;
        }
        held.insert(key.clone(), count + 1);
        drop(held);
        let from = Arc::clone(self);
        Some(KeyedPermit { from, key })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<ClientKey, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for KeyedPermit {
    fn drop(&mut self) {
        let mut held = self.from.held();
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_client_share_its_permits() {
        for (first, same, other) in [
            ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
        ] {
            let key = |text: &str| ClientKey::from(text.parse::<IpAddr>().unwrap());
            let permits = KeyedPermits::new(1);
            let held = permits.try_acquire(key(first));
            assert!(held.is_some());
            assert!(permits.try_acquire(key(same)).is_none(), "{same}");
            assert!(permits.try_acquire(key(other)).is_some(), "{other}");
            drop(held);
            assert!(permits.try_acquire(key(same)).is_some(), "{same}");
            assert!(permits.held().is_empty(), "no entry without a permit");
        }
    }
}
