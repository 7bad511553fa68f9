//! What the tour publishes: packages where there are some, else what the generator makes up.

use serde_json::json;

use crate::{
    demo::{
        condition::{Condition, Op},
        judge::{Ledger, Mark, Sent},
    },
    feed::{Feed, generator::Generator, packages::Packages},
};

/// A feed, and what the tour's subscription asks of it.
pub(crate) struct Source {
    feed: Feed,
    origin: &'static str,
    sequence: u64,
}

const SEED: u64 = 1;

impl Source {
    /// The package index of the machine if it has one and it is wanted, else the generator.
    pub(crate) async fn open(generator: bool) -> anyhow::Result<Self> {
        let packages = if generator {
            None
        } else {
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

    /// The subscription, with nothing received.
    pub(crate) fn ledger(&self) -> Ledger {
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
        Ledger {
            database,
            collection,
            conditions,
            received: Vec::new(),
        }
    }

    /// Fields worth showing.
    pub(crate) fn columns(&self) -> [&'static str; 3] {
        match self.feed {
            Feed::Packages(_) => ["section", "packageVersion", "description"],
            Feed::Generator(_) => ["category", "price", "labels"],
        }
    }

    /// The next document, marked with its number so that it can be told from its delivery. `None`
    /// at the end of the feed.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Sent>> {
        loop {
            let Some(document) = self.feed.next().await? else {
                return Ok(None);
            };
            // A delete has no fields to carry the mark.
            if document.op.is_some() {
                continue;
            }
            self.sequence += 1;
            let mark = Mark {
                publisher: 0,
                sequence: self.sequence,
            };
            let mut fields = document.data;
            fields.insert("publisher".to_owned(), json!(mark.publisher));
            fields.insert("sequence".to_owned(), json!(mark.sequence));
            let Ledger {
                database,
                collection,
                ..
            } = self.ledger();
            return Ok(Some(Sent {
                mark,
                database,
                collection,
                id: document.id,
                document: fields.into(),
                acknowledged: false,
            }));
        }
    }
}
