//! The changes of an endpoint between up and down that are worth a line of the log.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Decides which changes are logged: each at once, until there were [`LINES`] within [`SPAN`]. An endpoint
/// that flaps with every scrape then costs no more lines than that, and what it is in the end is logged
/// as soon as there may be another.
#[derive(Debug, Default)]
pub(super) struct TransitionLog {
    /// The times of the last lines.
    lines: VecDeque<Instant>,
    /// The state as of the last line.
    logged: Option<bool>,
    /// The state as of the last scrape.
    up: Option<bool>,
    /// The changes since the last line.
    changes: u64,
}

/// A change to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transition {
    /// Nothing was logged of the endpoint before.
    pub(super) is_first: bool,
    /// The changes since the last line that were not logged.
    pub(super) unlogged: u64,
}

/// The most lines within [`SPAN`].
const LINES: usize = 4;

const SPAN: Duration = Duration::from_secs(60);

impl TransitionLog {
    /// Takes the result of a scrape and returns the change to log, if any.
    pub(super) fn on_scrape(&mut self, now: Instant, up: bool) -> Option<Transition> {
        let is_first = self.logged.is_none();
        let before = self.up.replace(up);
        self.changes += u64::from(before.is_some_and(|before| before != up));
        // An endpoint that went and came back between two lines still gets one, with the number of
        // changes.
        if self.logged == Some(up) && self.changes == 0 {
            return None;
        }
        if self.lines.len() == LINES {
            if now.duration_since(self.lines[0]) < SPAN {
                return None;
            }
            self.lines.pop_front();
        }
        self.lines.push_back(now);
        self.logged = Some(up);
        // The line itself reports one of them.
        let unlogged = std::mem::take(&mut self.changes).saturating_sub(1);
        Some(Transition { is_first, unlogged })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flapping_endpoint_costs_four_lines_a_minute() {
        let start = Instant::now();
        let mut log = TransitionLog::default();
        let mut lines = Vec::new();
        for second in 0..300 {
            // Up for ten seconds, then flapping, and down from 200 s on.
            let up = second < 10 || second % 2 == 0 && second < 200;
            if let Some(transition) = log.on_scrape(start + Duration::from_secs(second), up) {
                lines.push((second, up, transition.unlogged));
            }
        }
        // The first loss is logged at once, and the last state in the end.
        assert_eq!(lines[..2], [(0, true, 0), (11, false, 0)]);
        assert!(!lines.last().unwrap().1, "{lines:?}");
        assert!(lines.len() <= LINES * 5, "{lines:?}");
        // 189 changes, from 11 s to 199 s.
        let changes: u64 = lines[1..].iter().map(|(_, _, unlogged)| unlogged + 1).sum();
        assert_eq!(changes, 189, "{lines:?}");
    }
}
