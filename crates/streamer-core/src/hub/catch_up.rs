//! The reads of the log for streams that are behind.
//!
//! A stream has at most one read in progress. Its page is for all subscriptions of the stream that
//! are behind and have credit, from the lowest offset on: 20,000 subscriptions restored at similar
//! offsets cost one pass over the log. The page is also for other streams that wait for the same part
//! of the log, as all of them do after a restart of the server. Streams take turns by pages.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{
    Action, ReadFault, ReadId, StreamId,
    context::Context,
    stream::{ReadState, Stream},
    streams::Streams,
};
use crate::Event;

/// The reads in progress and the streams that wait for one.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    next_read: u64,
    in_progress: BTreeMap<ReadId, ReadRange>,
    /// The number of pages that were read and are being matched.
    pages: usize,
    next_number: u64,
    waiting: BTreeMap<u64, ReadRange>,
    /// Reads may be startable that were not when `start` last looked.
    changed: bool,
}

/// A read for a stream, of the events after an offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadRange {
    pub(super) stream: StreamId,
    pub(super) after: u64,
}

impl CatchUp {
    /// Returns the number of pages being read or matched.
    pub(super) fn pages(&self) -> usize {
        self.in_progress.len() + self.pages
    }

    /// Queues a stream for a read if it has something to read and its outbound queue is not full.
    pub(super) fn enqueue(&mut self, stream: &mut Stream) {
        if stream.read_state == ReadState::Idle
            && !stream.outbox.is_full()
            && let Some(after) = stream.backlog.lowest_ready()
        {
            let stream_id = stream.id();
            stream.read_state = ReadState::Waiting(self.next_number);
            self.waiting.insert(
                self.next_number,
                ReadRange {
                    stream: stream_id,
                    after,
                },
            );
            self.next_number += 1;
            self.changed = true;
        }
    }

    /// Removes a stream that has ended from the queue. Its read in progress, if any, is kept: the
    /// driver will complete it.
    pub(super) fn forget(&mut self, stream: &Stream) {
        if let ReadState::Waiting(number) = stream.read_state {
            self.waiting.remove(&number);
        }
    }

    /// Starts waiting reads, in order, until as many as allowed are in progress. A stream whose
    /// events are likely part of a page in progress waits for that page.
    pub(super) fn start(&mut self, streams: &mut Streams, cx: &mut Context) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mut from = 0;
        while self.pages() < cx.limits.reads {
            let Some((&number, &range)) = self.waiting.range(from..).next() else {
                return;
            };
            from = number + 1;
            if self.covers(range.after, cx.limits.page_events as u64) {
                continue;
            }
            self.waiting.remove(&number);
            if let Some(stream) = streams.get_mut(range.stream) {
                self.start_read(stream, cx);
            }
        }
    }

    fn start_read(&mut self, stream: &mut Stream, cx: &mut Context) {
        stream.read_state = ReadState::Idle;
        // The stream's state may have changed while it waited.
        let Some(after) = stream.backlog.lowest_ready() else {
            return;
        };
        if stream.outbox.is_full() {
            return;
        }
        stream.read_state = ReadState::InProgress;
        let read = ReadId(self.next_read);
        self.next_read += 1;
        let range = ReadRange {
            stream: stream.id(),
            after,
        };
        self.in_progress.insert(read, range);
        let page_bytes = cx.limits.page_bytes;
        cx.actions.push(Action::Read {
            read,
            after,
            max_events: cx.limits.page_events,
            // Events that do not fit into the queue would have to be read again.
            max_bytes: stream
                .outbox
                .capacity_left(&cx.limits)
                .clamp(page_bytes.div_ceil(16), page_bytes),
        });
    }

    /// Ends a read and returns what it was for.
    pub(super) fn finish_read(&mut self, read: ReadId) -> Option<ReadRange> {
        self.changed = true;
        self.in_progress.remove(&read)
    }

    /// Notes that a page is being matched.
    pub(super) fn start_page(&mut self) {
        self.pages += 1;
    }

    /// Notes that a page was matched.
    pub(super) fn finish_page(&mut self) {
        self.changed = true;
        self.pages -= 1;
    }

    /// Removes from the queue the first streams that can use a page with these offsets.
    pub(super) fn take_within(&mut self, page: &Range<u64>) -> Vec<StreamId> {
        let within = self
            .waiting
            .iter()
            .filter(|(_, range)| page.contains(&range.after));
        let numbers: Vec<_> = within.map(|(number, _)| *number).take(MAX_SHARED).collect();
        let ranges = numbers
            .iter()
            .filter_map(|number| self.waiting.remove(number));
        ranges.map(|range| range.stream).collect()
    }

    /// Returns true if a page in progress likely has the events after this offset.
    fn covers(&self, offset: u64, page_events: u64) -> bool {
        self.in_progress
            .values()
            .any(|range| (range.after..range.after.saturating_add(page_events)).contains(&offset))
    }
}

/// Returns the usable part of a page: up to the first hole and to the head. Events after the head
/// will arrive as committed.
pub(super) fn check_page(
    after: u64,
    head: u64,
    mut events: Vec<Arc<Event>>,
) -> Result<Vec<Arc<Event>>, ReadFault> {
    let expected = (after + 1)..=head;
    let usable = events
        .iter()
        .zip(expected)
        .take_while(|(event, offset)| event.offset == *offset)
        .count();
    if events.is_empty() {
        return Err(ReadFault::Storage(format!(
            "the log returned no events after offset {after}; its head is {head}"
        )));
    }
    if usable == 0 {
        return Err(ReadFault::Damaged { offset: after + 1 });
    }
    events.truncate(usable);
    Ok(events)
}

/// The maximum number of other streams that share one page.
const MAX_SHARED: usize = 255;
