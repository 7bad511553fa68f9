//! The reads of the document table, for the snapshots of subscriptions.
//!
//! A stream has at most one page at a time, and its subscriptions take turns. A page is read only for a
//! subscription with credit, on a stream whose queue is not full; documents that do not fit are read
//! again later. A slow peer thus costs a cursor, as in catch-up.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use steadfast_wire::streamer as wire;

use super::{
    Action, DocumentPage, ReadId, StreamId, context::Context, event_match::BYTES_PER_COST,
    snapshot::Snapshot, snapshot_queue::SnapshotReadState, stream::Stream, streams::Streams,
    subscription::Subscription, subscriptions::Subscriptions, window::WindowState,
};
use crate::{convert::put_event, matcher::SubscriptionKey};

/// The pages being read or sent, and the streams that wait for one.
#[derive(Debug, Default)]
pub(super) struct DocumentReads {
    next_read: u64,
    in_progress: BTreeMap<ReadId, Read>,
    waiting: VecDeque<StreamId>,
    pages: VecDeque<Page>,
}

/// The subscription for which a page is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    pub(super) stream: StreamId,
    key: SubscriptionKey,
}

/// A read in progress.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) reader: Reader,
    after: Option<Arc<str>>,
}

/// A page being sent.
#[derive(Debug)]
struct Page {
    reader: Reader,
    /// The id of the document before the first one.
    after: Option<Arc<str>>,
    documents: VecDeque<Arc<crate::Event>>,
    as_of: u64,
    next: Option<Arc<str>>,
}

/// The documents of the message that is being built.
#[derive(Debug, Default)]
struct Batch {
    /// The encoded fields of the message that contain them.
    documents: Vec<u8>,
    count: u64,
}

impl DocumentReads {
    /// Returns the number of pages being read or sent.
    pub(super) fn len(&self) -> usize {
        self.in_progress.len() + self.pages.len()
    }

