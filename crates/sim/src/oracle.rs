//! The test oracle: judges a run from payloads and a naive filter, never from positions that the
//! machines under test compute.

use std::{cmp::Reverse, collections::BTreeMap};

use bytes::Bytes;
use steadfast_chaos::judge::{Deviation, EntryId, Received, Verdict};
use steadfast_streamer_core::{Direction, Event, client::Change};

use crate::{
    client::Client,
    payload::{DOCUMENTS, Payload, Selection},
    publisher::Publisher,
    rights::MaySee,
    subscription::{Consumed, Live, Subscription},
};

/// The events of the log; the first has offset 1.
#[derive(Debug, Default)]
pub(crate) struct Events {
    payloads: Vec<Payload>,
    data: Vec<Bytes>,
    /// The time of each, which never falls.
    times_ms: Vec<i64>,
    /// The offsets of the entries of each publisher, by sequence.
    by_publisher: BTreeMap<(u64, u64), u64>,
    /// The offsets of the changes of each document.
    by_document: [Vec<u64>; DOCUMENTS as usize],
}

impl Events {
    pub(crate) fn push(&mut self, event: &Event) {
        let payload = Payload::from_json(&event.data).expect("the payload is ours");
        self.payloads.push(payload);
        self.data.push(event.data.clone());
        self.times_ms.push(event.timestamp);
        let entry = (payload.publisher, payload.sequence);
        self.by_publisher.insert(entry, self.len());
        self.by_document[payload.document() as usize].push(self.len());
    }

    pub(crate) fn len(&self) -> u64 {
        self.payloads.len() as u64
    }

    /// Returns true if the first event of a time or later, of those after `first`, follows an offset.
    pub(crate) fn begin_at(&self, time_ms: i64, offset: u64, first: u64) -> bool {
        let earlier = self.times_ms.partition_point(|time| *time < time_ms) as u64;
        // The log may have been trimmed since the search.
        offset == earlier || (earlier..=first).contains(&offset)
    }

    fn payload(&self, offset: u64) -> Option<Payload> {
        let index = usize::try_from(offset.checked_sub(1)?).ok()?;
        self.payloads.get(index).copied()
    }

    fn offset(&self, payload: Payload) -> Option<u64> {
        let entry = (payload.publisher, payload.sequence);
        let offset = self.by_publisher.get(&entry).copied();
        offset.filter(|offset| self.payload(*offset) == Some(payload))
    }

    /// Returns the newest event of each document up to an offset, in the order of the documents' ids.
    fn newest(&self, upto: u64) -> impl Iterator<Item = (Payload, &Bytes)> {
        self.by_document.iter().filter_map(move |offsets| {
            let count = offsets.partition_point(|offset| *offset <= upto);
            let index = offsets[count.checked_sub(1)?] as usize - 1;
            Some((self.payloads[index], &self.data[index]))
        })
    }
}

/// Checks that every acknowledged entry is in the log, once, in the order of its publisher.
pub(crate) fn check_log(events: &Events, publishers: &[Publisher], violations: &mut Vec<String>) {
    for publisher in publishers {
        let logged: Vec<u64> = events
            .payloads
            .iter()
            .filter(|payload| payload.publisher == publisher.number)
            .map(|payload| payload.sequence)
            .collect();
        // Strictly: a resubmitted entry that was appended twice would otherwise pass.
        if !logged.is_sorted_by(|before, after| before < after) {
            violations.push(format!(
                "publisher {}: out of order or twice in the log",
                publisher.number
            ));
        }
        for payload in &publisher.acknowledged {
            if logged.binary_search(&payload.sequence).is_err() {
                violations.push(format!(
                    "{payload:?} was acknowledged and is not in the log"
                ));
            }
        }
    }
}

/// Compares a live set with the log at an offset, as a peer with these rights may read it; `None` if it holds
/// the newest payload of each document that matches there, or a window the first of them.
pub(crate) fn live_difference(
    events: &Events,
    selection: Selection,
    rights: &MaySee,
    offset: u64,
    live: &Live,
) -> Option<String> {
    let newest = events.newest(offset);
    let mut wanted: Vec<_> = newest
        .filter(|(payload, _)| selection.matches(*payload) && rights.admits(*payload))
        .collect();
    if let Live::Window(window, _) = live {
        match window.direction {
            // Stable: documents of equal value stay in the order of their ids.
            Direction::Ascending => wanted.sort_by_key(|(payload, _)| payload.value),
            Direction::Descending => wanted.sort_by_key(|(payload, _)| Reverse(payload.value)),
        }
        wanted.truncate(window.limit as usize);
    }
    let held = live.documents();
    let is_same = |(held, wanted): (&&Change, &(Payload, &Bytes))| {
        held.data == *wanted.1 && *held.document_id == *wanted.0.id()
    };
    let are_same = held.len() == wanted.len() && held.iter().zip(&wanted).all(is_same);
    (!are_same).then(|| {
        let held: Vec<_> = held.iter().map(|it| (&it.document_id, &it.data)).collect();
        format!(
            "a live set of {selection:?} with {rights:?} at {offset} holds {held:?} and not {wanted:?}"
        )
    })
}

