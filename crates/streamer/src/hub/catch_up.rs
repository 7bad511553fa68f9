//! Subscriptions that are behind, and how they come back.
//!
//! A stream has at most one read of the log under way. The page is for all of its subscriptions that
//! are behind and have credit, from the lowest of their places on, so that twenty thousand of them
//! restored at similar places cost one pass and not twenty thousand. Streams take turns by pages.

use std::{collections::BTreeMap, sync::Arc};

use steadfast_wire::streamer::{ResyncReason, SubscribeResponse, streamer_message::Payload};

use super::{Action, Cause, Hub, StreamId, Ticket, delivery::wire_event};
use crate::{
    Event,
    filter::{Document, Selection, evaluate},
    log::LogError,
    matcher::SubscriptionKey,
};

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

impl From<LogError> for ReadFault {
    fn from(error: LogError) -> Self {
        match error {
            // Reading never meets a full disk.
            LogError::Storage(_)
            | LogError::DamagedState { .. }
            | LogError::Full { .. }
            | LogError::Stopped { .. } => Self::Storage(chain(&error)),
            LogError::Damaged { offset, .. } => Self::Damaged { offset },
            LogError::Trimmed { first, .. } => Self::Trimmed { first },
        }
    }
}

/// An error with everything below it, for people.
fn chain(error: &LogError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(below) = source {
        text = format!("{text}: {below}");
        source = below.source();
    }
    text
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
    under_way: BTreeMap<Ticket, (StreamId, u64)>,
    next_turn: u64,
    waiting: BTreeMap<u64, StreamId>,
}

impl Reads {
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn forget(&mut self, turn: u64) {
        self.waiting.remove(&turn);
    }

    fn enqueue(&mut self, stream: StreamId) -> Reading {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.waiting.insert(turn, stream);
        Reading::Waiting(turn)
    }
}

impl Hub {
    /// Puts a stream in the row of readers if it has something to read and room for it.
    pub(super) fn want_read(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.reading == Reading::Idle
            && stream.backlog.ready_count() > 0
            && !stream.outbox.is_full()
        {
            stream.reading = self.reads.enqueue(id);
        }
    }

    /// Begins as many of the waiting reads as may be under way.
    pub(super) fn start_reads(&mut self, out: &mut Vec<Action>) {
        while self.reads.under_way.len() < self.limits.reads {
            let Some((_, id)) = self.reads.waiting.pop_first() else {
                return;
            };
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.reading = Reading::Idle;
            if stream.outbox.is_full() {
                continue;
            }
            let Some(after) = stream.backlog.lowest_ready() else {
                continue;
            };
            let ticket = Ticket(self.reads.next_ticket);
            self.reads.next_ticket += 1;
            self.reads.under_way.insert(ticket, (id, after));
            stream.reading = Reading::UnderWay;
            let page = self.limits.page_bytes;
            out.push(Action::Read {
                ticket,
                after,
                max_events: self.limits.page_events,
                // What does not fit into the queue would be read once more.
                max_bytes: stream
                    .outbox
                    .room(&self.limits)
                    .clamp(page.div_ceil(16), page),
            });
        }
    }

