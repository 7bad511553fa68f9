//! The test oracle: judges a run from payloads and a naive filter, never from positions that the
//! machines under test compute.

use std::{cmp::Reverse, collections::BTreeMap};

use steadfast_chaos::judge::{Deviation, EntryId, Received, Verdict};

use steadfast_streamer_core::Direction;

use crate::{
    client::Client,
    publisher::Publisher,
    subscription::{Consumed, Live, Payload, Selection, Subscription},
};

/// The events of the log, with their offsets; the first has offset 1.
#[derive(Debug, Default)]
pub(crate) struct Events {
    payloads: Vec<Payload>,
    offsets: BTreeMap<Payload, u64>,
    /// The time of each, which never falls.
    times_ms: Vec<i64>,
}

impl Events {
    pub(crate) fn push(&mut self, payload: Payload, time_ms: i64) {
        self.payloads.push(payload);
        self.times_ms.push(time_ms);
        self.offsets.insert(payload, self.len());
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

/// Compares a live set with the log at an offset; `None` if it holds the newest payload of each document
/// that matches there, or a window the first of them.
pub(crate) fn live_difference(
    events: &Events,
    selection: Selection,
    offset: u64,
    live: &Live,
) -> Option<String> {
    let mut wanted = BTreeMap::new();
    for (payload, _) in events
        .payloads
        .iter()
        .zip(1..)
        .filter(|(_, at)| *at <= offset)
    {
        let id = format!("d{}", payload.document());
        if selection.matches(*payload) {
            wanted.insert(id, *payload);
        } else {
            wanted.remove(&id);
        }
    }
    let mut wanted: Vec<_> = wanted.into_iter().collect();
    if let Live::Window(window, _) = live {
        match window.direction {
            // Stable: documents of equal value stay in the order of their ids.
            Direction::Ascending => wanted.sort_by_key(|(_, payload)| payload.value),
            Direction::Descending => wanted.sort_by_key(|(_, payload)| Reverse(payload.value)),
        }
        wanted.truncate(window.limit as usize);
    }
    let held = live.documents();
    // One that cannot be read equals none.
    let held: Vec<_> = held
        .iter()
        .map(|it| (it.document_id.to_string(), Payload::from_json(&it.data)))
        .collect();
    let wanted: Vec<_> = wanted.into_iter().map(|(id, it)| (id, Some(it))).collect();
    (held != wanted).then(|| {
        format!("a live set of {selection:?} at {offset} holds {held:?} and not {wanted:?}")
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
        let differs = || live_difference(events, subscription.selection, events.len(), live);
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
        Consumed::Change(payload) => events.offsets.get(payload).copied(),
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
    let offset_of = |item: &Consumed| match item {
        Consumed::Change(payload) => events.offsets.get(payload).copied(),
        Consumed::Gap | Consumed::Trimmed(..) => None,
    };
    // An application that unsubscribed discards its queue, and what it had received is complete.
    let last = subscription.consumed.iter().filter_map(offset_of).max();
    // Up to here everything must have arrived; later changes may have.
    let required = match (subscription.unsubscribed, subscription.end) {
        (false, _) => u64::MAX,
        (true, Some(end)) => end,
        (true, None) => last.unwrap_or(0),
    };
    let start = subscription.start.unwrap_or(0);
    // Only these may be missing, so that a trim hides no other loss.
    let is_trimmed = |offset: u64| {
        subscription.consumed.iter().any(|item| {
            matches!(item, Consumed::Trimmed(from, to) if (*from + 1..=*to).contains(&offset))
        })
    };
    let is_told = |item: &&Consumed| !matches!(item, Consumed::Trimmed(..));
    let wanted = events
        .payloads
        .iter()
        .zip(1..)
        .filter(|(payload, offset)| {
            *offset > start
                && subscription.end.is_none_or(|end| *offset <= end)
                && subscription.selection.matches(**payload)
        })
        .map(|(_, offset)| (entry(offset), offset <= required && !is_trimmed(offset)));
    let received = subscription
        .consumed
        .iter()
        .filter(is_told)
        .map(|item| match item {
            Consumed::Change(_) => {
                offset_of(item).map_or(Received::Unknown, |offset| Received::Entry(entry(offset)))
            }
            Consumed::Gap | Consumed::Trimmed(..) => Received::Gap,
        });
    // A plain subscription starts wherever the server is.
    let free_start = (!client.profile).then_some(Received::Gap);
    let mut verdict = Verdict::default();
    verdict.add(wanted, free_start.into_iter().chain(received), on_deviation);
    verdict
}
