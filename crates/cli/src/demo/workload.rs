//! What the demo's publishers write. Every payload says who wrote it and as which of its entries.

use std::ops::Range;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use super::judge::{Digest, Mark, Received, Sent};
use crate::document::Action;

pub(crate) const DATABASES: [&str; 2] = ["north", "south"];
pub(crate) const COLLECTIONS: [&str; 3] = ["orders", "sensors", "rooms/r1/messages"];
pub(crate) const KINDS: [&str; 5] = ["alert", "book", "lamp", "order", "seat"];
pub(crate) const LABELS: [&str; 5] = ["blue", "heavy", "new", "spare", "urgent"];
pub(crate) const CITIES: [&str; 3] = ["Lima", "Osaka", "Turku"];
pub(crate) const PRICES: Range<u32> = 0..1_000;
/// Documents that are written again and again, by everybody.
pub(crate) const HOT_DOCUMENTS: u32 = 12;

/// Writes the entries of one publisher; the same seed and number give the same entries.
#[derive(Debug)]
pub(crate) struct Author {
    publisher: u32,
    sequence: u64,
    rng: ChaCha8Rng,
    /// Inserted last, to be deleted next.
    doomed: Option<Sent>,
}

impl Author {
    pub(crate) fn new(seed: u64, publisher: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(publisher) + 1);
        Self {
            publisher,
            sequence: 0,
            rng,
            doomed: None,
        }
    }

    /// The next entry, not acknowledged yet.
    pub(crate) fn write(&mut self) -> Sent {
        self.sequence += 1;
        let mark = Mark {
            publisher: self.publisher,
            sequence: self.sequence,
        };
        if let Some(doomed) = self.doomed.take() {
            return Sent {
                mark,
                document: json!({}),
                ..doomed
            };
        }
        let database = self.pick(&DATABASES);
        let collection = self.pick(&COLLECTIONS);
        let document = self.document(mark);
        let chance = self.rng.random_range(0..20);
        let id = match chance {
            // Its delete is the next entry, and its id is all a delete has to say whose it is.
            0 => format!("gone-{}-{}", mark.publisher, mark.sequence + 1),
            1..=8 => format!("hot-{}", self.rng.random_range(0..HOT_DOCUMENTS)),
            _ => format!("doc-{}", self.rng.random_range(0..5_000)),
        };
        let sent = Sent {
            mark,
            database,
            collection,
            id,
            document,
            acknowledged: false,
        };
        if chance == 0 {
            self.doomed = Some(sent.clone());
        }
        sent
    }

    fn document(&mut self, mark: Mark) -> Value {
        let labels: Vec<&str> = LABELS
            .into_iter()
            .filter(|_| self.rng.random_range(0..3) == 0)
            .collect();
        json!({
            "publisher": mark.publisher,
            "sequence": mark.sequence,
            "kind": self.pick(&KINDS),
            "price": self.rng.random_range(PRICES),
            "rating": f64::from(self.rng.random_range(2..=10_u8)) / 2.0,
            "labels": labels,
            "place": { "city": self.pick(&CITIES) },
        })
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.rng.random_range(0..from.len())]
    }
}

impl Sent {
    /// What the server is asked to do; left to it but for deletes.
    pub(crate) fn action(&self) -> Option<Action> {
        let empty = self.document.as_object().is_some_and(Map::is_empty);
        empty.then_some(Action::Delete)
    }
}

/// Reads a delivery back: the fields the server adds are taken out, the mark is taken from the
/// payload, or from the id of a document that is gone.
pub(crate) fn read(id: &str, deleted: bool, payload: &[u8]) -> Received {
    let mut document: Value = serde_json::from_slice(payload).unwrap_or_default();
    if let Some(fields) = document.as_object_mut() {
        for added in ["createdAt", "updatedAt", "version"] {
            fields.remove(added);
        }
        if deleted {
            fields.remove("deleted");
        }
    }
    let mark = if deleted {
        mark_of_id(id)
    } else {
        mark_of_payload(&document)
    };
    Received {
        mark,
        digest: Digest::of(id, &document),
    }
}

fn mark_of_payload(document: &Value) -> Option<Mark> {
    let publisher = document.get("publisher")?.as_u64()?.try_into().ok()?;
    Some(Mark {
        publisher,
        sequence: document.get("sequence")?.as_u64()?,
    })
}

fn mark_of_id(id: &str) -> Option<Mark> {
    let (publisher, sequence) = id.strip_prefix("gone-")?.split_once('-')?;
    Some(Mark {
        publisher: publisher.parse().ok()?,
        sequence: sequence.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(seed: u64, publisher: u32) -> Vec<Sent> {
        let mut author = Author::new(seed, publisher);
        (0..1_000).map(|_| author.write()).collect()
    }

    #[test]
    fn authors_differ_and_repeat_themselves() {
        let text = |seed, publisher| format!("{:?}", entries(seed, publisher));
        assert_eq!(text(1, 0), text(1, 0));
        assert_ne!(text(1, 0), text(2, 0));
        let fields = |publisher| entries(1, publisher)[0].document["price"].clone();
        assert!((1..10).any(|publisher| fields(publisher) != fields(0)));
    }

    #[test]
    fn every_entry_can_be_told_from_its_delivery() {
        let all = entries(5, 3);
        let deletes = all
            .iter()
            .filter(|sent| sent.action() == Some(Action::Delete));
        assert!(deletes.count() > 10);
        for sent in all {
            let gone = sent.action() == Some(Action::Delete);
            let mut payload = sent.document.clone();
            payload["createdAt"] = json!(1);
            payload["updatedAt"] = json!(2);
            payload["version"] = json!(3);
            if gone {
                payload["deleted"] = json!(true);
            }
            let received = read(&sent.id, gone, payload.to_string().as_bytes());
            assert_eq!(received.mark, Some(sent.mark));
            assert_eq!(received.digest, Digest::of(&sent.id, &sent.document));
        }
    }

    #[test]
    fn a_payload_that_names_nobody_has_no_mark() {
        for payload in [&b""[..], b"[]", b"{}", b"{\"publisher\":-1,\"sequence\":1}"] {
            assert_eq!(read("doc-1", false, payload).mark, None);
        }
        assert_eq!(read("doc-1", true, b"{}").mark, None);
    }
}
