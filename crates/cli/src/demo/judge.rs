//! The verdict: what subscribers got, held against what publishers were promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use serde_json::Value;

use super::{condition::Condition, naive};

/// Names an entry: who published it and as which of its entries. Both stand in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) publisher: u32,
    pub(crate) sequence: u64,
}

/// An entry as it was published.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) mark: Mark,
    pub(crate) database: &'static str,
    pub(crate) collection: &'static str,
    pub(crate) id: String,
    /// Its fields; an empty object for a delete.
    pub(crate) document: Value,
    /// Whether the server said that it is durable.
    pub(crate) acknowledged: bool,
}

/// A delivery as it came. There are many, so the document itself is not kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// `None` when the payload names nobody.
    pub(crate) mark: Option<Mark>,
    pub(crate) digest: Digest,
}

/// Stands for an id and the fields the publisher wrote, without those the server adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    /// The same for the same content: objects are written with their keys in order.
    pub(crate) fn of(id: &str, document: &Value) -> Self {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        document.to_string().hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A subscription and what came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) database: &'static str,
    pub(crate) collection: &'static str,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) received: Vec<Received>,
}

/// Counts over all subscriptions. Everything below `delivered` should be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Entries the server acknowledged.
    pub(crate) published: u64,
    /// Deliveries, each counted once per subscription and entry.
    pub(crate) delivered: u64,
    /// Acknowledged entries that match a subscription and never came.
    pub(crate) lost: u64,
    /// Deliveries of an entry that had come before.
    pub(crate) duplicated: u64,
    /// Deliveries that came after a later entry of the same publisher.
    pub(crate) reordered: u64,
    /// Deliveries that were never published or do not match the subscription.
    pub(crate) unexpected: u64,
    /// Deliveries whose fields are not those that were published.
    pub(crate) altered: u64,
}

impl Verdict {
    /// Whether everything came once, in order, as it was.
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

impl Ledger {
    /// Whether the entry belongs to this subscription.
    pub(crate) fn wants(&self, sent: &Sent) -> bool {
        self.database == sent.database
            && self.collection == sent.collection
            && naive::matches(&self.conditions, &sent.id, &sent.document)
    }
}

/// Judges all subscriptions.
pub(crate) fn judge(sent: &[Sent], ledgers: &[Ledger]) -> Verdict {
    let published = sent.iter().filter(|sent| sent.acknowledged).count() as u64;
    let by_mark: BTreeMap<Mark, &Sent> = sent.iter().map(|sent| (sent.mark, sent)).collect();
    let mut verdict = Verdict {
        published,
        ..Verdict::default()
    };
    for ledger in ledgers {
        judge_one(&by_mark, ledger, &mut verdict);
    }
    verdict
}

fn judge_one(sent: &BTreeMap<Mark, &Sent>, ledger: &Ledger, verdict: &mut Verdict) {
    let mut seen = BTreeSet::new();
    let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
    for received in &ledger.received {
        let entry = received.mark.and_then(|mark| sent.get(&mark));
        let Some(entry) = entry.filter(|entry| ledger.wants(entry)) else {
            verdict.unexpected += 1;
            continue;
        };
        if received.digest != Digest::of(&entry.id, &entry.document) {
            verdict.altered += 1;
        }
        if !seen.insert(entry.mark) {
            verdict.duplicated += 1;
            continue;
        }
        verdict.delivered += 1;
        let newest = newest.entry(entry.mark.publisher).or_default();
        if entry.mark.sequence < *newest {
            verdict.reordered += 1;
        }
        *newest = (*newest).max(entry.mark.sequence);
    }
    let promised = sent
        .values()
        .filter(|entry| entry.acknowledged && ledger.wants(entry));
    verdict.lost += promised.filter(|entry| !seen.contains(&entry.mark)).count() as u64;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::condition::Op, *};

    fn sent() -> Vec<Sent> {
        let entry = |publisher, sequence| Sent {
            mark: Mark {
                publisher,
                sequence,
            },
            database: "d",
            collection: "c",
            id: format!("doc-{}", sequence % 3),
            document: json!({ "publisher": publisher, "sequence": sequence }),
            acknowledged: true,
        };
        (0..2)
            .flat_map(|publisher| (1..=10).map(move |at| entry(publisher, at)))
            .collect()
    }

    fn received(sent: &Sent) -> Received {
        Received {
            mark: Some(sent.mark),
            digest: Digest::of(&sent.id, &sent.document),
        }
    }

