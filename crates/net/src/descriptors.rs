//! The descriptors of the process that connections may use.

use std::sync::{Arc, LazyLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{ClientKey, KeyedPermits, Refusal, client_key::KeyedPermit};

/// Descriptors for connections, of which one client may have half.
#[derive(Debug)]
pub(crate) struct Descriptors {
    count: usize,
    free: Arc<Semaphore>,
    of_clients: Arc<KeyedPermits>,
}

/// The descriptor of a connection; returned when dropped.
#[derive(Debug)]
pub(crate) struct Descriptor {
    _one: OwnedSemaphorePermit,
    _of_client: KeyedPermit,
}

/// Descriptors that are never used for the connections of clients: a log that cannot open a file has
/// failed, and a listener without one cannot even refuse a connection.
const RESERVE_MIN: usize = 32;
/// The largest reserve; before it a quarter of all.
const RESERVE_MAX: usize = 1_024;
/// The part of the reserve for listeners for operations, which must answer when clients have taken all
/// others.
const OPERATIONS: usize = 8;

/// What the system allowed when the first listener started, less the reserve.
static CLIENTS: LazyLock<Descriptors> =
    LazyLock::new(|| Descriptors::new(without_reserve(limit())));
static OF_OPERATIONS: LazyLock<Descriptors> = LazyLock::new(|| Descriptors::new(OPERATIONS));

/// Returns a descriptor for a connection of any listener of the process, or the limit that is reached.
pub(crate) fn try_acquire(
    client: &ClientKey,
    for_operations: bool,
) -> Result<Descriptor, (Refusal, usize)> {
    let acquired = CLIENTS.try_acquire(client);
    match acquired {
        Err(_) if for_operations => OF_OPERATIONS.try_acquire(client),
        _ => acquired,
    }
}

impl Descriptors {
    fn new(count: usize) -> Self {
        Self {
            count,
            free: Arc::new(Semaphore::new(count)),
            of_clients: KeyedPermits::new(count.div_ceil(2)),
        }
    }

    fn try_acquire(&self, client: &ClientKey) -> Result<Descriptor, (Refusal, usize)> {
        let of_client = self.of_clients.try_acquire(client.clone());
        let one = Arc::clone(&self.free).try_acquire_owned().ok();
        match (one, of_client) {
            (Some(one), Some(of_client)) => Ok(Descriptor {
                _one: one,
                _of_client: of_client,
            }),
            (_, None) => Err((Refusal::ClientConnections, self.count.div_ceil(2))),
            (None, _) => Err((Refusal::Descriptors, self.count)),
        }
    }
}

fn without_reserve(limit: Option<u64>) -> usize {
    let limit = limit.map_or(Semaphore::MAX_PERMITS, |limit| limit as usize);
    let reserve = (limit / 4).clamp(RESERVE_MIN, RESERVE_MAX);
    // One at least, so that a server under an absurd limit fails where it says why.
    limit
        .saturating_sub(reserve)
        .clamp(1, Semaphore::MAX_PERMITS)
}

#[cfg(unix)]
fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_the_descriptors_of_others() {
        let descriptors = Descriptors::new(7);
        let take = |client| descriptors.try_acquire(&ClientKey::V6(client));
        let mut held: Vec<_> = (0..4).map(|_| take(1).unwrap()).collect();
        assert_eq!(take(1).unwrap_err(), (Refusal::ClientConnections, 4));
        held.extend((0..3).map(|_| take(2).unwrap()));
        assert_eq!(take(2).unwrap_err(), (Refusal::Descriptors, 7));
        // What a refused connection held meanwhile is returned.
        held.remove(0);
        take(2).unwrap();
        take(1).unwrap();
    }

    #[test]
    fn reserve_is_a_quarter_within_its_bounds() {
        for (limit, expected) in [(0, 1), (64, 32), (1_024, 768), (1 << 20, (1 << 20) - 1_024)] {
            assert_eq!(without_reserve(Some(limit)), expected, "{limit}");
        }
        assert!(without_reserve(None) > 1 << 20);
    }
}
