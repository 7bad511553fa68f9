//! The reads of the log for whoever is behind: streams, and collections that are overloaded.
//!
//! A stream has at most one page at a time. It is for all subscriptions of the stream that are behind
//! and have credit, from the lowest offset on: 20,000 subscriptions restored at similar offsets cost
//! one pass over the log. The page is also for other streams that wait for the same part of the log,
//! as all of them do after a restart of the server. Streams take turns by pages.
//!
//! The newest events are in memory, and so are the pages that were read last: a stream that stops in
//! the middle of a page, for lack of credit or because its queue is full, continues without another
//! read. While a page is delivered the next one is read, unless others wait for a read.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use super::{
    Action, ReadFault, ReadId, StreamId,
    context::Context,
    match_queue::MatchQueue,
    page::Page,
    stream::{ReadState, Stream},
    streams::Streams,
};
use crate::Event;

/// The reads in progress, the streams that wait for one, and the pages read last.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    next_read: u64,
    in_progress: BTreeMap<ReadId, Read>,
    /// The number of pages that are being matched.
    pages: usize,
    next_number: u64,
    waiting: BTreeMap<u64, Waiting>,
    cache: PageCache,
    /// Pages may be startable that were not when `start` last looked.
    changed: bool,
}

/// A read of the events after an offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) reader: Reader,
    pub(super) after: u64,
}

/// The cause of a read, which has to handle its faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Stream(StreamId),
    /// The overloaded collections.
    Collections,
    /// Nobody yet: the page is likely the next one of a stream.
    Ahead,
}

/// A stream that waits for the events after an offset.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    stream: StreamId,
    after: u64,
}

/// The pages that were read last, each with the offset that it follows.
#[derive(Debug, Default)]
struct PageCache(VecDeque<(u64, Vec<Arc<Event>>)>);

impl CatchUp {
    /// Returns the number of pages being read or matched.
    pub(super) fn pages(&self) -> usize {
        self.in_progress.len() + self.pages
    }

    /// Queues a stream for a page if it has something to read and its outbound queue is not full.
    pub(super) fn enqueue(&mut self, stream: &mut Stream) {
        // With one page at a time, a page never finds cursors that another one moves.
        if stream.read_state == ReadState::Idle
            && !stream.outbox.is_full()
            && let Some(after) = stream.backlog.lowest_ready()
        {
            let number = self.next_number;
            self.next_number += 1;
            stream.read_state = ReadState::Waiting(number);
            let stream = stream.id();
            self.waiting.insert(number, Waiting { stream, after });
            self.changed = true;
        }
    }

    /// Removes a stream that has ended from the queue. Its read in progress, if any, is kept: the
    /// driver will complete it.
    pub(super) fn forget(&mut self, stream: &Stream) {
        if let ReadState::Waiting(number) = stream.read_state {
            self.waiting.remove(&number);
        }
        self.drop_idle_cache();
    }

    /// Starts what can be started: fills the overloaded collections, gives pages to waiting streams,
    /// in order, and reads what is not in memory, until as many pages as allowed are in progress. A
    /// stream whose events are likely part of a read in progress waits for it.
    pub(super) fn start(
        &mut self,
        streams: &mut Streams,
        matching: &mut MatchQueue,
        cx: &mut Context,
    ) {
        // Before streams and in every step: room in the queue appears without `changed` being set.
        self.fill_collections(matching, cx);
        // With thousands of waiting streams, a pass in every step would cost more than the step.
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mut from = 0;
        while self.pages() < cx.limits.reads {
            let Some((&number, &Waiting { stream, after })) = self.waiting.range(from..).next()
            else {
                return;
            };
            // A stream that waits for a read in progress keeps its place without blocking those
            // behind it.
            from = number + 1;
            let is_loaded = self.is_loaded(after, cx);
            // After a restart all streams ask for nearly the same offset; one read serves them all.
            if !is_loaded && self.covers(after, cx.limits.page_events as u64) {
                continue;
            }
            self.waiting.remove(&number);
            let Some(stream) = streams.get_mut(stream) else {
                continue;
            };
            stream.read_state = ReadState::Idle;
            // The stream's state may have changed while it waited.
            match stream.backlog.lowest_ready() {
                Some(now) if now == after && !stream.outbox.is_full() => {}
                Some(_) | None => {
                    // At the back of the queue, if it still has something to read; this loop meets
                    // it there.
                    self.enqueue(stream);
                    continue;
                }
            }
            stream.read_state = ReadState::InProgress;
            let id = stream.id();
            if is_loaded {
                let events = self.loaded(after, cx);
                self.start_page(Some(id), after, events, streams, matching, cx);
            } else {
                // Events that do not fit into the queue would have to be read again.
                let max_bytes = stream.outbox.capacity_left(&cx.limits);
                self.read(Reader::Stream(id), after, max_bytes, cx);
            }
        }
    }

