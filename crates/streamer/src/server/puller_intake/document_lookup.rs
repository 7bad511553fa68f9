//! The ids of documents that a change names by hash only, found among the documents of the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use steadfast_streamer_core::puller::{
    DocumentIds, Dropped, Lookup, SourceChange, SourceId,
    document::{DocumentHash, document_hash},
};
use tracing::warn;

use crate::log::{DocumentKey, DocumentQuery, LogError, LogReader, with_sources};

/// Maximum number of ids in memory.
const CACHED_IDS: usize = 1 << 18;

/// Number of documents that are read at once.
const PAGE: usize = 1_000;

/// Size of the documents that are read at once, in bytes.
const PAGE_BYTES: usize = 4 << 20;

/// Database and collection.
type Collection = (String, String);

/// Finds the ids of documents.
///
/// The first change that names a document by hash reads its collection once. Later ones are found in
/// memory, unless the collection exceeds the cache: then each batch reads it again.
pub(super) struct DocumentLookup {
    reader: Arc<dyn LogReader>,
    ids: DocumentIds,
}

/// The ids that a scan of a collection found.
#[derive(Default)]
struct Scanned {
    /// All ids; `None` if there are too many.
    all: Option<BTreeMap<DocumentHash, Arc<str>>>,
    /// The wanted ones.
    wanted: BTreeMap<DocumentHash, Arc<str>>,
}

impl DocumentLookup {
    pub(super) fn new(reader: Arc<dyn LogReader>) -> Self {
        Self {
            reader,
            ids: DocumentIds::new(CACHED_IDS),
        }
    }

    /// Names the document of each change, in order. Everything before these changes must be committed.
    pub(super) async fn name(
        &mut self,
        changes: Vec<SourceChange>,
    ) -> Vec<Result<(DocumentKey, SourceChange), Dropped>> {
        let mut found = self.scan_for(&changes).await;
        let mut named = Vec::with_capacity(changes.len());
        for change in changes {
            let (database, collection) = (change.database.as_str(), change.collection.as_str());
            let id: Option<Arc<str>> = match &change.id {
                SourceId::Named(id) => {
                    let id: Arc<str> = id.as_str().into();
                    self.ids.note(database, collection, &id);
                    // A later change of this batch may name it by hash.
                    let key = (database.to_owned(), collection.to_owned());
                    if let Some(found) = found.get_mut(&key) {
                        found.insert(document_hash(collection, &id), Arc::clone(&id));
                    }
                    Some(id)
                }
                SourceId::Hashed(hash) => match self.ids.find(database, collection, hash) {
                    Lookup::Found(id) => Some(id),
                    Lookup::Absent => None,
                    Lookup::NotLoaded => {
                        let key = (database.to_owned(), collection.to_owned());
                        found.get(&key).and_then(|ids| ids.get(hash)).cloned()
                    }
                },
            };
            named.push(match id {
                None => Err(Dropped::UnknownDocument),
                Some(id) => Ok((DocumentKey::new(database, collection, id), change)),
            });
        }
        named
    }

    /// Loads the collections in which a document is looked up. Returns the wanted ids of those that are
    /// too large to be kept.
    async fn scan_for(
        &mut self,
        changes: &[SourceChange],
    ) -> BTreeMap<Collection, BTreeMap<DocumentHash, Arc<str>>> {
        let mut wanted: BTreeMap<Collection, BTreeSet<DocumentHash>> = BTreeMap::new();
        for change in changes {
            if let SourceId::Hashed(hash) = &change.id
                && self.ids.find(&change.database, &change.collection, hash) == Lookup::NotLoaded
            {
                let key = (change.database.clone(), change.collection.clone());
                wanted.entry(key).or_default().insert(*hash);
            }
        }
        let mut found = BTreeMap::new();
        for (key, hashes) in wanted {
            let (reader, (database, collection)) = (Arc::clone(&self.reader), key.clone());
            let scan = move || scan(&*reader, &database, &collection, &hashes, CACHED_IDS);
            // The log's readers block.
            let scanned = tokio::task::spawn_blocking(scan).await;
            let scanned = scanned.unwrap_or_else(|_| Ok(Scanned::default()));
            match scanned {
                Ok(scanned) => {
                    if let Some(all) = scanned.all {
                        self.ids.load(&key.0, &key.1, all);
                    }
                    found.insert(key, scanned.wanted);
                }
                Err(error) => {
                    let error = with_sources(&error);
                    warn!(error, "cannot look up deleted documents");
                }
            }
        }
        found
    }
}

/// Reads the ids of a collection.
fn scan(
    reader: &dyn LogReader,
    database: &str,
    collection: &str,
    wanted: &BTreeSet<DocumentHash>,
    max: usize,
) -> Result<Scanned, LogError> {
    let mut scanned = Scanned {
        all: Some(BTreeMap::new()),
        ..Scanned::default()
    };
    let mut add = |id: &Arc<str>| {
        let hash = document_hash(collection, id);
        if wanted.contains(&hash) {
            scanned.wanted.insert(hash, Arc::clone(id));
        }
        if let Some(all) = &mut scanned.all {
            all.insert(hash, Arc::clone(id));
            if all.len() > max {
                scanned.all = None;
            }
        }
    };
    let mut next = None;
    let mut first_as_of = None;
    loop {
        let page = reader.documents(DocumentQuery {
            database,
            collection: Some(collection),
            after: next.as_ref(),
            max_documents: PAGE,
            max_bytes: PAGE_BYTES,
        })?;
        page.documents
            .iter()
            .for_each(|document| add(&document.document_id));
        first_as_of.get_or_insert(page.as_of);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    // The documents lag behind the head.
    let mut after = first_as_of.unwrap_or(0).max(reader.bounds().first);
    loop {
        let events = match reader.read(after, PAGE, PAGE_BYTES) {
            Ok(events) => events,
            Err(LogError::Damaged { offset, .. } | LogError::Trimmed { first: offset, .. }) => {
                after = offset;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(last) = events.last() else { break };
        after = last.offset;
        for event in &events {
            if &*event.database == database && &*event.collection == collection {
                add(&event.document_id);
            }
        }
    }
    Ok(scanned)
}
