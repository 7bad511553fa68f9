//! Limits on the rate of requests and messages.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, keyed::HashMapStateStore},
};
use http::HeaderValue;
use tokio::time::Instant;

use crate::ClientKey;

/// The requests or messages that one client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRate {
    /// The number per second in the long run.
    pub per_second: NonZeroU32,
    /// The number at once after a pause.
    pub burst: NonZeroU32,
}

/// Counts the requests of each client.
#[derive(Debug)]
pub struct RequestRates {
    limiter: Limiter,
    checks: AtomicU32,
}

type Limiter =
    RateLimiter<ClientKey, HashMapStateStore<ClientKey>, TokioClock, NoOpMiddleware<Time>>;

/// Counts the messages of one connection or stream.
#[derive(Debug)]
pub struct MessageRate(RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Time>>);

/// The time of tokio, so that tests with virtual time see the same limits.
#[derive(Clone, Copy, Debug)]
struct TokioClock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Time(Instant);

/// The number of requests after which clients are forgotten that have their whole burst again. A sweep
/// visits all clients, so that one with each request would be an attack by itself.
const SWEEP_CHECKS: u32 = 4_096;

impl Default for RequestRate {
    /// Far above what one process sends, so that a relay in front of many clients is not limited.
    fn default() -> Self {
        Self {
            per_second: NonZeroU32::new(2_000).expect("not zero"),
            burst: NonZeroU32::new(20_000).expect("not zero"),
        }
    }
}

impl RequestRate {
    fn quota(self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }
}

impl MessageRate {
    /// Returns a counter without messages.
    #[must_use]
    pub fn new(rate: RequestRate) -> Self {
        Self(RateLimiter::direct_with_clock(rate.quota(), TokioClock))
    }

    /// Counts messages that came together. Returns false if they are too many; then none is counted.
    #[must_use]
    pub fn admit(&self, messages: usize) -> bool {
        let Ok(messages) = u32::try_from(messages) else {
            return false;
        };
        NonZeroU32::new(messages)
            .is_none_or(|messages| matches!(self.0.check_n(messages), Ok(Ok(()))))
    }
}

impl RequestRates {
    /// Returns counters without requests.
    #[must_use]
    pub fn new(rate: RequestRate) -> Self {
        let store = HashMapStateStore::default();
        Self {
            limiter: RateLimiter::new(rate.quota(), store, TokioClock),
            checks: AtomicU32::new(0),
        }
    }

    /// Counts one request.
    ///
    /// # Errors
    ///
    /// Returns the time after which a further request will be accepted.
    pub fn check(&self, key: &ClientKey) -> Result<(), Duration> {
        if self.checks.fetch_add(1, Relaxed) % SWEEP_CHECKS == SWEEP_CHECKS - 1 {
            self.limiter.retain_recent();
        }
        let checked = self.limiter.check_key(key);
        checked.map_err(|until| until.wait_time_from(TokioClock.now()))
    }
}

/// Returns the value of the header `retry-after`. It is in whole seconds, rounded up, so that a client that waits
/// for them is accepted.
pub(crate) fn retry_after(wait: Duration) -> HeaderValue {
    HeaderValue::from(wait.as_millis().div_ceil(1_000) as u64)
}

impl Clock for TokioClock {
    type Instant = Time;

    fn now(&self) -> Time {
        Time(Instant::now())
    }
}

impl Reference for Time {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        let earlier = self.0.checked_sub(duration.into());
        Self(earlier.unwrap_or(self.0))
    }
}

impl std::ops::Add<Nanos> for Time {
    type Output = Self;

    fn add(self, duration: Nanos) -> Self {
        Self(self.0 + Duration::from(duration))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn client_beyond_its_rate_learns_when_to_return() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let rates = RequestRates::new(RequestRate {
            per_second: number(10),
            burst: number(5),
        });
        let [greedy, other] = [1, 2].map(|n| ClientKey::V4(Ipv4Addr::new(10, 0, 0, n)));
        let accepted = (0..50).filter(|_| rates.check(&greedy).is_ok()).count();
        assert_eq!(accepted, 5);
        let wait = rates.check(&greedy).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(rates.check(&other), Ok(()));
        tokio::time::advance(wait).await;
        assert_eq!(rates.check(&greedy), Ok(()));
        assert!(rates.check(&greedy).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn messages_beyond_the_burst_are_earned_over_time() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let rate = MessageRate::new(RequestRate {
            per_second: number(10),
            burst: number(3),
        });
        let mut taken = Vec::new();
        for after_ms in [0, 50, 200, 59_750] {
            tokio::time::advance(Duration::from_millis(after_ms)).await;
            taken.push((0..5).filter(|_| rate.admit(1)).count());
        }
        assert_eq!(taken, [3, 0, 2, 3]);
        assert!(rate.admit(0));
        tokio::time::advance(Duration::from_secs(60)).await;
        // More than the burst never come together, and are not counted.
        assert_eq!(
            [4, 3, 1].map(|messages| rate.admit(messages)),
            [false, true, false]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_have_left_are_forgotten() {
        let number = |n| NonZeroU32::new(n).unwrap();
        let rates = RequestRates::new(RequestRate {
            per_second: number(1),
            burst: number(1),
        });
        for n in 0..10 * SWEEP_CHECKS {
            tokio::time::advance(Duration::from_millis(10)).await;
            rates.check(&ClientKey::V4(Ipv4Addr::from_bits(n))).unwrap();
        }
        let known = rates.limiter.len();
        assert!(known <= SWEEP_CHECKS as usize + 200, "{known} clients");
    }
}
