//! The memory of the scraped processes, as their pages of metrics show it.

use std::sync::Arc;

use steadfast_recorder::Selector;

use super::{recording::SnapshotHandle, source_views::SourceViews};
use crate::sources::pressure::{MemorySource, Values};

/// Reads the newest scrapes from the record.
#[derive(Debug)]
pub(super) struct RecordedMemory {
    record: SnapshotHandle,
    views: Arc<SourceViews>,
}

impl RecordedMemory {
    pub(super) fn new(record: SnapshotHandle, views: Arc<SourceViews>) -> Self {
        Self { record, views }
    }
}

impl MemorySource for RecordedMemory {
    async fn newest(&self, selector: Selector) -> Option<Values> {
        let snapshot = self.record.snapshot().await.ok()?;
        let mut values = Values::new();
        for series in snapshot.reader.latest(&selector).series {
            let view = self.views.get(&series.source);
            if view.is_current(&snapshot.status) {
                // One process has one series; of several, the largest is the one under pressure.
                let value = values.entry(series.source).or_insert(series.sample.value);
                *value = value.max(series.sample.value);
            }
        }
        Some(values)
    }
}
