//! The verdict: the deliveries of each subscription compared with the acknowledged entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use serde_json::Value;

use super::{condition::Condition, reference};

/// The publisher of an entry and its number there. The payload carries both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryId {
    pub(crate) publisher: u32,
    pub(crate) sequence: u64,
}

/// An entry as it was published.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) entry: EntryId,
    pub(crate) database: &'static str,
    pub(crate) collection: &'static str,
    pub(crate) id: String,
    /// Its fields; an empty object for a delete.
    pub(crate) document: Value,
    /// The server has confirmed that it is durable.
    pub(crate) acknowledged: bool,
}

/// A delivery. There are many, so only a digest of the document is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// `None` if the payload carries no entry id.
    pub(crate) entry: Option<EntryId>,
    pub(crate) digest: Digest,
}

/// A digest of a document's id and of the fields the publisher wrote, without those the server adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn of(id: &str, document: &Value) -> Self {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        // Equal objects give equal text, because `serde_json` writes keys in order.
        document.to_string().hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A subscription and its deliveries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deliveries {
    pub(crate) database: &'static str,
    pub(crate) collection: &'static str,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) received: Vec<Received>,
    /// Gaps and resyncs in the stream. The server of a run keeps everything, so there should be none.
    pub(crate) gaps: u64,
}

/// Counts over all subscriptions. All below `delivered` should be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Acknowledged entries.
    pub(crate) published: u64,
    /// Deliveries, each counted once per subscription and entry.
    pub(crate) delivered: u64,
    /// Acknowledged entries that match a subscription and were never delivered.
    pub(crate) lost: u64,
    /// Repeated deliveries of an entry.
    pub(crate) duplicated: u64,
    /// Deliveries after a later entry of the same publisher.
    pub(crate) reordered: u64,
    /// Deliveries that were never published or do not match the subscription.
    pub(crate) unexpected: u64,
    /// Deliveries with other fields than were published.
    pub(crate) altered: u64,
}

impl Verdict {
    /// Returns true if everything arrived once, in order and unchanged.
    pub(crate) fn is_clean(&self) -> bool {
        let Self {
            lost,
            duplicated,
            reordered,
            unexpected,
            altered,
            ..
        } = *self;
        [lost, duplicated, reordered, unexpected, altered]
            .iter()
            .all(|count| *count == 0)
    }
}

impl Deliveries {
    /// Returns a subscription without deliveries.
    pub(crate) fn new(
        database: &'static str,
        collection: &'static str,
        conditions: Vec<Condition>,
    ) -> Self {
        Self {
            database,
            collection,
            conditions,
            ..Self::default()
        }
    }

    /// Returns true if the entry belongs to this subscription.
    pub(crate) fn wants(&self, sent: &Sent) -> bool {
        self.database == sent.database
            && self.collection == sent.collection
            && reference::matches(&self.conditions, &sent.id, &sent.document)
    }
}

/// Judges all subscriptions.
pub(crate) fn judge(sent: &[Sent], deliveries: &[Deliveries]) -> Verdict {
    let published = sent.iter().filter(|sent| sent.acknowledged).count() as u64;
    let by_id: BTreeMap<EntryId, &Sent> = sent.iter().map(|sent| (sent.entry, sent)).collect();
    let mut verdict = Verdict {
        published,
        ..Verdict::default()
    };
    for subscription in deliveries {
        judge_one(&by_id, subscription, &mut verdict);
    }
    verdict
}

