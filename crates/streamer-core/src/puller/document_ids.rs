//! The ids of documents by their hashes: a soft delete names only the hash.

use std::{collections::BTreeMap, sync::Arc};

use super::document::{DocumentHash, document_hash};

/// The ids of the documents of some collections, by hash.
///
/// A collection is loaded as a whole when the first of its documents is looked up. Beyond the capacity,
/// the collections that were used longest ago are forgotten, and loaded again when needed.
#[derive(Debug)]
pub struct DocumentIds {
    collections: BTreeMap<(String, String), Loaded>,
    documents: usize,
    capacity: usize,
    lookups: u64,
}

#[derive(Debug)]
struct Loaded {
    ids: BTreeMap<DocumentHash, Arc<str>>,
    used: u64,
}

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The id of the document.
    Found(Arc<str>),
    /// The collection has no document with this hash.
    Absent,
    /// The collection is not loaded.
    NotLoaded,
}

impl DocumentIds {
    /// Creates an empty cache of at most `capacity` ids.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            collections: BTreeMap::new(),
            documents: 0,
            capacity,
            lookups: 0,
        }
    }

    /// Returns the maximum number of ids.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Looks up a document.
    pub fn find(&mut self, database: &str, collection: &str, hash: &DocumentHash) -> Lookup {
        self.lookups += 1;
        let key = (database.to_owned(), collection.to_owned());
        let Some(loaded) = self.collections.get_mut(&key) else {
            return Lookup::NotLoaded;
        };
        loaded.used = self.lookups;
        loaded
            .ids
            .get(hash)
            .map_or(Lookup::Absent, |id| Lookup::Found(Arc::clone(id)))
    }

    /// Notes a document that came into being. Has no effect if its collection is not loaded.
    pub fn note(&mut self, database: &str, collection: &str, document_id: &Arc<str>) {
        // Most servers never see a delete, and then nothing is loaded.
        if self.collections.is_empty() {
            return;
        }
        let key = (database.to_owned(), collection.to_owned());
        if let Some(loaded) = self.collections.get_mut(&key) {
            let hash = document_hash(collection, document_id);
            let before = loaded.ids.insert(hash, Arc::clone(document_id));
            self.documents += usize::from(before.is_none());
            self.evict();
        }
    }

    /// Stores all ids of a collection. A collection that exceeds the capacity is not stored.
    pub fn load(
        &mut self,
        database: &str,
        collection: &str,
        ids: BTreeMap<DocumentHash, Arc<str>>,
    ) {
        if ids.len() > self.capacity {
            return;
        }
        let key = (database.to_owned(), collection.to_owned());
        self.documents += ids.len();
        let used = self.lookups;
        if let Some(before) = self.collections.insert(key, Loaded { ids, used }) {
            self.documents -= before.ids.len();
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.documents > self.capacity {
            let oldest = self.collections.iter().min_by_key(|(_, it)| it.used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            if let Some(evicted) = self.collections.remove(&key) {
                self.documents -= evicted.ids.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(collection: &str, numbers: std::ops::Range<u32>) -> BTreeMap<DocumentHash, Arc<str>> {
        let id = |number| -> Arc<str> { format!("u{number}").into() };
        numbers
            .map(|number| (document_hash(collection, &id(number)), id(number)))
            .collect()
    }

    #[test]
    fn loaded_collection_knows_its_documents_and_later_ones() {
        let mut known = DocumentIds::new(10);
        let hash = document_hash("users", "u1");
        known.note("db", "users", &"u1".into());
        assert_eq!(known.find("db", "users", &hash), Lookup::NotLoaded);
        known.load("db", "users", ids("users", 1..3));
        assert_eq!(known.find("db", "users", &hash), Lookup::Found("u1".into()));
        let later = document_hash("users", "u9");
        assert_eq!(known.find("db", "users", &later), Lookup::Absent);
        known.note("db", "users", &"u9".into());
        assert_eq!(
            known.find("db", "users", &later),
            Lookup::Found("u9".into())
        );
        assert_eq!(known.find("other", "users", &hash), Lookup::NotLoaded);
    }

    #[test]
    fn collections_used_longest_ago_are_forgotten_at_capacity() {
        let mut known = DocumentIds::new(10);
        for collection in ["a", "b"] {
            known.load("db", collection, ids(collection, 0..4));
            known.find("db", collection, &document_hash(collection, "u0"));
        }
        known.find("db", "a", &document_hash("a", "u0"));
        known.load("db", "c", ids("c", 0..4));
        let mut found = |collection| {
            let hash = document_hash(collection, "u0");
            known.find("db", collection, &hash) != Lookup::NotLoaded
        };
        assert_eq!(["a", "b", "c"].map(&mut found), [true, false, true]);
        known.load("db", "large", ids("large", 0..11));
        assert_eq!(known.documents, 8);
    }
}
