//! The verdict: the deliveries of each subscription compared with the acknowledged entries.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use serde_json::Value;
use steadfast_chaos::judge::{self, EntryId, Verdict};

use super::{condition::Condition, reference};

/// An entry as it was published.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Its publisher is the lane. The payload carries both numbers.
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
        // Its keys are fixed, so that both sides of a comparison hash alike.
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
    let mut verdict = Verdict::default();
    add(&mut verdict, sent, deliveries);
    verdict
}

/// Adds subscriptions to a verdict.
pub(crate) fn add(verdict: &mut Verdict, sent: &[Sent], deliveries: &[Deliveries]) {
    let by_id: BTreeMap<EntryId, &Sent> = sent.iter().map(|sent| (sent.entry, sent)).collect();
    for subscription in deliveries {
        let wanted = sent.iter().filter(|sent| subscription.wants(sent));
        let wanted = wanted.map(|sent| (sent.entry, sent.acknowledged));
        let received = subscription.received.iter().map(|received| {
            let Some(id) = received.entry else {
                return judge::Received::Unknown;
            };
            // An entry that nobody published is not altered: the verdict counts it as unexpected.
            let intact = by_id
                .get(&id)
                .is_none_or(|sent| received.digest == Digest::of(&sent.id, &sent.document));
            if intact {
                judge::Received::Entry(id)
            } else {
                judge::Received::Altered(id)
            }
        });
        verdict.add(wanted, received, |deviation| {
            tracing::debug!(collection = subscription.collection, ?deviation);
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::condition::Op, *};

    fn received(sent: &Sent) -> Received {
        let digest = Digest::of(&sent.id, &sent.document);
        Received {
            entry: Some(sent.entry),
            digest,
        }
    }

    type Damage = fn(&mut Vec<Sent>, &mut Vec<Received>);

    /// Judges a subscription to the entries 5 to 10 of a publisher, after some damage, and returns the
    /// counts of delivered, lost, unexpected and altered.
    fn judge_after(damage: Damage) -> [u64; 4] {
        let mut sent: Vec<Sent> = (1..=10)
            .map(|number| Sent {
                entry: EntryId { lane: 0, number },
                database: "d",
                collection: "c",
                id: format!("doc-{}", number % 3),
                document: json!({ "sequence": number }),
                acknowledged: true,
            })
            .collect();
        let from_five = Condition::new("sequence", Op::GreaterOrEqual, 5);
        let mut deliveries = Deliveries::new("d", "c", vec![from_five]);
        deliveries.received = sent[4..].iter().map(received).collect();
        damage(&mut sent, &mut deliveries.received);
        let verdict = judge(&sent, &[deliveries]);
        assert_eq!((verdict.duplicated, verdict.reordered), (0, 0));
        let counts = [
            verdict.delivered,
            verdict.lost,
            verdict.unexpected,
            verdict.altered,
        ];
        assert_eq!(verdict.is_clean(), counts[1..] == [0; 3]);
        counts
    }

    #[test]
    fn deliveries_are_compared_with_what_was_published() {
        let cases: [(&str, Damage, [u64; 4]); 8] = [
            ("none", |_, _| {}, [6, 0, 0, 0]),
            ("missing", |_, all| _ = all.remove(2), [5, 1, 0, 0]),
            (
                "excluded by the filter",
                |sent, all| all.insert(0, received(&sent[0])),
                [6, 0, 1, 0],
            ),
            ("no entry id", |_, all| all[0].entry = None, [5, 1, 1, 0]),
            (
                "unknown entry",
                |_, all| all[0].entry = Some(EntryId { lane: 9, number: 1 }),
                [5, 1, 1, 0],
            ),
            (
                "other fields",
                |sent, all| {
                    let mut other = sent[4].clone();
                    other.document["more"] = json!(1);
                    all[0] = received(&other);
                },
                [6, 0, 0, 1],
            ),
            (
                "other id",
                |sent, all| {
                    let mut other = sent[4].clone();
                    other.id.push('x');
                    all[0] = received(&other);
                },
                [6, 0, 0, 1],
            ),
            (
                "missing and not acknowledged",
                |sent, all| {
                    sent[6].acknowledged = false;
                    all.remove(2);
                },
                [5, 0, 0, 0],
            ),
        ];
        for (name, damage, expected) in cases {
            assert_eq!(judge_after(damage), expected, "{name}");
        }
    }
}
