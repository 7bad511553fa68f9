//! A page of the log on its way to the subscriptions that are behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Action, Hub, StreamId, backlog::Backlog, delivery::wire_event};
use crate::{
    Event,
    filter::{Document, Selection, evaluate},
    matcher::SubscriptionKey,
};

/// A page, and how far it got.
struct Page {
    /// The place it was read after.
    after: u64,
    /// Whom it is given to.
    streams: BTreeSet<StreamId>,
    /// Their subscriptions with credit, if they are few.
    few: Option<Vec<SubscriptionKey>>,
    /// What was looked at.
    upto: u64,
    /// Streams without room for what matched, and the place they got to.
    stopped: BTreeMap<StreamId, u64>,
    /// Deliveries so far.
    deliveries: usize,
}

impl Page {
    fn goes_on(&self) -> bool {
        self.deliveries < DELIVERIES_PER_PAGE && self.stopped.len() < self.streams.len()
    }
}

impl Hub {
    /// Gives a page to the streams' subscriptions that are behind, and then, if it reaches so far,
    /// what is still in memory: otherwise catching up would never end while others publish.
    pub(super) fn feed(
        &mut self,
        streams: &[StreamId],
        after: u64,
        events: &[Arc<Event>],
        out: &mut Vec<Action>,
    ) {
        let mut page = Page {
            after,
            streams: streams.iter().copied().collect(),
            few: self.few(streams, after),
            upto: after,
            stopped: BTreeMap::new(),
            deliveries: 0,
        };
        for event in events {
            if page.goes_on() {
                self.offer(&mut page, event, out);
            }
        }
        if page.goes_on() {
            for event in self.tail.after(page.upto).unwrap_or_default() {
                if page.goes_on() {
                    self.offer(&mut page, &event, out);
                }
            }
        }
        self.counters.page_events += page.upto - after;
        for id in streams {
            let upto = page.stopped.get(id).copied().unwrap_or(page.upto);
            let Some(stream) = self.streams.get_mut(id) else {
                continue;
            };
            for key in stream.backlog.advance(after, upto, self.bounds.head) {
                self.counters.caught_up += 1;
                if let Some(subscription) = self.subscriptions.get_mut(&key) {
                    subscription.go_live(&stream.progress);
                }
            }
        }
    }

    /// Delivers the next event of a page. A stream that has no room for it, or not for all that it is
    /// for, stops before it: those that got it are put behind it, and the others read it again.
    fn offer(&mut self, page: &mut Page, event: &Arc<Event>, out: &mut Vec<Action>) {
        let mut keys = std::mem::take(&mut self.matched);
        let mut grouped = std::mem::take(&mut self.grouped);
        keys.clear();
        self.collect(page, event, &mut keys);
        self.group(&keys, &mut grouped);
        let wire = (!grouped.is_empty()).then(|| wire_event(self.epoch, event));
        for group in grouped.chunk_by(|one, other| one.0 == other.0) {
            let id = group[0].0;
            if page.stopped.contains_key(&id) {
                continue;
            }
            if self.is_full(id) {
                page.stopped.insert(id, event.offset - 1);
                continue;
            }
            keys.clear();
            keys.extend(group.iter().map(|(_, key)| *key));
            let Some(wire) = &wire else {
                continue;
            };
            page.deliveries += 1;
            let sent = self.deliver(id, event, wire, &mut keys, out);
            if sent < keys.len() {
                page.stopped.insert(id, event.offset - 1);
                if let Some(stream) = self.streams.get_mut(&id) {
                    for key in &keys[..sent] {
                        stream.backlog.insert(*key, event.offset, true);
                    }
                }
            }
        }
        page.upto = event.offset;
        self.matched = keys;
        self.grouped = grouped;
    }

    /// The subscriptions that a page is for, if they are few.
    fn few(&self, streams: &[StreamId], after: u64) -> Option<Vec<SubscriptionKey>> {
        let backlogs = || {
            streams
                .iter()
                .filter_map(|id| Some(&self.streams.get(id)?.backlog))
        };
        let count: usize = backlogs().map(Backlog::ready_count).sum();
        let within = || backlogs().flat_map(|backlog| backlog.ready_within(after..u64::MAX));
        (count <= ONE_BY_ONE).then(|| within().collect())
    }

    /// Finds the subscriptions that an event of a page is for.
    ///
    /// A few are looked at one by one, which costs nothing for all the others of the server; many are
    /// found through the matcher.
    fn collect(&self, page: &Page, event: &Event, keys: &mut Vec<SubscriptionKey>) {
        let takes = |key: &SubscriptionKey| {
            let subscription = self.subscriptions.get(key)?;
            let stream = self.streams.get(&subscription.stream)?;
            let takes = page.streams.contains(&subscription.stream)
                && stream.backlog.takes(*key, page.after, event.offset);
            takes.then_some(subscription)
        };
        let Some(few) = &page.few else {
            // Counted when it was committed, if it can not be looked into.
            self.matcher.matches(event, keys).unwrap_or_default();
            keys.retain(|key| takes(key).is_some());
            return;
        };
        let document = Document::of(event);
        keys.extend(few.iter().filter(|key| {
            takes(key).is_some_and(|subscription| {
                subscription.collection == event.collection
                    && subscription.database == event.database
                    && evaluate(&subscription.filter, &document).unwrap_or(false)
            })
        }));
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
}

/// Up to so many subscriptions are looked at one by one.
const ONE_BY_ONE: usize = 64;
/// Deliveries made of one page, after which it is cut: the hub does nothing else meanwhile.
const DELIVERIES_PER_PAGE: usize = 4_096;
