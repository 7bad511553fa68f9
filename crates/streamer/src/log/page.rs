//! Pages of events and of documents, limited by count and weight.

use std::{ops::Bound, sync::Arc};

use super::{DocumentKey, DocumentPage, DocumentQuery, LogError};
use crate::Event;

/// Maximum number of documents scanned for one page. Deleted documents count, so that a range of
/// them does not hold a read transaction open for long.
const DOCUMENTS_SCANNED_MAX: usize = 16_384;

/// Maximum number of documents that are read together.
const BATCH_MAX: usize = 1_024;
/// The number of documents that are read first, while their size is unknown. What does not fit into the page
/// is read again for the next one, which is bounded by this number.
const BATCH_FIRST: usize = 4;

/// A document in the order of keys.
#[derive(Debug)]
pub(super) enum Row {
    /// Its last event.
    Known(Arc<Event>),
    /// The offset of its last event.
    At(u64),
    Deleted,
}

/// Collects the events of one page. The first event always fits, whatever its weight: otherwise a
/// reader could not get past it.
#[derive(Debug)]
pub(super) struct PageBuilder {
    events: Vec<Arc<Event>>,
    max_events: usize,
    max_bytes: usize,
    bytes_left: usize,
}

impl PageBuilder {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            events: Vec::new(),
            max_events,
            max_bytes,
            bytes_left: max_bytes,
        }
    }

    /// Returns `true` if no more events may be pushed. The last one may exceed the bytes left.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= self.max_events || (!self.events.is_empty() && self.bytes_left == 0)
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        debug_assert!(!self.is_full());
        self.bytes_left = self.bytes_left.saturating_sub(event.weight());
        self.events.push(event);
    }

    /// Returns the number of events that are still to come, if they are as large as those before.
    fn expected(&self) -> usize {
        let used = self.max_bytes - self.bytes_left;
        let by_size = match used.checked_div(self.events.len()) {
            Some(each) => (self.bytes_left / each.max(1)).max(BATCH_FIRST),
            None => BATCH_FIRST,
        };
        by_size
            .min(BATCH_MAX)
            .min(self.max_events - self.events.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn into_events(self) -> Vec<Arc<Event>> {
        self.events
    }
}

impl DocumentQuery<'_> {
    /// Returns the bounds of the keys to scan. The scan ends at the first key that is not
    /// [included](Self::includes).
    pub(super) fn range(&self) -> (Bound<DocumentKey>, Bound<DocumentKey>) {
        let start = match self.after {
            Some(key) => Bound::Excluded(key.clone()),
            // Sorts before every document of the collection.
            None => Bound::Included(DocumentKey::new(
                self.database,
                self.collection.unwrap_or_default(),
                "",
            )),
        };
        (start, Bound::Unbounded)
    }

    fn includes(&self, key: &DocumentKey) -> bool {
        *key.database == *self.database && self.collection.is_none_or(|it| *key.collection == *it)
    }

    /// Collects a page from `rows`: each key, in order, with a closure that decodes the row. `read` returns the
    /// event at an offset.
    pub(super) fn collect<F>(
        self,
        as_of: u64,
        rows: impl Iterator<Item = Result<(DocumentKey, F), LogError>>,
        mut read: impl FnMut(u64) -> Result<Arc<Event>, LogError>,
    ) -> Result<DocumentPage, LogError>
    where
        F: FnOnce(&DocumentKey) -> Result<Row, LogError>,
    {
        // With 0 a page would be full before its first document, and look like the last one.
        let mut page = PageBuilder::new(self.max_documents.max(1), self.max_bytes);
        let is_included = |row: &Result<(DocumentKey, F), LogError>| {
            row.as_ref().map_or(true, |(key, _)| self.includes(key))
        };
        // Keys are sorted, so that nothing after the first key outside can be inside.
        let mut rows = rows.take_while(is_included).peekable();
        let (mut scanned, mut last) = (0, None);
        // Looked at first, so that a page that ends the range has no `next`.
        let next = 'page: loop {
            if rows.peek().is_none() {
                break None;
            }
            let count = page.expected().min(DOCUMENTS_SCANNED_MAX - scanned);
            if page.is_full() || count == 0 {
                break last;
            }
            let mut batch = take(&mut rows, count, page.bytes_left)?;
            load(&mut batch, page.bytes_left, &mut read)?;
            scanned += batch.len();
            for (key, row) in batch {
                match row {
                    Row::Known(_) | Row::At(_) if page.is_full() => break 'page last,
                    Row::Known(event) => page.push(event),
                    Row::At(_) => break 'page last,
                    Row::Deleted => {}
                }
                // Deleted documents too: a page may consist of them, and the next one must begin after
                // them.
                last = Some(key);
            }
        };
        Ok(DocumentPage {
            documents: page.into_events(),
            as_of,
            next,
        })
    }
}