    /// Gives the events after an offset to a stream, and to all that wait for some of them. Returns false
    /// if there are none.
    pub(super) fn start_page(
        &mut self,
        reader: Option<StreamId>,
        after: u64,
        events: Vec<Arc<Event>>,
        streams: &mut Streams,
        matching: &mut MatchQueue,
        cx: &mut Context,
    ) -> bool {
        // `check_page` and the events in memory leave no holes, so that the number gives the
        // offset.
        let end = after + events.len() as u64;
        let mut ids: BTreeSet<_> = reader.into_iter().collect();
        // A stream in the middle of the range takes part from its offset on: cursors skip what they
        // have.
        for id in self.take_within(&(after..end)) {
            if let Some(stream) = streams.get_mut(id) {
                stream.read_state = ReadState::InProgress;
                ids.insert(id);
            }
        }
        if ids.is_empty() {
            return false;
        }
        // The page counts as in progress until it is delivered, so that reads cannot outrun
        // deliveries.
        self.pages += 1;
        matching.push_page(Page::new(after, ids, events));
        // Only when nobody waits: reading ahead is a guess and must not take a place from a stream.
        if end < cx.log.head()
            && self.waiting.is_empty()
            && self.pages() < cx.limits.reads
            && !self.is_loaded(end, cx)
            && !self.covers(end, cx.limits.page_events as u64)
        {
            self.read(Reader::Ahead, end, usize::MAX, cx);
        }
        true
    }

    /// Fills the queues of overloaded collections from memory, or reads what follows.
    fn fill_collections(&mut self, matching: &mut MatchQueue, cx: &mut Context) {
        while let Some(after) = matching.next_refill(&cx.limits) {
            let events = self.loaded(after, cx);
            if events.is_empty() {
                // Not bounded by the number of reads: there is one at most, and it must not wait
                // until streams have no more to read.
                if !self.covers(after, cx.limits.page_events as u64) {
                    self.read(Reader::Collections, after, usize::MAX, cx);
                }
                return;
            }
            matching.refill(after, &events, cx);
        }
    }

    fn read(&mut self, reader: Reader, after: u64, max_bytes: usize, cx: &mut Context) {
        let read = ReadId(self.next_read);
        self.next_read += 1;
        self.in_progress.insert(read, Read { reader, after });
        let page_bytes = cx.limits.page_bytes;
        cx.actions.push(Action::Read {
            read,
            after,
            max_events: cx.limits.page_events,
            // At least a sixteenth of a page: a queue with little room would turn the pass into
            // tiny reads.
            max_bytes: max_bytes.clamp(page_bytes.div_ceil(16), page_bytes),
        });
    }

    /// Ends a read and returns what it was for.
    pub(super) fn finish_read(&mut self, read: ReadId) -> Option<Read> {
        self.changed = true;
        self.in_progress.remove(&read)
    }

    /// Keeps the events that were read after an offset, in place of the oldest page.
    pub(super) fn keep(&mut self, after: u64, events: &[Arc<Event>], cx: &Context) {
        self.cache.keep(after, events.to_vec(), cx.limits.reads);
    }

    /// Notes that a page was matched.
    pub(super) fn finish_page(&mut self) {
        self.changed = true;
        self.pages -= 1;
    }

