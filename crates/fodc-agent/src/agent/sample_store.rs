//! The record as the store of the uplink.

use std::{collections::BTreeMap, sync::Arc};

use steadfast_recorder::{NAME, Reader, Selector};
use tracing::warn;

use super::{
    record_queries,
    recording::{Snapshot, SnapshotHandle},
    source_views::{SourceView, SourceViews},
};
use crate::uplink::{SampleStore, Series, StoreError, Visit, Visitor};

/// Reads the record as it is at the time of each query.
#[derive(Debug)]
pub(super) struct RecordSampleStore {
    record: SnapshotHandle,
    views: Arc<SourceViews>,
}

/// The source of a series.
struct Source {
    number: u64,
    view: SourceView,
}

impl RecordSampleStore {
    pub(super) fn new(record: SnapshotHandle, views: Arc<SourceViews>) -> Self {
        Self { record, views }
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let snapshot = self.record.blocking_snapshot();
        snapshot.map_err(StoreError::new)
    }

    fn sources(&self, reader: &Reader) -> BTreeMap<Arc<str>, Source> {
        // The numbers hold for one response only, in which they group the series that share times.
        let sources = (0..).zip(reader.sources()).map(|(number, name)| {
            let view = self.views.get(&name);
            (name, Source { number, view })
        });
        sources.collect()
    }
}

impl SampleStore for RecordSampleStore {
    fn latest(&self, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        let snapshot = self.snapshot()?;
        let sources = self.sources(&snapshot.reader);
        for series in record_queries::latest(&snapshot.reader) {
            let Some(source) = sources.get(&series.source) else {
                continue;
            };
            // What an earlier process saw, or what a missed scrape has ended, is not the latest.
            if !source.view.is_current(&snapshot.status) {
                continue;
            }
            match visit(visitor, source, &series.labels, &series.meta) {
                Visit::Samples => {}
                Visit::Skip => continue,
                Visit::Stop => break,
            }
            let visited = visitor.samples(&[series.sample.time_ms], &[series.sample.value]);
            if visited.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        let snapshot = self.snapshot()?;
        let sources = self.sources(&snapshot.reader);
        // Reused: a window may have a hundred thousand series.
        let (mut times, mut values) = (Vec::new(), Vec::new());
        for series in snapshot.reader.window(&Selector::all(), from..=to) {
            let series = match series {
                Ok(series) => series,
                Err(damage) => {
                    // The undamaged parts are still a useful response.
                    warn!(%damage, "record is damaged");
                    continue;
                }
            };
            let Some(source) = sources.get(&series.source) else {
                continue;
            };
            match visit(visitor, source, &series.labels, &series.meta) {
                Visit::Samples => {}
                Visit::Skip => continue,
                Visit::Stop => break,
            }
            times.clear();
            values.clear();
            times.extend(series.samples.iter().map(|sample| sample.time_ms));
            values.extend(series.samples.iter().map(|sample| sample.value));
            if visitor.samples(&times, &values).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn visit(
    visitor: &mut dyn Visitor,
    source: &Source,
    labels: &steadfast_recorder::Labels,
    meta: &steadfast_recorder::Meta,
) -> Visit {
    let exported = source.view.exported_labels(labels);
    let exported: Vec<_> = exported
        .iter()
        .map(|(name, value)| (name.as_ref(), *value))
        .filter(|(name, _)| *name != NAME)
        .collect();
    visitor.series(&Series {
        name: labels.name(),
        labels: &exported,
        help: &meta.help,
        kind: meta.kind,
        source: source.number,
        container: source.view.container.as_deref(),
    })
}
