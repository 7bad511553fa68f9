//! Cutting a window into slices for an agent whose whole response is one message.
//!
//! A plain agent may be unable to send a response that is too long, and lose its stream for good. A
//! slice is therefore never longer than the agent's latest values allow, if it has one sample of each
//! series per second. Slices are taken from the end of the window: the newest samples exist most
//! likely, and arrive even if the deadline passes.

use super::super::time::{UnixNanos, Window};

/// An estimate of the size of an agent's window, learned from its responses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in super::super) struct Density {
    /// Bytes per second of the last slice that had samples.
    measured: Option<f64>,
    /// Bytes of the last response to [`Query::Latest`](super::Query::Latest) that had samples, or 0.
    latest: Option<usize>,
    /// The length of the last slice in seconds.
    slice: Option<f64>,
    /// Bytes and seconds of the newest slices, empty ones included.
    recent: (f64, f64),
}

/// The bytes that a query aims at for one slice of an agent. All slices that are sent at a time take little
/// time together, because a query for the latest values waits for the slice that its agent is sending. The
/// size may be exceeded, unlike the one that an agent can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct SliceShare(usize);

/// The part of a window that no slice has covered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remainder {
    window: Window,
    /// The time of the query. Nothing later than this is expected.
    asked_at: UnixNanos,
    /// The length of the stretch before the next slice that had no samples, in seconds.
    empty: f64,
}

/// The size of a sample in a window relative to one in a response to "latest", which has no time.
const TIME_FACTOR: f64 = 1.2;

/// The largest ratio of a slice to the one before.
const GROWTH: f64 = 8.0;

/// The longest first slice.
const FIRST_SECONDS: f64 = 10.0;

/// The bytes per second assumed of an agent that has no latest values but may have a history.
const UNKNOWN_BYTES: f64 = 65_536.0;

/// An empty stretch of this length means that the history has ended: the rest is taken in slices as long
/// as the stretch. Otherwise a window since 1970 would take millions of requests.
const HISTORY_GAP_SECONDS: f64 = 3_600.0;

/// The number of agents that may send windows at a time, however few there are.
const SENDING_MIN: usize = 16;

/// Of many agents, one of so many may send a window.
const SENDING_SHARE: usize = 8;

/// The bytes that all slices that are sent at a time aim at together.
const SHARED_BYTES: usize = 8 << 20;

/// The least share of one agent. Many small requests take longer than the samples in them.
const SHARE_MIN: usize = 64 << 10;

/// The seconds of slices from which older ones count half.
const RECENT_SECONDS: f64 = 120.0;

const SECOND: f64 = 1e9;

impl SliceShare {
    /// The share of each agent of a query to so many.
    pub(in super::super) fn among(agents: usize) -> Self {
        let sending = agents.min(sending_max(agents)).max(1);
        Self((SHARED_BYTES / sending).max(SHARE_MIN))
    }
}

/// Returns the number of agents that may send windows at a time.
pub(in super::super) fn sending_max(agents: usize) -> usize {
    SENDING_MIN.max(agents / SENDING_SHARE)
}

impl Density {
    pub(super) fn learn_latest(&mut self, bytes: usize, samples: usize) {
        if samples > 0 {
            self.latest = Some(bytes);
        } else {
            // An agent that has just started has no values yet, and soon as many as before.
            self.latest.get_or_insert(0);
        }
    }

    pub(super) fn learn(&mut self, slice: Window, bytes: usize, samples: usize) {
        // The releases stamp whole seconds: a shorter slice may hold as much as a second.
        let seconds = (slice.nanos() as f64 / SECOND).max(1.0);
        self.slice = Some(seconds);
        if self.recent.1 >= RECENT_SECONDS {
            self.recent = (self.recent.0 / 2.0, self.recent.1 / 2.0);
        }
        self.recent = (self.recent.0 + bytes as f64, self.recent.1 + seconds);
        // An empty slice may lie before the history or in a gap, and says nothing about the next.
        if samples > 0 {
            let now = bytes as f64 / seconds;
            let before = self.measured.unwrap_or(now);
            // Up at once and down slowly: a slice that is too long may cost the stream.
            self.measured = Some(now.max(before / GROWTH));
        }
    }