/// Takes rows, until the events among them have so many bytes.
fn take<F>(
    rows: &mut impl Iterator<Item = Result<(DocumentKey, F), LogError>>,
    count: usize,
    bytes: usize,
) -> Result<Vec<(DocumentKey, Row)>, LogError>
where
    F: FnOnce(&DocumentKey) -> Result<Row, LogError>,
{
    let (mut batch, mut left) = (Vec::new(), bytes);
    for row in rows.take(count) {
        let (key, decode) = row?;
        let row = decode(&key)?;
        if let Row::Known(event) = &row {
            left = left.saturating_sub(event.weight());
        }
        batch.push((key, row));
        if left == 0 {
            break;
        }
    }
    Ok(batch)
}

/// Reads events in the order of the log, in which they lie beside each other, until they have so many bytes;
/// in any case the first document.
fn load(
    batch: &mut [(DocumentKey, Row)],
    bytes: usize,
    read: &mut impl FnMut(u64) -> Result<Arc<Event>, LogError>,
) -> Result<(), LogError> {
    let places = batch
        .iter()
        .enumerate()
        .filter_map(|(index, (_, row))| match row {
            Row::At(offset) => Some((*offset, index)),
            Row::Known(_) | Row::Deleted => None,
        });
    let mut places: Vec<_> = places.collect();
    places.sort_unstable();
    let mut left = bytes;
    for (offset, index) in places {
        if left > 0 || index == 0 {
            let event = read(offset)?;
            left = left.saturating_sub(event.weight());
            batch[index].1 = Row::Known(event);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Operation, Previous};

    const DOCUMENTS: u64 = 200;

    /// A row with a number, and the size of its last event. Some are deleted, and some have it in the index.
    fn row(number: u64, offset: u64, bytes: usize) -> (DocumentKey, Row, Arc<Event>) {
        let key = DocumentKey::new("db", "c", format!("{number:03}"));
        let event = Arc::new(Event {
            offset,
            database: Arc::clone(&key.database),
            collection: Arc::clone(&key.collection),
            document_id: Arc::clone(&key.document_id),
            operation: Operation::Insert,
            data: vec![0; bytes].into(),
            timestamp: 0,
            previous: Previous::Unknown,
        });
        let row = match number {
            0 | 60..75 => Row::Deleted,
            _ if number.is_multiple_of(7) => Row::Known(Arc::clone(&event)),
            _ => Row::At(offset),
        };
        (key, row, event)
    }

    /// Reads all documents in pages. Their offsets are those of their numbers times `step`.
    fn check(step: u64, bytes: impl Fn(u64) -> usize, max_documents: usize, max_bytes: usize) {
        let place = |number: u64| number * step % 211;
        let rows = || (0..DOCUMENTS).map(|it| row(it, place(it), bytes(it)));
        let largest = rows().map(|(_, _, event)| event.weight()).max().unwrap();
        let case = format!("step {step}, {largest} bytes, pages of {max_documents}, {max_bytes}");
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let query = DocumentQuery {
                after: after.as_ref(),
                max_documents,
                max_bytes,
                ..DocumentQuery::all("db")
            };
            let following = rows().filter(|(key, ..)| after.as_ref().is_none_or(|it| key > it));
            let decoded = following.map(|(key, row, _)| Ok((key, |_: &DocumentKey| Ok(row))));
            let mut bytes_read = 0;
            let page = query.collect(9, decoded, |offset| {
                let (_, _, event) = rows().find(|(_, _, it)| it.offset == offset).unwrap();
                bytes_read += event.weight();
                Ok(event)
            });
            let page = page.unwrap();
            assert!(
                bytes_read <= max_bytes.saturating_add(2 * largest),
                "{case}"
            );
            assert!(page.documents.len() <= max_documents, "{case}");
            let but_last = page.documents.iter().rev().skip(1);
            let weight: usize = but_last.map(|it| it.weight()).sum();
            assert!(weight < max_bytes.max(1), "{case}");
            found.extend(page.documents.iter().map(|it| it.offset));
            if page.next.is_none() {
                break;
            }
            assert!(page.next > after, "{case}");
            after = page.next;
        }
        let expected = rows().filter(|(_, row, _)| !matches!(row, Row::Deleted));
        let expected: Vec<_> = expected.map(|(_, _, event)| event.offset).collect();
        assert_eq!(found, expected, "{case}");
    }

    #[test]
    fn pages_have_each_document_once_and_read_little_more() {
        // Like the log, backwards, and mixed.
        for step in [1, 210, 37] {
            for max_documents in [1, 10, usize::MAX] {
                for max_bytes in [0, 1, 1_000, 20_000, usize::MAX] {
                    check(step, |_| 100, max_documents, max_bytes);
                    let mixed = |number| if number % 3 == 1 { 5_000 } else { 10 };
                    check(step, mixed, max_documents, max_bytes);
                }
            }
        }
    }
}
