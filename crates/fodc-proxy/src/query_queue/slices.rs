//! Cutting a window into slices for an agent whose whole response is one message.

use super::super::time::Window;

/// An estimate of the size of an agent's window, learned from its responses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in super::super) struct Density {
    /// Bytes per second of a window.
    measured: Option<f64>,
    /// Bytes of the last response to [`Query::Latest`](super::Query::Latest).
    latest: usize,
    /// The length of the measured slice in seconds.
    slice: f64,
}

/// The size of a sample in a window relative to one in a response to "latest", which has no time.
const TIME_FACTOR: f64 = 1.2;

/// The largest ratio of a slice to the one before. A nearly empty stretch says little about the next.
const GROWTH: f64 = 8.0;

/// The longest first slice.
const FIRST_SECONDS: f64 = 10.0;

const SECOND: f64 = 1e9;

impl Density {
    pub(super) fn learn_latest(&mut self, bytes: usize) {
        self.latest = bytes;
    }

    pub(super) fn learn(&mut self, window: Window, bytes: usize) {
        let seconds = (window.nanos() as f64 / SECOND).max(1.0);
        let now = bytes as f64 / seconds;
        self.slice = seconds;
        let before = self.measured.unwrap_or(now);
        self.measured = Some(now.max(before / GROWTH));
    }

    /// Reacts to a response that exceeded the message limit.
    pub(super) fn on_oversized(&mut self) {
        let bytes = self.bytes_per_second().unwrap_or(1.0);
        self.measured = Some(bytes * GROWTH);
        self.slice = self.slice.clamp(1.0, FIRST_SECONDS);
    }

    /// Returns an estimate that is rather too high. Before a window was measured, it assumes one
    /// sample per second of each series in the latest response.
    fn bytes_per_second(&self) -> Option<f64> {
        self.measured
            .or_else(|| (self.latest > 0).then_some(self.latest as f64 * TIME_FACTOR))
    }
}

/// Returns the first slice of `window` that is likely to take at most `bytes`, and the rest.
pub(super) fn first_slice(
    window: Window,
    density: Density,
    bytes: usize,
) -> (Window, Option<Window>) {
    let longest = match density.measured {
        Some(_) => GROWTH * density.slice,
        None => FIRST_SECONDS,
    };
    let fits = density
        .bytes_per_second()
        .map(|rate| bytes as f64 / rate.max(1.0));
    // At least a second, however dense: otherwise an hour could become a million requests.
    let seconds = fits.unwrap_or(longest).min(longest).max(1.0);
    let nanos = (seconds * SECOND).min(i64::MAX as f64) as i64;
    window.split(nanos)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::UnixNanos;

    fn window(start: i64, end: i64) -> Window {
        Window::new(UnixNanos::from_nanos(start), UnixNanos::from_nanos(end)).unwrap()
    }

    fn first(density: Density) -> i64 {
        first_slice(window(0, i64::MAX), density, 8_000_000)
            .0
            .nanos()
            / 1_000_000_000
    }

    #[test]
    fn slices_start_short_and_grow_eightfold_at_most() {
        let mut density = Density::default();
        let mut lengths = Vec::new();
        for _ in 0..4 {
            let (now, _) = first_slice(window(0, i64::MAX), density, 8_000_000);
            lengths.push(now.nanos() / 1_000_000_000);
            density.learn(now, 50 * now.nanos() as usize / 1_000_000_000);
        }
        assert_eq!(lengths, [10, 80, 640, 5_120]);
    }

    #[test]
    fn slices_shrink_with_measured_and_estimated_density() {
        let mut density = Density::default();
        density.learn_latest(4_000_000);
        assert_eq!(first(density), 1);
        density.learn(window(0, 10_000_000_000), 40_000_000);
        assert_eq!(first(density), 2);
        density.learn(window(0, 2_000_000_000), 0);
        assert_eq!(
            first(density),
            16,
            "an empty stretch is not believed at once"
        );
    }

    #[test]
    fn oversized_response_shortens_the_next_slices() {
        let mut density = Density::default();
        density.learn(window(0, 100_000_000_000), 10_000_000);
        assert_eq!(first(density), 80);
        density.on_oversized();
        assert_eq!(first(density), 10);
    }

    proptest! {
        /// Each time is in exactly one slice, and every slice except the last is at least a second
        /// long.
        #[test]
        fn slices_cover_a_window_without_gap_or_overlap(
            start in -1_000_000_000_000i64..1_000_000_000_000,
            length in 0i64..4_000_000_000_000,
            sizes in prop::collection::vec(0usize..50_000_000, 1..40),
        ) {
            let whole = window(start, start + length);
            let mut density = Density::default();
            let mut rest = Some(whole);
            let mut covered = start;
            for bytes in sizes.into_iter().chain(std::iter::repeat(0)).take(10_000) {
                let Some(left) = rest else { break };
                let (now, later) = first_slice(left, density, 8 << 20);
                prop_assert_eq!(now.start().nanos(), covered);
                prop_assert!(now.nanos() >= 999_999_999 || later.is_none());
                covered = now.end().nanos() + 1;
                density.learn(now, bytes);
                rest = later;
            }
            prop_assert_eq!(rest, None);
            prop_assert_eq!(covered, whole.end().nanos() + 1);
        }
    }
}
