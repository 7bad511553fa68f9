//! The counters of a link in the recorder of the `metrics` facade.

use std::{sync::Arc, time::Duration};

use metrics::{counter, gauge};
use steadfast_session::State;
use tokio::time::MissedTickBehavior;

use crate::driver::SharedState;

/// Copies the counters of a link at an interval.
pub(crate) struct Export<C> {
    interval: Option<Duration>,
    link: String,
    state: Arc<SharedState<C>>,
}

impl<C> Export<C> {
    pub(crate) fn new(interval: Option<Duration>, link: &str, state: &Arc<SharedState<C>>) -> Self {
        Self {
            interval,
            link: link.to_owned(),
            state: Arc::clone(state),
        }
    }

    /// Runs the driver, and copies in the same task: there is none that could outlive the link.
    pub(crate) async fn beside(self, driver: impl Future<Output = ()>) {
        let Some(interval) = self.interval else {
            return driver.await;
        };
        // An interval of zero has no meaning and would panic.
        let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(driver);
        loop {
            tokio::select! {
                biased;
                () = &mut driver => break,
                _ = ticks.tick() => self.copy(),
            }
        }
        // The end of the link is in the totals.
        self.copy();
    }

    fn copy(&self) {
        let counters = self.state.statistics().counters.clone();
        let link = || ("link", self.link.clone());
        for (name, total) in [
            ("steadfast_link_attempts_total", counters.attempts),
            (
                "steadfast_link_streams_established_total",
                counters.streams_established,
            ),
            ("steadfast_link_messages_out_total", counters.messages_out),
            ("steadfast_link_bytes_out_total", counters.bytes_out),
            ("steadfast_link_messages_in_total", counters.messages_in),
            ("steadfast_link_bytes_in_total", counters.bytes_in),
            ("steadfast_link_probes_total", counters.probes),
            ("steadfast_link_read_pauses_total", counters.read_pauses),
        ] {
            counter!(name, &[link()]).absolute(total);
        }
        for (reason, total) in counters.ends {
            let labels = [link(), ("reason", reason.to_owned())];
            counter!("steadfast_link_ends_total", &labels).absolute(total);
        }
        let connected = self.state.status.borrow().state == State::Connected;
        gauge!("steadfast_link_connected", &[link()]).set(if connected { 1.0 } else { 0.0 });
    }
}
