//! The descriptors of the process that connections may use.

use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

/// Descriptors that are never used for connections: a log that cannot open a file has failed, and a
/// listener without one cannot even refuse a connection.
const RESERVE_MIN: usize = 32;
/// The largest reserve; before it a quarter of all.
const RESERVE_MAX: usize = 1_024;

/// Returns a permit for each connection that all listeners of the process may have open together: one
/// for each descriptor that the system allowed when the first listener started, less a reserve.
pub(crate) fn permits() -> Arc<Semaphore> {
    static PERMITS: OnceLock<Arc<Semaphore>> = OnceLock::new();
    let permits = PERMITS.get_or_init(|| Arc::new(Semaphore::new(usable())));
    Arc::clone(permits)
}

/// Returns the number of descriptors that connections may use.
pub(crate) fn usable() -> usize {
    without_reserve(limit())
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
    fn reserve_is_a_quarter_within_its_bounds() {
        for (limit, expected) in [(0, 1), (64, 32), (1_024, 768), (1 << 20, (1 << 20) - 1_024)] {
            assert_eq!(without_reserve(Some(limit)), expected, "{limit}");
        }
        assert!(without_reserve(None) > 1 << 20);
    }
}