    /// Returns true if pages wait to be sent.
    pub(super) fn has_pages(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Queues a stream for a page if a subscription needs one and its outbound queue is not full.
    pub(super) fn enqueue(&mut self, stream: &mut Stream) {
        let queue = &mut stream.snapshots;
        if queue.state == SnapshotReadState::Idle
            && !queue.keys.is_empty()
            && !stream.outbox.is_full()
        {
            queue.state = SnapshotReadState::Waiting;
            self.waiting.push_back(stream.id());
        }
    }

    /// Starts reads until as many pages as allowed are in progress.
    pub(super) fn start(
        &mut self,
        streams: &mut Streams,
        subscriptions: &Subscriptions,
        cx: &mut Context,
    ) {
        while self.len() < cx.limits.reads
            && let Some(id) = self.waiting.pop_front()
        {
            let Some(stream) = streams.get_mut(id) else {
                continue;
            };
            stream.snapshots.state = SnapshotReadState::Idle;
            // Its queue may have filled while it waited. It is queued again when messages are sent.
            if stream.outbox.is_full() {
                continue;
            }
            while let Some(key) = stream.snapshots.keys.pop_front() {
                let subscription = subscriptions.get(key);
                if let Some(subscription) = subscription.filter(|it| it.is_reading_documents()) {
                    stream.snapshots.state = SnapshotReadState::InProgress;
                    self.read(Reader { stream: id, key }, subscription, stream, cx);
                    break;
                }
            }
        }
    }

    fn read(
        &mut self,
        reader: Reader,
        subscription: &Subscription,
        stream: &Stream,
        cx: &mut Context,
    ) {
        let read = ReadId(self.next_read);
        self.next_read += 1;
        let (page_events, page_bytes) = (cx.limits.page_events, cx.limits.page_bytes);
        // Of a filtered collection most documents may not match, so that credit bounds nothing.
        let max_documents = if subscription.selects_all() {
            subscription.messages_left(page_events)
        } else {
            page_events
        };
        let room = stream.outbox.capacity_left(&cx.limits);
        let after = subscription.last_read().cloned();
        cx.actions.push(Action::ReadDocuments {
            read,
            database: Arc::clone(subscription.database()),
            collection: Arc::clone(subscription.collection()),
            after: after.clone(),
            max_documents,
            // As for pages of the log: a queue with little room would make tiny reads.
            max_bytes: room.clamp(page_bytes.div_ceil(16), page_bytes),
        });
        self.in_progress.insert(read, Read { reader, after });
    }

    /// Ends a read and returns what it was for.
    pub(super) fn finish_read(&mut self, read: ReadId) -> Option<Read> {
        self.in_progress.remove(&read)
    }

    /// Takes a page to be sent.
    pub(super) fn push_page(&mut self, read: Read, page: DocumentPage) {
        self.pages.push_back(Page {
            reader: read.reader,
            after: read.after,
            documents: page.documents.into(),
            as_of: page.as_of,
            next: page.next,
        });
    }

    /// Sends documents until the budget is used up. Returns the streams whose pages are done.
    pub(super) fn run(
        &mut self,
        mut budget: u64,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) -> Vec<StreamId> {
        let mut done = Vec::new();
        // Terminates: each turn uses budget or ends a page.
        while budget > 0
            && let Some(mut page) = self.pages.pop_front()
        {
            let before = budget;
            // Half at most, so that a large page does not keep the others waiting.
            let mut left = budget.div_ceil(2);
            let given = left;
            let is_done = page.run(&mut left, streams, subscriptions, cx);
            budget -= given - left;
            cx.counters.match_cost += before - budget;
            if is_done {
                done.push(page.reader.stream);
            } else {
                self.pages.push_back(page);
            }
        }
        done
    }
}

impl Page {
    /// Sends documents and returns whether the page is done.
    fn run(
        &mut self,
        budget: &mut u64,
        streams: &mut Streams,
        subscriptions: &mut Subscriptions,
        cx: &mut Context,
    ) -> bool {
        let Reader { stream, key } = self.reader;
        let Some(stream) = streams.get_mut(stream) else {
            return true;
        };
        let subscription = subscriptions.get_mut(key);
        // A snapshot that has begun again meanwhile does not continue here.
        let continues = |it: &&mut Subscription| {
            it.is_reading_documents() && it.last_read() == self.after.as_ref()
        };
        let Some(subscription) = subscription.filter(continues) else {
            stream.snapshots.state = SnapshotReadState::Idle;
            // It costs something, so that pages nobody wants cannot take a whole slice.
            *budget = budget.saturating_sub(1);
            return true;
        };
        if subscription.is_scanning() {
            if !self.scan(budget, subscription) {
                return false;
            }
            subscriptions.update_window(key, |window| window.scanned_to(self.next.as_ref()));
            if let Some(subscription) = subscriptions.get_mut(key) {
                self.finish(subscription, stream, cx);
            }
            return true;
        }
        self.begin(subscription, stream, cx);
        let mut batch = Batch::default();
        let mut stopped = false;
        while *budget > 0
            && let Some(event) = self.documents.front()
        {
            let cost = 1 + event.weight() / BYTES_PER_COST;
            *budget = budget.saturating_sub(cost as u64);
            if subscription.selects(event) {
                stopped = !subscription.has_credit() || stream.outbox.is_full();
                if stopped {
                    break;
                }
                subscription.charge(event.weight());
                let epoch = cx.log.written_in(event.offset);
                put_event(tags::DOCUMENTS, epoch, event, &mut batch.documents);
                batch.count += 1;
            }
            if let Some(snapshot) = subscription.snapshot_mut() {
                snapshot.advance(&event.document_id, self.as_of);
            }
            self.after = Some(Arc::clone(&event.document_id));
            self.documents.pop_front();
            if batch.documents.len() >= BATCH_BYTES {
                send(&mut batch, subscription, stream, cx);
            }
        }
        // The rest is sent in a later slice.
        let is_done = stopped || self.documents.is_empty();
        if self.documents.is_empty()
            && let Some(snapshot) = subscription.snapshot_mut()
        {
            match &self.next {
                // Documents that were deleted are between the last one and this.
                Some(next) => snapshot.advance(next, self.as_of),
                None => snapshot.finish(self.as_of),
            }
        }
        send(&mut batch, subscription, stream, cx);
        *budget = budget.saturating_sub(1);
        if is_done {
            self.finish(subscription, stream, cx);
        }
        is_done
    }

    /// Looks at documents for the bound of a window, and returns whether these were all of the page.
    fn scan(&mut self, budget: &mut u64, subscription: &mut Subscription) -> bool {
        while *budget > 0
            && let Some(event) = self.documents.pop_front()
        {
            let cost = 1 + event.weight() / BYTES_PER_COST;
            *budget = budget.saturating_sub(cost as u64);
            subscription.scan(&event);
            self.after = Some(Arc::clone(&event.document_id));
        }
        *budget = budget.saturating_sub(1);
        self.documents.is_empty()
    }

