//! Keeping repeated events out of the log.

use std::time::Duration;

use tokio::time::Instant;

/// Counts a repeated event and lets one log line per minute through.
#[derive(Debug)]
pub(crate) struct LogLimiter {
    /// Events since the last line.
    times: u64,
    logged: Option<Instant>,
}

/// Shortest time between two log lines about the same thing.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

impl LogLimiter {
    pub(crate) const fn new() -> Self {
        Self {
            times: 0,
            logged: None,
        }
    }

    /// Counts one event. Returns the number of events since the last line if a line is due.
    pub(crate) fn count(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        let due = self
            .logged
            .is_none_or(|logged| now >= logged + LOG_INTERVAL);
        due.then(|| {
            self.logged = Some(now);
            std::mem::take(&mut self.times)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_event_is_logged_once_a_minute_with_its_count() {
        let mut limiter = LogLimiter::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limiter.count(at(0)), Some(1));
        assert_eq!([limiter.count(at(1)), limiter.count(at(59))], [None, None]);
        assert_eq!(limiter.count(at(60)), Some(3));
        assert_eq!(limiter.count(at(61)), None);
    }
}
