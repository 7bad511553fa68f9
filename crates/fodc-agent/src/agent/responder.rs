//! The record, as the uplink asks it.

use std::{collections::BTreeMap, sync::Arc};

use steadfast_recorder::{Kind, NAME, Reader, Selector};
use steadfast_wire::fodc::MetricType;
use tracing::warn;

use super::{
    recording::{Snapshot, Window},
    views::{View, Views},
};
use crate::uplink::{Responder, Series, Unreadable, Visitor, Wanted};

/// Answers from the record as it is when asked.
#[derive(Debug)]
pub(super) struct RecordResponder {
    window: Window,
    views: Arc<Views>,
}

/// Where a series comes from.
struct Source {
    number: u64,
    view: View,
}

impl RecordResponder {
    pub(super) fn new(window: Window, views: Arc<Views>) -> Self {
        Self { window, views }
    }

    fn look(&self) -> Result<Snapshot, Unreadable> {
        let looked = self.window.blocking_look();
        looked.map_err(|ended| Unreadable(ended.to_string()))
    }

    fn sources(&self, reader: &Reader) -> Result<BTreeMap<Arc<str>, Source>, Unreadable> {
        let names = reader.sources();
        let names = names.map_err(|damage| Unreadable(damage.to_string()))?;
        let sources = (0..).zip(names).map(|(number, name)| {
            let view = self.views.of(&name);
            (name, Source { number, view })
        });
        Ok(sources.collect())
    }
}

impl Responder for RecordResponder {
    fn latest(&self, visitor: &mut dyn Visitor) -> Result<(), Unreadable> {
        let snapshot = self.look()?;
        let sources = self.sources(&snapshot.reader)?;
        for series in super::record::latest(&snapshot.reader) {
            let Some(source) = sources.get(&series.source) else {
                continue;
            };
            if !snapshot.state.shows(&source.view) {
                continue;
            }
            match tell(visitor, source, &series.labels, &series.meta) {
                Wanted::Yes => {}
                Wanted::No => continue,
                Wanted::Stop => break,
            }
            let told = visitor.samples(&[series.sample.time_ms], &[series.sample.value]);
            if told.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), Unreadable> {
        let snapshot = self.look()?;
        let sources = self.sources(&snapshot.reader)?;
        let (mut times, mut values) = (Vec::new(), Vec::new());
        for series in snapshot.reader.window(&Selector::all(), from..=to) {
            let series = match series {
                Ok(series) => series,
                Err(damage) => {
                    // What it spared is told.
                    warn!(%damage, "the record is damaged");
                    continue;
                }
            };
            let Some(source) = sources.get(&series.source) else {
                continue;
            };
            match tell(visitor, source, &series.labels, &series.meta) {
                Wanted::Yes => {}
                Wanted::No => continue,
                Wanted::Stop => break,
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

fn tell(
    visitor: &mut dyn Visitor,
    source: &Source,
    labels: &steadfast_recorder::Labels,
    meta: &steadfast_recorder::Meta,
) -> Wanted {
    let told = source.view.told(labels);
    let told: Vec<_> = told
        .iter()
        .map(|(name, value)| (name.as_ref(), *value))
        .filter(|(name, _)| *name != NAME)
        .collect();
    visitor.series(&Series {
        name: labels.name(),
        labels: &told,
        help: &meta.help,
        kind: metric_type(meta.kind),
        source: source.number,
        container: source.view.container.as_deref(),
    })
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge | Kind::Info | Kind::StateSet => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
        Kind::Summary => MetricType::Summary,
        // Also what a later version of the record may know.
        _ => MetricType::Untyped,
    }
}
