//! Reading the newest scrapes.

use std::{collections::BTreeMap, sync::Arc};

use super::{Sample, part_cursor::PartCursor};
use crate::{
    catalog::{Catalog, Definition},
    column::Column,
    error::Damage,
    labels::{Labels, LabelsRef, Meta},
    selector::Selector,
    snapshot::Snapshot,
};

/// A series in the newest scrape of its source.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LatestSeries {
    /// The source of the series.
    pub source: Arc<str>,
    /// The name and the labels.
    pub labels: Labels,
    /// The metadata.
    pub meta: Arc<Meta>,
    /// The value and its time.
    pub sample: Sample,
}

/// The newest scrapes of all sources.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Latest {
    /// The series, sorted by source.
    pub series: Vec<LatestSeries>,
    /// The time of each source's newest scrape, and true if it failed.
    pub scrapes: BTreeMap<Arc<str>, (i64, bool)>,
    /// Damage that may hide series.
    pub damage: Vec<Damage>,
}

/// Returns the newest scrapes of one record.
pub(super) fn latest(snapshot: &Snapshot, selector: &Selector) -> Latest {
    let mut latest = Latest::default();
    for of in &snapshot.latest {
        if let Some(last) = of.last {
            latest.scrapes.insert(Arc::clone(&of.name), last);
        }
    }
    // A record has few sources, so that the search is cheap.
    let find = |source| snapshot.latest.iter().find(|of| of.source == source);
    snapshot.current.walk(|_, definition| {
        let Some(of) = find(definition.source).filter(|of| selector.matches_source(&of.name))
        else {
            return;
        };
        // After a failed scrape no series is present, although the older values are kept.
        let Some((time, false)) = of.last else { return };
        if let Some((bits, offset)) = of.newest.sample(definition.slot) {
            let sample = sample(time, offset, bits);
            latest.push(selector, &snapshot.current, definition, sample);
        }
    });
    add_from_parts(snapshot, selector, &mut latest);
    latest
}

fn sample(time: i64, offset: i64, bits: u64) -> Sample {
    Sample {
        time_ms: time.wrapping_add(offset),
        value: f64::from_bits(bits),
    }
}

impl Latest {
    fn push(
        &mut self,
        selector: &Selector,
        catalog: &Catalog,
        definition: Definition<'_>,
        sample: Sample,
    ) {
        let labels = LabelsRef::checked(definition.key);
        if let Some(labels) = labels.ok().filter(|labels| selector.matches(*labels)) {
            self.series.push(LatestSeries {
                source: Arc::clone(&catalog.sources()[definition.source as usize]),
                labels: labels.to_owned(),
                meta: Arc::clone(&catalog.metas()[definition.meta as usize]),
                sample,
            });
        }
    }
}

/// Adds the sources of which only parts have the newest scrape: the last one of the newest part that has
/// a scrape of the source.
fn add_from_parts(snapshot: &Snapshot, selector: &Selector, latest: &mut Latest) {
    for part in snapshot.parts.iter().rev() {
        let read = snapshot.catalog(part.catalog).and_then(|read| {
            let Some(read) = read else { return Ok(None) };
            let cursor = PartCursor::new(snapshot, part, (0, &read.catalog))?;
            Ok(Some((read.catalog, cursor)))
        });
        let (catalog, mut cursor) = match read {
            Ok(Some(read)) => read,
            Ok(None) => continue,
            Err(damage) => {
                latest.damage.push(damage);
                continue;
            }
        };
        let mut wanted = vec![None; catalog.sources().len()];
        for (source, name) in catalog.sources().iter().enumerate() {
            let Some(timeline) = cursor.timeline(source as u32) else {
                continue;
            };
            // A newer part, or the recorder itself, has a newer scrape of the source.
            if latest.scrapes.contains_key(name) {
                continue;
            }
            let rows = timeline.rows.len() as u32;
            if let Some(time) = timeline.missed_last {
                latest.scrapes.insert(Arc::clone(name), (time, true));
            } else if let Some(time) = timeline.rows.last() {
                latest.scrapes.insert(Arc::clone(name), (*time, false));
                wanted[source] = Some((rows - 1, *time)).filter(|_| selector.matches_source(name));
            }
        }
        if wanted.iter().all(Option::is_none) {
            continue;
        }
        let mut column = Column::default();
        catalog.walk(|_, definition| {
            let Some((row, time)) = wanted[definition.source as usize] else {
                return;
            };
            if let Err(damage) = cursor.column(definition.source, definition.slot, &mut column) {
                if !latest.damage.contains(&damage) {
                    latest.damage.push(damage);
                }
            } else if column.runs.last().is_some_and(|(_, end)| *end == row + 1)
                && let Some(bits) = column.values.last()
            {
                let last = column.timestamps.last().filter(|(of, _)| *of == row);
                let sample = sample(time, last.map_or(0, |(_, offset)| *offset), *bits);
                latest.push(selector, &catalog, definition, sample);
            }
        });
    }
}