    /// A faultless run: one subscription to everything, one to a part.
    fn run() -> (Vec<Sent>, Vec<Ledger>) {
        let sent = sent();
        let part = Condition::new("sequence", Op::GreaterOrEqual, 5);
        let ledgers = [vec![], vec![part]].map(|conditions| {
            let mut ledger = Ledger {
                database: "d",
                collection: "c",
                conditions,
                received: Vec::new(),
            };
            ledger.received = sent
                .iter()
                .filter(|sent| ledger.wants(sent))
                .map(received)
                .collect();
            ledger
        });
        (sent, ledgers.into())
    }

    fn after(plant: impl FnOnce(&mut Vec<Sent>, &mut Vec<Ledger>)) -> Verdict {
        let (mut sent, mut ledgers) = run();
        plant(&mut sent, &mut ledgers);
        judge(&sent, &ledgers)
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

    #[test]
    fn a_faultless_run_is_clean() {
        let verdict = after(|_, _| {});
        assert_eq!(verdict, CLEAN);
        assert!(verdict.is_clean());
    }

    #[test]
    fn a_missing_delivery_is_a_loss_wherever_it_is_missing() {
        for at in [0, 7, 19] {
            let verdict = after(|_, ledgers| {
                ledgers[0].received.remove(at);
            });
            assert_eq!(
                verdict,
                Verdict {
                    lost: 1,
                    delivered: 31,
                    ..CLEAN
                }
            );
            assert!(!verdict.is_clean());
        }
    }

    #[test]
    fn a_second_delivery_is_a_duplicate_also_when_it_comes_late() {
        for to in [4, 20] {
            let verdict = after(|_, ledgers| {
                let again = ledgers[0].received[3];
                ledgers[0].received.insert(to, again);
            });
            assert_eq!(
                verdict,
                Verdict {
                    duplicated: 1,
                    ..CLEAN
                }
            );
        }
    }

    #[test]
    fn two_deliveries_in_the_wrong_order_are_a_reordering() {
        let verdict = after(|_, ledgers| ledgers[0].received.swap(3, 4));
        assert_eq!(
            verdict,
            Verdict {
                reordered: 1,
                ..CLEAN
            }
        );
    }

    #[test]
    fn publishers_have_no_order_among_each_other() {
        let verdict = after(|_, ledgers| ledgers[0].received.rotate_left(10));
        assert_eq!(verdict, CLEAN);
    }

    #[test]
    fn a_delivery_the_filter_excludes_is_unexpected() {
        let verdict = after(|sent, ledgers| ledgers[1].received.insert(0, received(&sent[0])));
        assert_eq!(
            verdict,
            Verdict {
                unexpected: 1,
                ..CLEAN
            }
        );
    }

    #[test]
    fn a_delivery_nobody_published_is_unexpected() {
        for mark in [
            None,
            Some(Mark {
                publisher: 9,
                sequence: 1,
            }),
        ] {
            let verdict = after(|_, ledgers| ledgers[0].received[0].mark = mark);
            assert_eq!(
                verdict,
                Verdict {
                    unexpected: 1,
                    lost: 1,
                    delivered: 31,
                    ..CLEAN
                }
            );
        }
    }

    #[test]
    fn a_changed_payload_or_id_is_an_alteration() {
        let altered = |change: fn(&mut Sent)| {
            after(|sent, ledgers| {
                let mut other = sent[0].clone();
                change(&mut other);
                ledgers[0].received[0] = received(&other);
            })
        };
        let payload = altered(|sent| sent.document["more"] = json!(1));
        let id = altered(|sent| sent.id.push('x'));
        assert_eq!(
            (payload, id),
            (
                Verdict {
                    altered: 1,
                    ..CLEAN
                },
                Verdict {
                    altered: 1,
                    ..CLEAN
                }
            )
        );
    }

    #[test]
    fn an_entry_without_acknowledgement_may_come_and_may_be_missing() {
        let came = after(|sent, _| sent[3].acknowledged = false);
        assert_eq!(
            came,
            Verdict {
                published: 19,
                ..CLEAN
            }
        );
        let missing = after(|sent, ledgers| {
            sent[3].acknowledged = false;
            ledgers[0].received.remove(3);
        });
        assert_eq!(
            missing,
            Verdict {
                published: 19,
                delivered: 31,
                ..CLEAN
            }
        );
    }
}
