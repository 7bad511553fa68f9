//! The counters of a link in the recorder of the `metrics` facade.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metrics::{Label, counter, gauge};
use steadfast_session::State;
use tokio::time::MissedTickBehavior;

use crate::driver::SharedState;

/// Copies the counters of a link at an interval.
pub(crate) struct Export<C> {
    interval: Option<Duration>,
    link: String,
    state: Arc<SharedState<C>>,
    /// The totals of the last copy, by metric and reason. Only what is new is added to the recorder, as
    /// other links may have the same name.
    copied: BTreeMap<(&'static str, Option<&'static str>), u64>,
}

impl<C> Export<C> {
    pub(crate) fn new(interval: Option<Duration>, link: &str, state: &Arc<SharedState<C>>) -> Self {
        Self {
            interval,
            link: link.to_owned(),
            state: Arc::clone(state),
            copied: BTreeMap::new(),
        }
    }

    /// Runs the driver, and copies in the same task: there is none that could outlive the link.
    pub(crate) async fn beside(mut self, driver: impl Future<Output = ()>) {
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

    fn copy(&mut self) {
        let counters = self.state.statistics().counters.clone();
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
            self.add(name, None, total);
        }
        for (reason, total) in counters.ends {
            self.add("steadfast_link_ends_total", Some(reason), total);
        }
        let connected = self.state.status.borrow().state == State::Connected;
        let labels = [("link", self.link.clone())];
        gauge!("steadfast_link_connected", &labels).set(if connected { 1.0 } else { 0.0 });
    }

    fn add(&mut self, name: &'static str, reason: Option<&'static str>, total: u64) {
        let before = self.copied.insert((name, reason), total).unwrap_or(0);
        let mut labels = vec![Label::new("link", self.link.clone())];
        labels.extend(reason.map(|reason| Label::new("reason", reason)));
        counter!(name, labels).increment(total - before);
    }
}
