//! Series that a page states before their metadata.

use steadfast_recorder::{Labels, SeriesId};

use crate::agent::memory_budget::PENDING_BYTES;

/// The id by which the parser remembers a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageSeries {
    /// A series that was registered in the record when it came.
    Registered(SeriesId),
    /// The index of an entry in [`PendingSeries`].
    Pending(u32),
}

/// The value of a series on the current page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) value: f64,
    /// The timestamp of its line.
    pub(super) time_ms: Option<i64>,
}

/// The outcome of a sample of a series that was pending when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PendingSample {
    /// The series was registered with an earlier page.
    Registered(SeriesId),
    /// The sample waits with its series.
    Waiting,
    /// The series has a sample already, which counts.
    Duplicate,
    /// The record had no capacity for the series.
    Refused,
}

/// The series that were not registered when they came.
///
/// An entry lives as long as the parser remembers its series: once its page is complete it is
/// registered, and it is freed after the first page without it.
#[derive(Debug, Default)]
pub(super) struct PendingSeries {
    entries: Vec<Entry>,
    /// The indices of free entries.
    free: Vec<u32>,
    /// About the bytes of the labels that wait.
    waiting_bytes: usize,
}

/// The bytes of an entry and of its index among the free ones.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<u32>();

#[derive(Debug)]
struct Entry {
    state: State,
    /// The current page has the series.
    seen: bool,
}

#[derive(Debug)]
enum State {
    Free,
    /// The series waits for its metadata, together with its first sample.
    Waiting(Labels, Option<Sample>),
    Registered(SeriesId),
    /// The record had no capacity for the series.
    Refused,
}

impl PendingSeries {
    /// Adds a series whose labels take about `bytes`, or returns it if there is no memory left.
    pub(super) fn add(&mut self, labels: Labels, bytes: usize) -> Result<PageSeries, Labels> {
        // An entry that is used again takes no further memory.
        let entries = self.entries.len() + usize::from(self.free.is_empty());
        if self.waiting_bytes + bytes + entries * ENTRY_BYTES > PENDING_BYTES {
            return Err(labels);
        }
        self.waiting_bytes += bytes;
        let entry = Entry {
            state: State::Waiting(labels, None),
            seen: true,
        };
        if let Some(index) = self.free.pop() {
            self.entries[index as usize] = entry;
            return Ok(PageSeries::Pending(index));
        }
        self.entries.push(entry);
        Ok(PageSeries::Pending(self.entries.len() as u32 - 1))
    }

    /// Takes the sample of an entry, which the current page therefore has.
    pub(super) fn sample(&mut self, index: u32, sample: Sample) -> PendingSample {
        let entry = &mut self.entries[index as usize];
        entry.seen = true;
        match &mut entry.state {
            State::Registered(series) => PendingSample::Registered(*series),
            // The first sample of a series counts.
            State::Waiting(_, Some(_)) => PendingSample::Duplicate,
            State::Waiting(_, first) => {
                *first = Some(sample);
                PendingSample::Waiting
            }
            // Free entries do not come here: the parser has dropped their series as well.
            State::Free | State::Refused => PendingSample::Refused,
        }
    }

    /// Registers the series that wait. `register` returns `None` if the record refuses one.
    pub(super) fn register(
        &mut self,
        mut register: impl FnMut(&Labels, Sample) -> Option<SeriesId>,
    ) {
        for entry in &mut self.entries {
            if let State::Waiting(labels, Some(sample)) = &entry.state {
                let registered = register(labels, *sample);
                entry.state = registered.map_or(State::Refused, State::Registered);
            }
        }
        self.waiting_bytes = 0;
    }

    /// Frees the entries of series that a complete page did not have: the parser drops them, too.
    pub(super) fn finish(&mut self) {
        for (index, entry) in (0..).zip(&mut self.entries) {
            let seen = std::mem::replace(&mut entry.seen, false);
            if !seen && !matches!(entry.state, State::Free) {
                entry.state = State::Free;
                self.free.push(index);
            }
        }
    }

    /// Frees the entries that only an abandoned page had: the parser drops them, too.
    pub(super) fn abandon(&mut self) {
        for (index, entry) in (0..).zip(&mut self.entries) {
            entry.seen = false;
            if matches!(entry.state, State::Waiting(..)) {
                entry.state = State::Free;
                self.free.push(index);
            }
        }
        self.waiting_bytes = 0;
    }

    /// Frees all entries, after the parser was reset.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(number: usize) -> Labels {
        Labels::new([("__name__", format!("m{number}"))]).unwrap()
    }

    #[test]
    fn pending_series_are_bounded_and_freed() {
        let mut pending = PendingSeries::default();
        let fill = |pending: &mut PendingSeries| {
            let fit = |number: &usize| pending.add(labels(*number), 1_000).is_ok();
            (0..100_000).take_while(fit).count()
        };
        let first = fill(&mut pending);
        assert!((200..=PENDING_BYTES / 1_000).contains(&first), "{first}");
        // The page is abandoned, and its series are gone.
        pending.abandon();
        assert_eq!(fill(&mut pending), first);
        // Once registered, they hold an entry but no labels.
        for index in 0..first as u32 {
            let sample = Sample {
                value: 1.0,
                time_ms: None,
            };
            assert_eq!(pending.sample(index, sample), PendingSample::Waiting);
            assert_eq!(pending.sample(index, sample), PendingSample::Duplicate);
        }
        pending.register(|_, _| None);
        let second = fill(&mut pending);
        assert!((first - 20..first).contains(&second), "{second}");
        pending.finish();
        pending.finish();
        assert_eq!(pending.free.len(), first + second);
    }
}
