//! The owner of one subscription, who knows the log and believes nothing.

use super::super::*;

/// What the owner of a subscription has been told, and so knows.
#[derive(Debug)]
pub(super) struct Owner {
    collection: u64,
    /// The place after everything told, with the stream it was told on for a plain peer.
    at: Option<At>,
    /// The stream that acknowledged it last.
    pub(super) answered: Option<u64>,
    /// Acknowledged by a plain peer on this stream, gaps told since.
    plain: Option<u64>,
    gaps: u64,
    pub(super) resyncs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Place(Position),
    /// A plain change at this offset, on this stream.
    Plain(u64, u64),
}

/// Every log that ever was, by epoch.
pub(super) type Logs = BTreeMap<u64, Vec<u64>>;

impl Owner {
    pub(super) fn new(collection: u64, start: Start) -> Self {
        Self {
            collection,
            at: match start {
                Start::Now => None,
                Start::After(place) => Some(At::Place(place)),
            },
            answered: None,
            plain: None,
            gaps: 0,
            resyncs: 0,
        }
    }

    /// Nothing of the collection lies between the two offsets.
    fn nothing_between(&self, logs: &Logs, epoch: u64, after: u64, before: u64) {
        assert!(after <= before, "back from {after} to {before}");
        // A place beyond the log was never anybody's; the server says so by a resync.
        let log = &logs[&epoch];
        let range = (after as usize).min(log.len())..(before as usize).min(log.len());
        assert!(
            !log[range].contains(&self.collection),
            "lost: something of {} after {after} up to {before}",
            self.collection
        );
    }

    pub(super) fn acknowledged(&mut self, stream: u64, place: Option<Position>, logs: &Logs) {
        if let Some(place) = place {
            if self.at.is_none() {
                self.at = Some(At::Place(place));
            }
            self.moved(place, logs);
            (self.plain, self.gaps) = (None, 0);
        } else {
            if let Some(before) = self.plain
                && before != stream
            {
                assert!(self.gaps > 0, "a plain outage without a gap");
            }
            assert!(
                !matches!(self.at, Some(At::Place(_))),
                "a place kept for a plain peer"
            );
            if self.plain != Some(stream) {
                (self.plain, self.gaps) = (Some(stream), 0);
            }
        }
        self.answered = Some(stream);
    }

    /// The place moved without an item.
    pub(super) fn moved(&mut self, to: Position, logs: &Logs) {
        let Some(At::Place(at)) = self.at else {
            panic!("{to} after {:?} without a gap", self.at);
        };
        assert_eq!(at.epoch, to.epoch, "another log without a resync");
        self.nothing_between(logs, to.epoch.0, at.offset, to.offset);
        self.at = Some(At::Place(to));
    }

    pub(super) fn told(&mut self, item: &Item, stream: u64, epoch: u64, logs: &Logs) {
        match item {
            Item::Change(change) => self.changed(change, stream, epoch, logs),
            Item::Gap(gap) => {
                let overflow = matches!(gap.reason, GapReason::Overflow { .. });
                if !overflow {
                    assert_eq!(self.gaps, 0, "a second gap in one outage");
                    self.gaps += 1;
                }
                self.at = None;
            }
            Item::Resync(resync) => {
                self.resyncs += 1;
                if resync.lost_from.epoch.0 == epoch {
                    self.moved(resync.lost_from, logs);
                }
                assert_ne!(resync.lost_from, resync.resumes_at, "nothing is lost");
                self.at = Some(At::Place(resync.resumes_at));
            }
        }
    }

    fn changed(&mut self, change: &Change, stream: u64, epoch: u64, logs: &Logs) {
        let offset: u64 = change.event_id.parse().expect("a number");
        assert_eq!(logs[&epoch][offset as usize - 1], self.collection);
        let after = match (self.at, change.position) {
            (Some(At::Place(at)), Some(position)) => {
                assert_eq!(position, Position::new(Epoch(epoch), offset));
                assert_eq!(at.epoch, position.epoch, "another log without a resync");
                Some(at.offset)
            }
            (Some(At::Plain(at, on)), None) => {
                assert_eq!(on, stream, "another stream without a gap");
                Some(at)
            }
            (None, None) => None,
            (at, position) => panic!("{position:?} after {at:?}"),
        };
        if let Some(after) = after {
            assert!(offset > after, "{offset} again after {after}");
            self.nothing_between(logs, epoch, after, offset - 1);
        }
        self.at = Some(match change.position {
            Some(position) => At::Place(position),
            None => At::Plain(offset, stream),
        });
        if change.position.is_none() {
            // It may overtake the acknowledgement; the outage is over either way.
            (self.plain, self.gaps) = (Some(stream), 0);
        }
    }

    /// Everything was delivered and taken.
    pub(super) fn is_complete(&self, logs: &Logs, epoch: u64, head: u64) {
        match self.at {
            Some(At::Place(at)) => {
                assert_eq!(at.epoch.0, epoch);
                self.nothing_between(logs, epoch, at.offset, head);
            }
            Some(At::Plain(at, _)) => self.nothing_between(logs, epoch, at, head),
            // A plain peer that had nothing to say since the gap.
            None => {}
        }
    }
}
