//! The owner of one subscription, which checks every item against the log.

use super::super::*;

/// The knowledge of the owner of a subscription, from its items and events alone.
#[derive(Debug)]
pub(super) struct Owner {
    collection: u64,
    /// The position after the newest item; for a plain peer with the stream of that item.
    at: Option<At>,
    /// The stream that acknowledged it last.
    pub(super) answered: Option<u64>,
    /// The stream on which a plain peer acknowledged it, and the gaps since.
    plain: Option<u64>,
    gaps: u64,
    pub(super) resyncs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Position(Position),
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
                Start::Now | Start::Oldest | Start::AtTime(_) => None,
                Start::After(position) => Some(At::Position(position)),
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
        // A position beyond the log never existed; the server answers it with a resync.
        let log = &logs[&epoch];
        let range = (after as usize).min(log.len())..(before as usize).min(log.len());
        assert!(
            !log[range].contains(&self.collection),
            "lost: something of {} after {after} up to {before}",
            self.collection
        );
    }

    pub(super) fn acknowledged(&mut self, stream: u64, position: Option<Position>, logs: &Logs) {
        if let Some(position) = position {
            if self.at.is_none() {
                self.at = Some(At::Position(position));
            }
            self.moved(position, logs);
            (self.plain, self.gaps) = (None, 0);
        } else {
            if let Some(before) = self.plain
                && before != stream
            {
                assert!(self.gaps > 0, "a plain outage without a gap");
            }
            assert!(
                !matches!(self.at, Some(At::Position(_))),
                "a position kept for a plain peer"
            );
            if self.plain != Some(stream) {
                (self.plain, self.gaps) = (Some(stream), 0);
            }
        }
        self.answered = Some(stream);
    }

    /// The position moved without an item.
    pub(super) fn moved(&mut self, to: Position, logs: &Logs) {
        let Some(At::Position(at)) = self.at else {
            panic!("{to} after {:?} without a gap", self.at);
        };
        assert_eq!(at.epoch, to.epoch, "another log without a resync");
        self.nothing_between(logs, to.epoch.0, at.offset, to.offset);
        self.at = Some(At::Position(to));
    }

    pub(super) fn on_item(&mut self, item: &Item, stream: u64, epoch: u64, logs: &Logs) {
        match item {
            Item::Change(change) => self.on_change(change, stream, epoch, logs),
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
                self.at = Some(At::Position(resync.resumes_at));
            }
            Item::Left(_) | Item::Snapshot(_) => panic!("{item:?} was not asked for"),
        }
    }

    fn on_change(&mut self, change: &Change, stream: u64, epoch: u64, logs: &Logs) {
        let offset: u64 = change.event_id.parse().expect("a number");
        assert_eq!(logs[&epoch][offset as usize - 1], self.collection);
        let after = match (self.at, change.position) {
            (Some(At::Position(at)), Some(position)) => {
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
            Some(position) => At::Position(position),
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
            Some(At::Position(at)) => {
                assert_eq!(at.epoch.0, epoch);
                self.nothing_between(logs, epoch, at.offset, head);
            }
            Some(At::Plain(at, _)) => self.nothing_between(logs, epoch, at, head),
            // A plain peer that had nothing to say since the gap.
            None => {}
        }
    }
}