    /// Frees the memory of pages when nobody is about to need them.
    pub(super) fn drop_idle_cache(&mut self) {
        // While a page is in progress, its streams may stop in the middle of it and come back for
        // the rest.
        if self.pages() == 0 && self.waiting.is_empty() {
            self.cache = PageCache::default();
        }
    }

    #[cfg(test)]
    pub(super) fn holds_pages(&self) -> bool {
        !self.cache.0.is_empty()
    }

    /// Returns the events after an offset that are in memory, one page at most.
    fn loaded(&self, after: u64, cx: &Context) -> Vec<Arc<Event>> {
        let recent = cx.log.recent_after(after, cx.limits.page_events);
        // The newest events first: they reach the head, and the cached page may end before it.
        if recent.is_empty() {
            self.cache.after(after).unwrap_or_default().to_vec()
        } else {
            recent
        }
    }

    /// Returns true if the event after an offset is in memory.
    fn is_loaded(&self, after: u64, cx: &Context) -> bool {
        cx.log.has_recent_after(after) || self.cache.after(after).is_some()
    }

    /// Removes from the queue the first streams that can use a page with these offsets.
    fn take_within(&mut self, page: &Range<u64>) -> Vec<StreamId> {
        let within = self
            .waiting
            .iter()
            .filter(|(_, waiting)| page.contains(&waiting.after));
        let numbers: Vec<_> = within.map(|(number, _)| *number).take(MAX_SHARED).collect();
        let taken = numbers
            .iter()
            .filter_map(|number| self.waiting.remove(number));
        taken.map(|waiting| waiting.stream).collect()
    }

    /// Removes from the queue the first stream that waits for the events after exactly this offset.
    pub(super) fn take_at(&mut self, after: u64) -> Option<StreamId> {
        let mut waiting = self.waiting.iter();
        let (&number, _) = waiting.find(|(_, waiting)| waiting.after == after)?;
        self.waiting.remove(&number).map(|waiting| waiting.stream)
    }

    /// Returns true if a read in progress likely has the events after this offset.
    fn covers(&self, offset: u64, page_events: u64) -> bool {
        self.in_progress
            .values()
            // Likely, because a read may end earlier by bytes. Then those that waited ask again.
            .any(|read| (read.after..read.after.saturating_add(page_events)).contains(&offset))
    }
}

impl PageCache {
    fn keep(&mut self, after: u64, events: Vec<Arc<Event>>, pages: usize) {
        self.0.truncate(pages.saturating_sub(1));
        self.0.push_front((after, events));
    }

    /// Returns the events after an offset, `None` if they are not in memory.
    fn after(&self, offset: u64) -> Option<&[Arc<Event>]> {
        self.0.iter().find_map(|(after, events)| {
            let skipped = usize::try_from(offset.checked_sub(*after)?).ok()?;
            events.get(skipped..).filter(|rest| !rest.is_empty())
        })
    }
}

/// Returns the usable part of a page: up to the first hole and to the head. Events after the head
/// will arrive as committed.
pub(super) fn check_page(
    after: u64,
    head: u64,
    mut events: Vec<Arc<Event>>,
) -> Result<Vec<Arc<Event>>, ReadFault> {
    // The hub does not trust the log: a hole that is passed over would lose events without a trace.
    let expected = (after + 1)..=head;
    let usable = events
        .iter()
        .zip(expected)
        .take_while(|(event, offset)| event.offset == *offset)
        .count();
    // Everything up to the head is durable, so that an empty page is a fault and not the end.
    if events.is_empty() {
        return Err(ReadFault::Storage(format!(
            "the log returned no events after offset {after}; its head is {head}"
        )));
    }
    if usable == 0 {
        // The log skipped the next event without reporting damage: it cannot be read again either.
        return Err(ReadFault::Damaged { offset: after + 1 });
    }
    events.truncate(usable);
    Ok(events)
}

/// The maximum number of other streams that share one page.
const MAX_SHARED: usize = 255;
