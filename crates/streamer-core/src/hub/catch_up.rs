//! Subscriptions that are behind, and how they come back.
//!
//! A stream has at most one read of the log under way. The page is for all of its subscriptions that
//! are behind and have credit, from the lowest of their places on, so that twenty thousand of them
//! restored at similar places cost one pass and not twenty thousand. It is also for other streams
//! that wait for a page of the same part of the log, as all do after the server came back. Streams
//! take turns by pages.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use steadfast_wire::streamer::{ResyncReason, SubscribeResponse, streamer_message::Payload};

use super::{Action, Cause, Hub, StreamId, Ticket};
use crate::Event;

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    /// The place is before the log's beginning.
    #[error("the changes up to offset {first} are no longer in the log")]
    Trimmed {
        /// The oldest place that can be read from.
        first: u64,
    },
    /// The first change after the place can not be read back.
    #[error("the change at offset {offset} can not be read back")]
    Damaged {
        /// Which.
        offset: u64,
    },
    /// The storage failed.
    #[error("{0}")]
    Storage(String),
}

/// Whether a stream reads from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Idle,
    /// It has this place in the row.
    Waiting(u64),
    UnderWay,
}

/// Reads of all streams, under way and waiting.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next_ticket: u64,
    /// For whom, and after which place.
    under_way: BTreeMap<Ticket, (StreamId, u64)>,
    next_turn: u64,
    /// Who, and its lowest place when it got in the row.
    waiting: BTreeMap<u64, (StreamId, u64)>,
    /// Whether anything changed since reads were last begun.
    changed: bool,
}

impl Reads {
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn forget(&mut self, turn: u64) {
        self.waiting.remove(&turn);
    }

    fn enqueue(&mut self, stream: StreamId, lowest: u64) -> Reading {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.waiting.insert(turn, (stream, lowest));
        self.changed = true;
        Reading::Waiting(turn)
    }

    fn begin(&mut self, stream: StreamId, after: u64) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.under_way.insert(ticket, (stream, after));
        ticket
    }

    fn done(&mut self, ticket: Ticket) -> Option<(StreamId, u64)> {
        self.changed = true;
        self.under_way.remove(&ticket)
    }

    /// Whether a page under way is likely to reach beyond this place.
    fn covers(&self, place: u64, page_events: u64) -> bool {
        let pages = self.under_way.values();
        let mut pages = pages.map(|(_, after)| *after..after.saturating_add(page_events));
        pages.any(|page| page.contains(&place))
    }

    /// Takes those out of the row whose lowest place is in the range, the first ones of them.
    fn take_within(&mut self, range: &Range<u64>) -> Vec<StreamId> {
        let within = self
            .waiting
            .iter()
            .filter(|(_, (_, lowest))| range.contains(lowest));
        let turns: Vec<_> = within.map(|(turn, _)| *turn).take(SHARED_BY).collect();
        let streams = turns.iter().filter_map(|turn| self.waiting.remove(turn));
        streams.map(|(stream, _)| stream).collect()
    }
}

impl Hub {
    /// Puts a stream in the row of readers if it has something to read and room for it.
    pub(super) fn want_read(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.reading == Reading::Idle
            && !stream.outbox.is_full()
            && let Some(lowest) = stream.backlog.lowest_ready()
        {
            stream.reading = self.reads.enqueue(id, lowest);
        }
    }

    /// Begins as many of the waiting reads as may be under way, in the order of the row. A stream
    /// for which a page under way is likely good as well waits for that one.
    pub(super) fn start_reads(&mut self, out: &mut Vec<Action>) {
        if !std::mem::take(&mut self.reads.changed) {
            return;
        }
        let page_events = self.limits.page_events as u64;
        let mut from = 0;
        while self.reads.under_way.len() < self.limits.reads {
            let Some((&turn, &(id, lowest))) = self.reads.waiting.range(from..).next() else {
                return;
            };
            from = turn + 1;
            if self.reads.covers(lowest, page_events) {
                continue;
            }
            self.reads.forget(turn);
            self.start_read(id, out);
        }
    }

