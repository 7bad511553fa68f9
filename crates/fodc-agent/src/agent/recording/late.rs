//! Series that came on a page before the page had said what they are.

use steadfast_recorder::{Labels, SeriesId};

use crate::agent::room::LATE_BYTES;

/// A series as a parser remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageSeries {
    /// Named to the record.
    Known(SeriesId),
    /// To be named to the record when the page has been read to its end.
    Late(u32),
}

/// The late series that the parser remembers.
#[derive(Debug, Default)]
pub(super) struct Lates {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Of labels that wait, about.
    waiting_bytes: usize,
}

/// What a late series costs beside its labels: its entry, and its place among the free ones.
const PLACE_BYTES: usize = size_of::<Entry>() + size_of::<u32>();

#[derive(Debug)]
struct Entry {
    state: State,
    /// Whether the page that is being read has it.
    seen: bool,
}

#[derive(Debug)]
enum State {
    Free,
    /// Not named yet.
    Waiting(Labels),
    Named(SeriesId),
    /// The record had no room when it was named.
    Refused,
}

impl Lates {
    /// Takes a series whose labels have about so many bytes, or gives it back if there is no room.
    pub(super) fn add(&mut self, labels: Labels, bytes: usize) -> Result<PageSeries, Labels> {
        let places = self.entries.len() + usize::from(self.free.is_empty());
        if self.waiting_bytes + bytes + places * PLACE_BYTES > LATE_BYTES {
            return Err(labels);
        }
        self.waiting_bytes += bytes;
        let entry = Entry {
            state: State::Waiting(labels),
            seen: true,
        };
        if let Some(place) = self.free.pop() {
            self.entries[place as usize] = entry;
            return Ok(PageSeries::Late(place));
        }
        self.entries.push(entry);
        Ok(PageSeries::Late(self.entries.len() as u32 - 1))
    }

    pub(super) fn see(&mut self, place: u32) {
        self.entries[place as usize].seen = true;
    }

    /// Names those that wait. Nothing stands for a refusal.
    pub(super) fn name(&mut self, mut name: impl FnMut(&Labels) -> Option<SeriesId>) {
        for entry in &mut self.entries {
            if let State::Waiting(labels) = &entry.state {
                entry.state = name(labels).map_or(State::Refused, State::Named);
            }
        }
        self.waiting_bytes = 0;
    }

    /// The series in the record, if it is there.
    pub(super) fn known(&self, series: PageSeries) -> Option<SeriesId> {
        match series {
            PageSeries::Known(series) => Some(series),
            PageSeries::Late(place) => match self.entries[place as usize].state {
                State::Named(series) => Some(series),
                State::Free | State::Waiting(_) | State::Refused => None,
            },
        }
    }

    /// The page is over, and what it did not have the parser has forgotten.
    pub(super) fn finish(&mut self) {
        for (place, entry) in (0..).zip(&mut self.entries) {
            let seen = std::mem::replace(&mut entry.seen, false);
            if !seen && !matches!(entry.state, State::Free) {
                entry.state = State::Free;
                self.free.push(place);
            }
        }
    }

    /// The page was given up, and the parser has forgotten what only that page had.
    pub(super) fn abandon(&mut self) {
        for (place, entry) in (0..).zip(&mut self.entries) {
            entry.seen = false;
            if matches!(entry.state, State::Waiting(_)) {
                entry.state = State::Free;
                self.free.push(place);
            }
        }
        self.waiting_bytes = 0;
    }

    /// The parser has forgotten everything.
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
    fn late_series_are_held_as_long_as_they_fit_and_make_room_when_they_are_gone() {
        let mut lates = Lates::default();
        let fill = |lates: &mut Lates| {
            let fit = |number: &usize| lates.add(labels(*number), 1_000).is_ok();
            (0..100_000).take_while(fit).count()
        };
        let first = fill(&mut lates);
        assert!((200..=LATE_BYTES / 1_000).contains(&first), "{first}");
        // The page was given up, and what only it had is gone.
        lates.abandon();
        assert_eq!(fill(&mut lates), first);
        // They are named: their labels are not held any more, and their places are.
        lates.name(|_| None);
        let second = fill(&mut lates);
        assert!((first - 20..first).contains(&second), "{second}");
        lates.finish();
        lates.finish();
        assert_eq!(lates.free.len(), first + second);
    }
}
