//! The time of day.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// Where the times of readings come from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Milliseconds since 1970. May jump, in both directions, as clocks do when they are set.
    fn now_ms(&self) -> i64;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        }
    }
}