    fn start_read(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.reading = Reading::Idle;
        let Some(after) = stream.backlog.lowest_ready() else {
            return;
        };
        if stream.outbox.is_full() {
            return;
        }
        stream.reading = Reading::UnderWay;
        let page = self.limits.page_bytes;
        out.push(Action::Read {
            ticket: self.reads.begin(id, after),
            after,
            max_events: self.limits.page_events,
            // What does not fit into the queue would be read once more.
            max_bytes: stream
                .outbox
                .room(&self.limits)
                .clamp(page.div_ceil(16), page),
        });
    }

    pub(super) fn on_read_done(
        &mut self,
        ticket: Ticket,
        result: Result<Vec<Arc<Event>>, ReadFault>,
        out: &mut Vec<Action>,
    ) {
        let Some((id, after)) = self.reads.done(ticket) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.reading = Reading::Idle;
        self.counters.pages += 1;
        let mut streams = vec![id];
        match result.and_then(|events| self.check_page(after, events)) {
            Ok(events) => {
                let page = after..after + events.len() as u64;
                for other in self.reads.take_within(&page) {
                    if let Some(stream) = self.streams.get_mut(&other) {
                        stream.reading = Reading::Idle;
                        streams.push(other);
                    }
                }
                self.feed(&streams, after, &events, out);
            }
            Err(fault) => self.on_read_fault(id, after, &fault, out),
        }
        for id in streams {
            self.want_read(id);
            self.check_queue(id, out);
            self.arm(id);
            self.end_if_settled(id, out);
        }
    }

    /// What of a page can be used: without holes, and not beyond what is known to be committed,
    /// because that comes as committed yet.
    fn check_page(
        &self,
        after: u64,
        mut events: Vec<Arc<Event>>,
    ) -> Result<Vec<Arc<Event>>, ReadFault> {
        let head = self.bounds.head;
        let expected = (after + 1)..=head;
        let sound = events
            .iter()
            .zip(expected)
            .take_while(|(event, offset)| event.offset == *offset)
            .count();
        match events.first() {
            None => Err(ReadFault::Storage(format!(
                "it gave nothing after offset {after}, its newest is {head}"
            ))),
            Some(_) if sound == 0 => Err(ReadFault::Damaged { offset: after + 1 }),
            Some(_) => {
                events.truncate(sound);
                Ok(events)
            }
        }
    }

    /// What was to come next can not be read. A profile peer hears where it goes on, once for each
    /// subscription that misses something; another can not be told but by ending its stream.
    fn on_read_fault(
        &mut self,
        id: StreamId,
        after: u64,
        fault: &ReadFault,
        out: &mut Vec<Action>,
    ) {
        self.counters.read_faults += 1;
        let (missing, reason) = match fault {
            ReadFault::Storage(what) => {
                return self.end(id, &Cause::Storage(what.clone()), out);
            }
            ReadFault::Trimmed { first } => {
                self.bounds.first = self.bounds.first.max(*first);
                (0..(*first).max(after + 1), ResyncReason::Trimmed)
            }
            ReadFault::Damaged { offset } => {
                self.damaged = self.damaged.max(*offset);
                (after..(*offset).max(after + 1), ResyncReason::Damaged)
            }
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.peer.is_profile() {
            return self.end(id, &Cause::Lost(fault.to_string()), out);
        }
        let missing = stream.backlog.ready_within(missing);
        let position = self.wire_position(self.bounds.head);
        for key in missing {
            let resync = self.resync(reason);
            let (Some(stream), Some(subscription)) =
                (self.streams.get_mut(&id), self.subscriptions.get_mut(&key))
            else {
                continue;
            };
            stream.backlog.remove(key);
            subscription.told(self.bounds.head);
            subscription.go_live(&stream.progress);
            let response = SubscribeResponse {
                subscription_id: subscription.id.to_string(),
                success: true,
                position: Some(position),
                resync: Some(resync),
                request: subscription.request,
                ..SubscribeResponse::default()
            };
            let response = Payload::SubscribeResponse(response);
            stream.send(self.now, id, response, &self.limits, out);
        }
    }
}

/// Streams that one page is given to at once, besides the one that asked for it.
const SHARED_BY: usize = 255;