    pub(super) fn on_read_done(
        &mut self,
        ticket: Ticket,
        result: Result<Vec<Arc<Event>>, ReadFault>,
        out: &mut Vec<Action>,
    ) {
        let Some((id, after)) = self.reads.under_way.remove(&ticket) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.reading = Reading::Idle;
        self.counters.pages += 1;
        match result.and_then(|events| self.check_page(after, events)) {
            Ok(events) => self.feed(id, after, &events, out),
            Err(fault) => self.on_read_fault(id, after, &fault, out),
        }
        self.want_read(id);
        self.check_queue(id, out);
        self.arm(id);
        self.end_if_settled(id, out);
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

    /// Gives a page to the stream's subscriptions that are behind, and then, if it reaches so far,
    /// what is still in memory: otherwise catching up would never end while others publish.
    fn feed(&mut self, id: StreamId, after: u64, events: &[Arc<Event>], out: &mut Vec<Action>) {
        let mut upto = after;
        let mut open = true;
        let few = self.few(id, after);
        let few = few.as_deref();
        for event in events {
            open = self.offer(id, after, event, few, out);
            if !open {
                break;
            }
            upto = event.offset;
        }
        if open && let Some(rest) = self.tail.after(upto) {
            for event in &rest {
                if !self.offer(id, after, event, few, out) {
                    break;
                }
                upto = event.offset;
            }
        }
        self.counters.page_events += upto - after;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        for key in stream.backlog.advance(after, upto, self.bounds.head) {
            self.counters.caught_up += 1;
            if let Some(subscription) = self.subscriptions.get_mut(&key) {
                subscription.go_live(&stream.progress);
            }
        }
    }

    /// The subscriptions that a page read after `after` is for, if they are few.
    fn few(&self, id: StreamId, after: u64) -> Option<Vec<SubscriptionKey>> {
        let backlog = &self.streams.get(&id)?.backlog;
        (backlog.ready_count() <= ONE_BY_ONE).then(|| backlog.ready_within(after..u64::MAX))
    }

    /// Delivers one event of a page. False if it matches but there is no room for it, or not for all
    /// that it is for: those that got it are put behind it, and the others read it again.
    fn offer(
        &mut self,
        id: StreamId,
        after: u64,
        event: &Arc<Event>,
        few: Option<&[SubscriptionKey]>,
        out: &mut Vec<Action>,
    ) -> bool {
        let mut keys = std::mem::take(&mut self.matched);
        keys.clear();
        self.collect(id, after, event, few, &mut keys);
        let mut open = keys.is_empty() || !self.is_full(id);
        if open && !keys.is_empty() {
            let sent = self.deliver(id, event, &wire_event(self.epoch, event), &mut keys, out);
            open = sent == keys.len();
            if !open && let Some(stream) = self.streams.get_mut(&id) {
                for key in &keys[..sent] {
                    stream.backlog.insert(*key, event.offset, true);
                }
            }
        }
        self.matched = keys;
        open
    }

    /// Finds the subscriptions that an event of a page is for.
    ///
    /// A few are looked at one by one, which costs nothing for all the others of the server; many are
    /// found through the matcher.
    fn collect(
        &self,
        id: StreamId,
        after: u64,
        event: &Event,
        few: Option<&[SubscriptionKey]>,
        keys: &mut Vec<SubscriptionKey>,
    ) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let backlog = &stream.backlog;
        let Some(few) = few else {
            // Counted when it was committed, if it can not be looked into.
            self.matcher.matches(event, keys).unwrap_or_default();
            keys.retain(|key| backlog.takes(*key, after, event.offset));
            return;
        };
        let document = Document::of(event);
        for key in few {
            let Some(subscription) = self.subscriptions.get(key) else {
                continue;
            };
            if subscription.collection == event.collection
                && subscription.database == event.database
                && backlog.takes(*key, after, event.offset)
                && evaluate(&subscription.filter, &document).unwrap_or(false)
            {
                keys.push(*key);
            }
        }
        // The order of the matcher: by kind, then by age.
        keys.sort_by_key(|key| {
            let filter = self.subscriptions.get(key).map(|it| it.filter.selection());
            let kind = match filter {
                Some(Selection::Document(_)) => 0,
                Some(Selection::Collection) => 1,
                Some(Selection::Conditions(_)) | None => 2,
            };
            (kind, *key)
        });
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
                (after..(*offset).max(after + 1), ResyncReason::Damaged)
            }
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.peer.is_profile() {
            return self.end(id, &Cause::Lost(fault.to_string()), out);
        }
        let position = self.wire_position(self.bounds.head);
        for key in self.backlog_within(id, missing) {
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

    fn backlog_within(&self, id: StreamId, range: std::ops::Range<u64>) -> Vec<SubscriptionKey> {
        let stream = self.streams.get(&id);
        stream.map_or_else(Vec::new, |stream| stream.backlog.ready_within(range))
    }
}

/// Up to so many subscriptions are looked at one by one.
const ONE_BY_ONE: usize = 64;