/// Returns the number of changes that the subscription must still receive; `None` before it is
/// acknowledged.
pub(crate) fn missing(
    events: &Events,
    client: &Client,
    subscription: &Subscription,
) -> Option<u64> {
    // Nothing more is to come for these; `check` still judges what they received.
    if subscription.unsubscribed || subscription.refused.is_some() {
        return Some(0);
    }
    if let Some(live) = &subscription.live {
        let rights = subscription.granted.last()?;
        let differs =
            || live_difference(events, subscription.selection, rights, events.len(), live);
        let is_settled = live.is_exact() && differs().is_none();
        return Some(u64::from(!is_settled));
    }
    if client.profile {
        subscription.start?;
    }
    let verdict = judge(events, client, subscription, |_| {});
    // A gap explains what is missing, so that a run does not wait for it.
    Some(verdict.lost - verdict.explained)
}

/// Checks one subscription.
pub(crate) fn check(
    events: &Events,
    client: &Client,
    subscription: &Subscription,
    violations: &mut Vec<String>,
) {
    let name = format!(
        "subscription {} ({:?})",
        subscription.id, subscription.selection
    );
    let mut violation = |what: String| violations.push(format!("{name}: {what}"));
    if let Some(refused) = &subscription.refused {
        return violation(format!("refused: {refused}"));
    }
    if subscription.live.is_some() {
        // Judged at every position on the way.
        if missing(events, client, subscription) != Some(0) {
            violation("the live set is never whole".to_owned());
        }
        return;
    }
    if client.profile && subscription.start.is_none() && !subscription.unsubscribed {
        return violation("never acknowledged".to_owned());
    }
    if client.profile && subscription.consumed.contains(&Consumed::Gap) {
        violation("a gap with the profile".to_owned());
    }
    let mut first = None;
    let verdict = judge(events, client, subscription, |deviation| {
        // One names the cause; the ones after it usually follow from it.
        first.get_or_insert(deviation);
    });
    if let Some(first) = first {
        let (what, id) = match first {
            Deviation::Lost(id) => ("lost", Some(id)),
            Deviation::Duplicated(id) => ("received twice", Some(id)),
            Deviation::Reordered(id) => ("out of order", Some(id)),
            Deviation::Altered(id) => ("altered", Some(id)),
            Deviation::Unexpected(id) => ("not expected", id),
        };
        let payload = id.and_then(|id| events.payload(id.number));
        let offset = id.map_or(0, |id| id.number);
        violation(format!(
            "offset {offset}, {payload:?}, {what}; in all {verdict:?}"
        ));
    }
}

/// Returns the offset of the last change that an application consumed, or where it began.
pub(crate) fn last_offset(events: &Events, subscription: &Subscription) -> Option<u64> {
    let offsets = subscription.consumed.iter().filter_map(|item| match item {
        Consumed::Change(payload) => events.offset(*payload),
        Consumed::Gap | Consumed::Trimmed(..) => None,
    });
    offsets.chain(subscription.start).max()
}

fn judge(
    events: &Events,
    client: &Client,
    subscription: &Subscription,
    on_deviation: impl FnMut(Deviation),
) -> Verdict {
    // All publishers share one log, whose order is that of every subscription.
    let entry = |number| EntryId { lane: 0, number };
    let (mut received, mut trimmed, mut last) = (Vec::new(), Vec::new(), None);
    // A plain subscription starts wherever the server is.
    received.extend((!client.profile).then_some(Received::Gap));
    for item in &subscription.consumed {
        match item {
            Consumed::Change(payload) => {
                let offset = events.offset(*payload);
                last = last.max(offset);
                received.push(offset.map_or(Received::Unknown, |it| Received::Entry(entry(it))));
            }
            Consumed::Gap => received.push(Received::Gap),
            Consumed::Trimmed(from, to) => trimmed.push(*from + 1..=*to),
        }
    }
    // Up to here everything must have arrived; later changes may have. An application that unsubscribed
    // discards its queue, and what it had received is complete.
    let required = match (subscription.unsubscribed, subscription.end) {
        (false, _) => u64::MAX,
        (true, Some(end)) => end,
        (true, None) => last.unwrap_or(0),
    };
    // A plain peer is not told where other rights decide: what all of its rights admit must arrive.
    let past_rights = client.past_rights(subscription.selection.collection);
    let (start, end) = (subscription.start.unwrap_or(0), subscription.end);
    let wanted = events.payloads.iter().zip(1..).filter(|(payload, offset)| {
        *offset > start
            && end.is_none_or(|end| *offset <= end)
            && subscription.selection.matches(**payload)
            && if client.profile {
                subscription.granted.admits(*offset, **payload)
            } else {
                past_rights.is_empty() || past_rights.iter().any(|it| it.admits(**payload))
            }
    });
    let wanted = wanted.map(|(payload, offset)| {
        let is_admitted = client.profile || past_rights.iter().all(|it| it.admits(*payload));
        // Only these may be missing, so that a trim hides no other loss.
        let is_trimmed = trimmed.iter().any(|range| range.contains(&offset));
        (
            entry(offset),
            is_admitted && offset <= required && !is_trimmed,
        )
    });
    let mut verdict = Verdict::default();
    verdict.add(wanted, received, on_deviation);
    verdict
}
