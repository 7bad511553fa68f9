//! Names that many documents share.

use std::sync::Arc;

use super::DocumentKey;

/// The database and the collection that were used last, which the next document most likely has too.
#[derive(Debug, Default)]
pub(crate) struct KnownNames {
    database: Option<Arc<str>>,
    collection: Option<Arc<str>>,
}

impl KnownNames {
    /// Returns the key of a document. Only its id is copied if the rest is known.
    pub(crate) fn key(
        &mut self,
        database: &str,
        collection: &str,
        document_id: &str,
    ) -> DocumentKey {
        let known = |known: &mut Option<Arc<str>>, name: &str| match known {
            Some(known) if **known == *name => Arc::clone(known),
            known => Arc::clone(known.insert(name.into())),
        };
        DocumentKey {
            database: known(&mut self.database, database),
            collection: known(&mut self.collection, collection),
            document_id: document_id.into(),
        }
    }
}
