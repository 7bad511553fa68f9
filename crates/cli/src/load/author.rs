//! The entries of the demo's publishers. Each payload carries its publisher and its number there.

use std::ops::Range;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use steadfast_chaos::judge::EntryId;
use steadfast_streamer::Operation;

use super::{
    judge::{Digest, Received, Sent},
    publishers::Entries,
};

pub(crate) const DATABASES: [&str; 2] = ["north", "south"];
pub(crate) const COLLECTIONS: [&str; 3] = ["orders", "sensors", "rooms/r1/messages"];
pub(crate) const KINDS: [&str; 5] = ["alert", "book", "lamp", "order", "seat"];
pub(crate) const LABELS: [&str; 5] = ["blue", "heavy", "new", "spare", "urgent"];
pub(crate) const CITIES: [&str; 3] = ["Lima", "Osaka", "Turku"];
pub(crate) const PRICES: Range<u32> = 0..1_000;
/// Documents that all publishers write again and again.
pub(crate) const HOT_DOCUMENTS: u32 = 12;

/// Writes the entries of one publisher; the same seed and number give the same entries.
#[derive(Debug)]
pub(crate) struct Author {
    publisher: u32,
    sequence: u64,
    rng: ChaCha8Rng,
    /// The insert that the next entry deletes.
    to_delete: Option<Sent>,
}

impl Author {
    pub(crate) fn new(seed: u64, publisher: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Streams of one seed: publishers differ from each other, and a run repeats.
        rng.set_stream(u64::from(publisher) + 1);
        Self {
            publisher,
            sequence: 0,
            rng,
            to_delete: None,
        }
    }

    /// Returns the next entry, not acknowledged yet.
    pub(crate) fn write(&mut self) -> Sent {
        self.sequence += 1;
        let entry = EntryId {
            lane: self.publisher,
            number: self.sequence,
        };
        if let Some(inserted) = self.to_delete.take() {
            return Sent {
                entry,
                document: json!({}),
                ..inserted
            };
        }
        let database = self.pick(&DATABASES);
        let collection = self.pick(&COLLECTIONS);
        let document = self.document(entry);
        let chance = self.rng.random_range(0..20);
        let id = match chance {
            // The next entry deletes it. A delete carries no fields, so its id names that entry.
            0 => format!("gone-{}-{}", entry.lane, entry.number + 1),
            1..=8 => format!("hot-{}", self.rng.random_range(0..HOT_DOCUMENTS)),
            _ => format!("doc-{}", self.rng.random_range(0..5_000)),
        };
        let sent = Sent {
            entry,
            database,
            collection,
            id,
            document,
            acknowledged: false,
        };
        if chance == 0 {
            self.to_delete = Some(sent.clone());
        }
        sent
    }

    fn document(&mut self, entry: EntryId) -> Value {
        let labels: Vec<&str> = LABELS
            .into_iter()
            .filter(|_| self.rng.random_range(0..3) == 0)
            .collect();
        json!({
            "publisher": entry.lane,
            "sequence": entry.number,
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

impl Entries for Author {
    async fn next(&mut self) -> anyhow::Result<Option<Sent>> {
        Ok(Some(self.write()))
    }
}

impl Sent {
    /// Returns a delete, or nothing where the server tells insert from update.
    pub(crate) fn operation(&self) -> Option<Operation> {
        let empty = self.document.as_object().is_some_and(Map::is_empty);
        empty.then_some(Operation::Delete)
    }
}

/// Parses a delivery. The fields that the server adds are left out. The entry id is in the payload,
/// and in the document id of a delete.
pub(crate) fn read(id: &str, deleted: bool, payload: &[u8]) -> Received {
    // Null has no entry id, so that damaged data is counted as unexpected.
    let mut document: Value = serde_json::from_slice(payload).unwrap_or_default();
    if let Some(fields) = document.as_object_mut() {
        for added in ["createdAt", "updatedAt", "version"] {
            fields.remove(added);
        }
        if deleted {
            fields.remove("deleted");
        }
    }
    let entry = if deleted {
        entry_of_id(id)
    } else {
        entry_of_payload(&document)
    };
    Received {
        entry,
        digest: Digest::of(id, &document),
    }
}

fn entry_of_payload(document: &Value) -> Option<EntryId> {
    let lane = document.get("publisher")?.as_u64()?.try_into().ok()?;
    Some(EntryId {
        lane,
        number: document.get("sequence")?.as_u64()?,
    })
}

fn entry_of_id(id: &str) -> Option<EntryId> {
    let (publisher, sequence) = id.strip_prefix("gone-")?.split_once('-')?;
    Some(EntryId {
        lane: publisher.parse().ok()?,
        number: sequence.parse().ok()?,
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
            .filter(|sent| sent.operation() == Some(Operation::Delete));
        assert!(deletes.count() > 10);
        for sent in all {
            let gone = sent.operation() == Some(Operation::Delete);
            let mut payload = sent.document.clone();
            payload["createdAt"] = json!(1);
            payload["updatedAt"] = json!(2);
            payload["version"] = json!(3);
            if gone {
                payload["deleted"] = json!(true);
            }
            let received = read(&sent.id, gone, payload.to_string().as_bytes());
            assert_eq!(received.entry, Some(sent.entry));
            assert_eq!(received.digest, Digest::of(&sent.id, &sent.document));
        }
    }

    #[test]
    fn a_payload_without_an_entry_id_has_none() {
        for payload in [&b""[..], b"[]", b"{}", b"{\"publisher\":-1,\"sequence\":1}"] {
            assert_eq!(read("doc-1", false, payload).entry, None);
        }
        assert_eq!(read("doc-1", true, b"{}").entry, None);
    }
}