    /// Reacts to a slice that was too long for the agent or for the proxy.
    pub(super) fn on_too_dense(&mut self) {
        // The size that did not fit is unknown, so that the estimate rises by the largest ratio of
        // slices.
        self.measured = Some(self.bytes_per_second() * GROWTH);
        self.slice = Some(self.slice.unwrap_or(1.0).clamp(1.0, FIRST_SECONDS));
    }

    /// Returns true unless no response of the agent has been seen.
    pub(super) fn is_known(&self) -> bool {
        self.latest.is_some()
    }

    /// Returns an estimate that is rather too high: at least one sample per second of each series in
    /// the latest response.
    fn bytes_per_second(&self) -> f64 {
        let latest = self.latest_bytes();
        self.measured.unwrap_or(latest).max(latest)
    }

    /// Returns the average of the newest slices, which begin with a second of the latest values.
    fn average_bytes_per_second(&self) -> f64 {
        let (bytes, seconds) = self.recent;
        (self.latest_bytes() + bytes) / (1.0 + seconds)
    }

    /// Returns the bytes of one sample of each series.
    pub(in super::super) fn latest_bytes(&self) -> f64 {
        match self.latest {
            Some(bytes) if bytes > 0 => bytes as f64 * TIME_FACTOR,
            Some(_) | None => UNKNOWN_BYTES,
        }
    }

    /// Returns the length of the next slice, in seconds, that is likely to take at most `bytes`, and about
    /// as much as its share.
    fn slice_seconds(&self, bytes: usize, SliceShare(share): SliceShare) -> f64 {
        let longest = self.slice.map_or(FIRST_SECONDS, |slice| GROWTH * slice);
        // At least a second, however dense: otherwise an hour could become a million requests.
        (bytes as f64 / self.bytes_per_second())
            .min(share as f64 / self.average_bytes_per_second())
            .min(longest)
            .max(1.0)
    }
}

impl Remainder {
    pub(super) fn new(window: Window, asked_at: UnixNanos) -> Self {
        Self {
            window,
            asked_at,
            empty: 0.0,
        }
    }

    pub(super) fn into_window(self) -> Window {
        self.window
    }

    /// Notes whether the slice after this remainder had samples.
    pub(super) fn on_slice(&mut self, slice: Window, is_empty: bool) {
        self.empty = if is_empty {
            let start = slice.start().nanos();
            // The future is empty anyway, and does not show that the history has ended.
            let end = slice.end().nanos().min(self.asked_at.nanos());
            self.empty + end.saturating_sub(start).max(0) as f64 / SECOND
        } else {
            0.0
        };
    }