fn judge_one(sent: &BTreeMap<EntryId, &Sent>, subscription: &Deliveries, verdict: &mut Verdict) {
    let mut seen = BTreeSet::new();
    let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
    for received in &subscription.received {
        let found = received.entry.and_then(|id| sent.get(&id));
        let Some(found) = found.filter(|sent| subscription.wants(sent)) else {
            verdict.unexpected += 1;
            continue;
        };
        if received.digest != Digest::of(&found.id, &found.document) {
            verdict.altered += 1;
        }
        // A repetition says nothing about the order, so that it is one fault, not two.
        if !seen.insert(found.entry) {
            verdict.duplicated += 1;
            continue;
        }
        verdict.delivered += 1;
        // Only the entries of one publisher have an order.
        let newest = newest.entry(found.entry.publisher).or_default();
        if found.entry.sequence < *newest {
            verdict.reordered += 1;
        }
        *newest = (*newest).max(found.entry.sequence);
    }
    let promised = sent
        .values()
        .filter(|sent| sent.acknowledged && subscription.wants(sent));
    verdict.lost += promised.filter(|sent| !seen.contains(&sent.entry)).count() as u64;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::condition::Op, *};

    fn id(publisher: u32, sequence: u64) -> EntryId {
        EntryId {
            publisher,
            sequence,
        }
    }

    fn received(sent: &Sent) -> Received {
        let digest = Digest::of(&sent.id, &sent.document);
        Received {
            entry: Some(sent.entry),
            digest,
        }
    }

    /// Ten entries of each of two publishers; one subscription to all of them, one to a part.
    fn run() -> (Vec<Sent>, Vec<Deliveries>) {
        let entry = |publisher, sequence| Sent {
            entry: id(publisher, sequence),
            database: "d",
            collection: "c",
            id: format!("doc-{}", sequence % 3),
            document: json!({ "publisher": publisher, "sequence": sequence }),
            acknowledged: true,
        };
        let numbers = (0..2).flat_map(|publisher| (1..=10).map(move |at| (publisher, at)));
        let sent: Vec<Sent> = numbers
            .map(|(publisher, at)| entry(publisher, at))
            .collect();
        let part = Condition::new("sequence", Op::GreaterOrEqual, 5);
        let deliveries = [vec![], vec![part]].map(|conditions| {
            let mut all = Deliveries::new("d", "c", conditions);
            all.received = sent
                .iter()
                .filter(|sent| all.wants(sent))
                .map(received)
                .collect();
            all
        });
        (sent, deliveries.into())
    }

    const CLEAN: Verdict = Verdict {
        published: 20,
        delivered: 32,
        lost: 0,
        duplicated: 0,
        reordered: 0,
        unexpected: 0,
        altered: 0,
    };

    type Damage = fn(&mut Vec<Sent>, &mut Vec<Deliveries>);

    #[test]
    fn each_kind_of_damage_is_counted_and_nothing_else() {
        let lost = Verdict {
            lost: 1,
            delivered: 31,
            ..CLEAN
        };
        let duplicated = Verdict {
            duplicated: 1,
            ..CLEAN
        };
        let unexpected = Verdict {
            unexpected: 1,
            ..CLEAN
        };
        let invented = Verdict {
            unexpected: 1,
            ..lost
        };
        let altered = Verdict {
            altered: 1,
            ..CLEAN
        };
        let cases: [(&str, Damage, Verdict); 14] = [
            ("none", |_, _| {}, CLEAN),
            ("first missing", |_, all| lose(all, 0), lost),
            ("one missing", |_, all| lose(all, 7), lost),
            ("last missing", |_, all| lose(all, 19), lost),
            ("repeated at once", |_, all| repeat(all, 4), duplicated),
            ("repeated later", |_, all| repeat(all, 20), duplicated),
            (
                "two exchanged",
                |_, all| all[0].received.swap(3, 4),
                Verdict {
                    reordered: 1,
                    ..CLEAN
                },
            ),
            (
                "publishers have no common order",
                |_, all| all[0].received.rotate_left(10),
                CLEAN,
            ),
            (
                "excluded by the filter",
                |sent, all| all[1].received.insert(0, received(&sent[0])),
                unexpected,
            ),
            (
                "no entry id",
                |_, all| all[0].received[0].entry = None,
                invented,
            ),
            (
                "unknown entry",
                |_, all| all[0].received[0].entry = Some(id(9, 1)),
                invented,
            ),
            (
                "other fields",
                |sent, all| alter(sent, all, |s| s.document["more"] = json!(1)),
                altered,
            ),
            (
                "other id",
                |sent, all| alter(sent, all, |s| s.id.push('x')),
                altered,
            ),
            (
                "delivered without acknowledgement",
                |sent, _| sent[3].acknowledged = false,
                Verdict {
                    published: 19,
                    ..CLEAN
                },
            ),
        ];
        for (name, damage, expected) in cases {
            let (mut sent, mut deliveries) = run();
            damage(&mut sent, &mut deliveries);
            let verdict = judge(&sent, &deliveries);
            assert_eq!(verdict, expected, "{name}");
            let clean = Verdict {
                published: 20,
                ..expected
            } == CLEAN;
            assert_eq!(verdict.is_clean(), clean, "{name}");
        }
    }

    fn lose(all: &mut [Deliveries], at: usize) {
        all[0].received.remove(at);
    }

    fn repeat(all: &mut [Deliveries], at: usize) {
        let again = all[0].received[3];
        all[0].received.insert(at, again);
    }

    fn alter(sent: &[Sent], all: &mut [Deliveries], change: fn(&mut Sent)) {
        let mut other = sent[0].clone();
        change(&mut other);
        all[0].received[0] = received(&other);
    }

    #[test]
    fn an_unacknowledged_entry_may_be_missing() {
        let (mut sent, mut deliveries) = run();
        sent[3].acknowledged = false;
        deliveries[0].received.remove(3);
        let verdict = judge(&sent, &deliveries);
        assert_eq!(
            verdict,
            Verdict {
                published: 19,
                delivered: 31,
                ..CLEAN
            }
        );
        assert!(verdict.is_clean());
    }
}
