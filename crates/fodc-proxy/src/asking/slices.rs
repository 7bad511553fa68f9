//! Into what pieces a window is cut for an agent whose whole answer is one message.

use super::super::moment::Window;

/// How much an agent's window weighs, as far as its answers have told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in super::super) struct Density {
    /// Bytes for each second of a window.
    measured: Option<f64>,
    /// Bytes of the last answer to "latest".
    latest: usize,
    /// How long the slice was that was measured, seconds.
    slice: f64,
}

/// What a sample weighs in a window more than in "latest": its time.
const TIME_SHARE: f64 = 1.2;

/// How much longer than the slice before a slice may be. A stretch that is nearly empty says little
/// about what comes after it.
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

    /// An answer was longer than a message may be.
    pub(super) fn was_too_dense(&mut self) {
        let bytes = self.bytes_per_second().unwrap_or(1.0);
        self.measured = Some(bytes * GROWTH);
        self.slice = self.slice.clamp(1.0, FIRST_SECONDS);
    }

    /// A guess that is rather too high: until a window was answered, one sample a second of each
    /// series in "latest".
    fn bytes_per_second(&self) -> Option<f64> {
        self.measured
            .or_else(|| (self.latest > 0).then_some(self.latest as f64 * TIME_SHARE))
    }
}

/// The first slice of `window` that is likely to weigh at most `bytes`, and what is left.
pub(super) fn slice(window: Window, density: Density, bytes: usize) -> (Window, Option<Window>) {
    let longest = match density.measured {
        Some(_) => GROWTH * density.slice,
        None => FIRST_SECONDS,
    };
    let fits = density
        .bytes_per_second()
        .map(|rate| bytes as f64 / rate.max(1.0));
    let seconds = fits.unwrap_or(longest).min(longest).max(1.0);
    let nanos = (seconds * SECOND).min(i64::MAX as f64) as i64;
    window.split(nanos)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::moment::Moment;

    fn window(start: i64, end: i64) -> Window {
        Window::new(Moment::from_nanos(start), Moment::from_nanos(end)).unwrap()
    }

    fn first(density: Density) -> i64 {
        slice(window(0, i64::MAX), density, 8_000_000).0.nanos() / 1_000_000_000
    }

    #[test]
    fn slices_begin_short_and_grow_eightfold_at_most() {
        let mut density = Density::default();
        let mut lengths = Vec::new();
        for _ in 0..4 {
            let (now, _) = slice(window(0, i64::MAX), density, 8_000_000);
            lengths.push(now.nanos() / 1_000_000_000);
            density.learn(now, 50 * now.nanos() as usize / 1_000_000_000);
        }
        assert_eq!(lengths, [10, 80, 640, 5_120]);
    }

    #[test]
    fn what_was_measured_and_what_latest_suggests_keep_slices_short() {
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
    fn fodc_f6_an_answer_that_was_too_long_makes_the_next_slices_shorter() {
        let mut density = Density::default();
        density.learn(window(0, 100_000_000_000), 10_000_000);
        assert_eq!(first(density), 80);
        density.was_too_dense();
        assert_eq!(first(density), 10);
    }

    proptest! {
        /// Every moment is in exactly one slice, and each slice is at least a second long but for
        /// the last.
        #[test]
        fn fodc_o17_slices_cover_a_window_without_hole_or_overlap(
            start in -1_000_000_000_000i64..1_000_000_000_000,
            length in 0i64..4_000_000_000_000,
            answers in prop::collection::vec(0usize..50_000_000, 1..40),
        ) {
            let whole = window(start, start + length);
            let mut density = Density::default();
            let mut rest = Some(whole);
            let mut covered = start;
            for bytes in answers.into_iter().chain(std::iter::repeat(0)).take(10_000) {
                let Some(left) = rest else { break };
                let (now, later) = slice(left, density, 8 << 20);
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