    /// Splits off the last slice that is likely to take at most `bytes`. The first slice includes the
    /// future.
    pub(super) fn split(
        self,
        density: Density,
        bytes: usize,
        share: SliceShare,
    ) -> (Window, Option<Self>) {
        let mut seconds = density.slice_seconds(bytes, share);
        if self.empty >= HISTORY_GAP_SECONDS {
            seconds = seconds.max(self.empty);
        }
        let nanos = (seconds * SECOND).min(i64::MAX as f64) as i64;
        // The stretch after the query belongs to the first slice, and does not count towards its
        // length.
        let end = self.window.end().min(self.asked_at);
        let (rest, slice) = self.window.split_before(end, nanos);
        let rest = rest.map(|window| Self { window, ..self });
        (slice, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::UnixNanos;

    fn window(start: i64, end: i64) -> Window {
        Window::new(UnixNanos::from_nanos(start), UnixNanos::from_nanos(end)).unwrap()
    }

    const BYTES: usize = 8_000_000;

    /// Returns the seconds of the next slice of an endless window.
    fn next(density: Density) -> i64 {
        let whole = Remainder::new(window(i64::MIN, 0), UnixNanos::from_nanos(0));
        whole
            .split(density, BYTES, SliceShare(usize::MAX))
            .0
            .nanos()
            / 1_000_000_000
    }

    #[test]
    fn slices_start_short_and_grow_eightfold_at_most() {
        let mut density = Density::default();
        density.learn_latest(50, 1);
        let mut lengths = Vec::new();
        for _ in 0..4 {
            let seconds = next(density);
            lengths.push(seconds);
            let slice = window(0, seconds * 1_000_000_000);
            density.learn(slice, 50 * seconds as usize, 1);
        }
        assert_eq!(lengths, [10, 80, 640, 5_120]);
    }

    #[test]
    fn slices_shrink_with_measured_and_estimated_density() {
        let mut density = Density::default();
        density.learn_latest(4_000_000, 1);
        assert_eq!(next(density), 1);
        density.learn_latest(400_000, 1);
        density.learn(window(0, 10_000_000_000), 40_000_000, 1);
        assert_eq!(next(density), 2);
        density.learn(window(0, 2_000_000_000), 1, 1);
        assert_eq!(
            next(density),
            16,
            "a nearly empty stretch is not believed at once"
        );
    }

    #[test]
    fn empty_slices_teach_nothing() {
        let mut density = Density::default();
        density.learn_latest(1_000_000, 1);
        let before = next(density);
        for _ in 0..9 {
            density.learn(window(0, 80_000_000_000), 12, 0);
            density.learn_latest(12, 0);
        }
        assert_eq!((before, next(density)), (6, 6));
    }

    #[test]
    fn oversized_response_shortens_the_next_slices() {
        let mut density = Density::default();
        density.learn_latest(100_000, 1);
        density.learn(window(0, 100_000_000_000), 10_000_000, 1);
        assert_eq!(next(density), 66);
        density.on_too_dense();
        assert_eq!(next(density), 8);
    }

    /// Whatever the spacing of their samples, agents get slices of about their share.
    #[test]
    fn slices_of_many_agents_take_their_shares() {
        let share = SliceShare::among(1_024);
        for spacing in [1, 10, 60] {
            let mut density = Density::default();
            density.learn_latest(50_000, 300);
            let mut rest = Some(Remainder::new(
                window(1, 3_600_000_000_000),
                UnixNanos::from_nanos(3_600_000_000_000),
            ));
            let mut sizes = Vec::new();
            while let Some(left) = rest {
                let (slice, earlier) = left.split(density, BYTES, share);
                let scrapes = |nanos: i64| nanos.div_euclid(spacing * 1_000_000_000);
                let scrapes = scrapes(slice.end().nanos()) - scrapes(slice.start().nanos() - 1);
                let bytes = scrapes as usize * 60_000;
                density.learn(slice, bytes, scrapes as usize);
                sizes.push(bytes);
                rest = earlier;
            }
            let most = sizes.iter().copied().max().unwrap();
            assert!(most <= 2 * share.0, "{most} bytes of {}", share.0);
            let least = 3_600 / spacing as usize * 60_000 / share.0;
            assert!(sizes.len() <= 2 * least + 12, "{} slices", sizes.len());
        }
    }

    proptest! {
        /// Each time is in exactly one slice, and every slice except the last is at least a second
        /// long.
        #[test]
        fn slices_cover_a_window_without_gap_or_overlap(
            start in -1_000_000_000_000i64..1_000_000_000_000,
            length in 0i64..4_000_000_000_000,
            asked_at in -1_000_000_000_000i64..6_000_000_000_000,
            agents in 1usize..2_000,
            sizes in prop::collection::vec(0usize..50_000_000, 1..40),
        ) {
            let whole = window(start, start + length);
            let mut density = Density::default();
            let mut rest = Some(Remainder::new(whole, UnixNanos::from_nanos(asked_at)));
            let mut missing = whole.end().nanos();
            for bytes in sizes.into_iter().chain(std::iter::repeat(0)).take(10_000) {
                let Some(left) = rest else { break };
                let (now, earlier) = left.split(density, 8 << 20, SliceShare::among(agents));
                prop_assert_eq!(now.end().nanos(), missing);
                prop_assert!(now.nanos() >= 999_999_999 || earlier.is_none());
                missing = now.start().nanos() - 1;
                density.learn(now, bytes, bytes);
                rest = earlier;
                if let Some(rest) = &mut rest {
                    rest.on_slice(now, bytes == 0);
                }
            }
            prop_assert!(rest.is_none());
            prop_assert_eq!(missing, whole.start().nanos() - 1);
        }
    }
}
