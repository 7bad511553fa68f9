//! Threads that keep every processor busy.

use std::{
    hint::black_box,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Threads that spin until their time is over.
#[derive(Debug)]
pub(super) struct BusyThreads {
    threads: Vec<JoinHandle<()>>,
}

impl BusyThreads {
    /// Keeps every processor busy for that time.
    pub(super) fn start(duration: Duration) -> Self {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let until = Instant::now() + duration;
        let spin = move || {
            let mut state = 1_u64;
            while Instant::now() < until {
                for _ in 0..10_000 {
                    state = black_box(state.wrapping_mul(6_364_136_223_846_793_005) + 1);
                }
            }
        };
        Self {
            threads: (0..count).map(|_| thread::spawn(spin)).collect(),
        }
    }

    /// Waits for their end.
    pub(super) fn join(self) {
        for thread in self.threads {
            // The loop above cannot panic.
            thread.join().ok();
        }
    }
}