    /// Fixes the age of the snapshot at that of its first page.
    fn begin(&self, subscription: &mut Subscription, stream: &mut Stream, cx: &Context) {
        if let Some(snapshot) = subscription.snapshot_mut()
            && snapshot.follows().is_none()
        {
            // The table may contain events of which this hub was not told yet. They are left out when
            // they come.
            let follows = self.as_of.min(cx.log.head());
            snapshot.begin(follows);
            subscription.restart_at(follows);
            // Matching may be behind it, and progress below it would go back.
            stream.progress.note_sent(follows);
            stream.backlog.insert(self.reader.key, follows, false);
        }
    }

    /// Lets the subscription continue: with the next page, or with the changes that follow.
    fn finish(&self, subscription: &mut Subscription, stream: &mut Stream, cx: &Context) {
        let key = self.reader.key;
        stream.snapshots.state = SnapshotReadState::Idle;
        let has_credit = subscription.has_credit();
        if let Some(snapshot) = subscription.snapshot_mut()
            && snapshot.is_reading()
        {
            snapshot.waits_for_credit = !has_credit;
            if has_credit && subscription.is_scanning() {
                stream.snapshots.push_again(key);
            } else if has_credit {
                stream.snapshots.push(key);
            }
            return;
        }
        let follows = subscription.snapshot().and_then(Snapshot::follows);
        let follows = follows.unwrap_or_default();
        if follows >= cx.log.head() {
            stream.backlog.remove(key);
            subscription.go_live(follows, &stream.progress);
        } else {
            stream.backlog.insert(key, follows, has_credit);
        }
    }
}

/// Sends the documents of a batch, unless the message would say nothing.
fn send(batch: &mut Batch, subscription: &mut Subscription, stream: &mut Stream, cx: &mut Context) {
    let (id, request) = (subscription.id().to_string(), subscription.request());
    let Some(snapshot) = subscription.snapshot_mut() else {
        return;
    };
    let Batch { documents, count } = std::mem::take(batch);
    let begins = snapshot.take_begins();
    let whole_at = snapshot.whole_at();
    if documents.is_empty() && !begins && whole_at.is_none() {
        return;
    }
    cx.counters.snapshot_documents += count;
    let (cursor, follows) = (snapshot.cursor(cx), snapshot.follows());
    let window = subscription
        .window()
        .filter(|_| begins)
        .map(WindowState::bound);
    let (bound, number) = window.unwrap_or_default();
    // The documents are encoded already, so that the fields before and after them are messages of their
    // own.
    let before = wire::Snapshot {
        subscription_id: id,
        request,
        begins,
        follows: follows.map(|offset| cx.wire_position(offset)),
        ..wire::Snapshot::default()
    };
    let after = wire::Snapshot {
        cursor: cursor.into(),
        whole_at: whole_at.map(|offset| cx.wire_position(offset)),
        bound: bound.map(|bound| Box::new(bound.to_wire())),
        number,
        ..wire::Snapshot::default()
    };
    let length = before.encoded_len() + documents.len() + after.encoded_len();
    let head_len = key_len(tags::SNAPSHOT) + encoded_len_varint(length as u64);
    let out = stream.enqueue(head_len + length, cx);
    encode_key(tags::SNAPSHOT, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
    before.encode_raw(out);
    out.extend_from_slice(&documents);
    after.encode_raw(out);
}

/// The field numbers of `StreamerMessage.snapshot` and of `Snapshot`.
mod tags {
    pub(super) const SNAPSHOT: u32 = 105;
    pub(super) const DOCUMENTS: u32 = 5;
}

/// The bytes of documents after which a message is sent.
const BATCH_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    impl DocumentReads {
        /// Checks that each stream waits for a page once, or has one, or neither.
        pub(in crate::hub) fn audit(&self, streams: &Streams) {
            for stream in streams.iter() {
                let id = stream.id();
                let waiting = self.waiting.iter().filter(|it| **it == id).count();
                let pages = self.pages.iter().map(|page| page.reader);
                let readers = self.in_progress.values().map(|it| it.reader).chain(pages);
                let held = readers.filter(|reader| reader.stream == id).count();
                let expected = match stream.snapshots.state {
                    SnapshotReadState::Idle => (0, 0),
                    SnapshotReadState::Waiting => (1, 0),
                    SnapshotReadState::InProgress => (0, 1),
                };
                assert_eq!((waiting, held), expected, "{id:?}");
            }
        }
    }
}
