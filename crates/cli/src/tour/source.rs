//! The documents of the tour: packages if this machine has an index, else the generator's.

use serde_json::{Map, Value, json};
use steadfast_chaos::judge::EntryId;

use crate::{
    feed::{Feed, generator::Generator, packages::Packages},
    load::{
        condition::{Condition, Op},
        judge::{Deliveries, Sent},
        publishers::Entries,
    },
};

/// The feed of the tour.
pub(crate) struct Source {
    feed: Feed,
    origin: &'static str,
    sequence: u64,
}

const SEED: u64 = 1;

impl Source {
    /// Opens the package index, unless this machine has none or `generator` is set.
    pub(crate) async fn open(generator: bool) -> anyhow::Result<Self> {
        let packages = if generator {
            None
        } else {
            // The generator serves as well, so that the reason does not matter.
            Packages::open().await.ok()
        };
        let (feed, origin) = if let Some(packages) = packages {
            let origin = packages.origin();
            (Feed::Packages(packages), origin)
        } else {
            (Feed::Generator(Generator::new(SEED)), "the generator")
        };
        Ok(Self {
            feed,
            origin,
            sequence: 0,
        })
    }

    pub(crate) fn origin(&self) -> &'static str {
        self.origin
    }

    /// Returns the tour's subscription, with nothing received.
    pub(crate) fn wanted(&self) -> Deliveries {
        let (database, collection, conditions) = match self.feed {
            Feed::Packages(_) => (
                "debian",
                "packages",
                vec![
                    Condition::new("section", Op::In, json!(["games", "video"])),
                    Condition::new("installedSize", Op::GreaterOrEqual, 500),
                ],
            ),
            Feed::Generator(_) => (
                "shop",
                "articles",
                vec![
                    Condition::new("labels", Op::Contains, "rare"),
                    Condition::new("price", Op::Less, 10_000),
                ],
            ),
        };
        Deliveries::new(database, collection, conditions)
    }

    /// Returns the fields to print.
    pub(crate) fn columns(&self) -> [&'static str; 3] {
        match self.feed {
            Feed::Packages(_) => ["section", "packageVersion", "description"],
            Feed::Generator(_) => ["category", "price", "labels"],
        }
    }
}

impl Entries for Source {
    /// Adds the entry's id to the document, so that a delivery can be matched with its entry.
    async fn next(&mut self) -> anyhow::Result<Option<Sent>> {
        loop {
            let Some(document) = self.feed.next().await? else {
                return Ok(None);
            };
            // A delete has no fields that could carry the entry's id.
            if document.op.is_some() {
                continue;
            }
            self.sequence += 1;
            let entry = EntryId {
                lane: 0,
                number: self.sequence,
            };
            let mut fields: Map<String, Value> = serde_json::from_str(&document.data)?;
            fields.insert("publisher".to_owned(), json!(entry.lane));
            fields.insert("sequence".to_owned(), json!(entry.number));
            let Deliveries {
                database,
                collection,
                ..
            } = self.wanted();
            return Ok(Some(Sent {
                entry,
                database,
                collection,
                id: document.id,
                document: fields.into(),
                acknowledged: false,
            }));
        }
    }
}
