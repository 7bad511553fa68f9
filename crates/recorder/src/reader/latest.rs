//! The newest scrapes.

use std::{collections::BTreeMap, sync::Arc};

use super::{Sample, Snapshot, cursor::Cursor};
use crate::{
    catalog::Definition,
    column::Column,
    error::Damage,
    labels::{Labels, LabelsRef, Meta},
    selector::Selector,
};

/// A series of a newest scrape.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LatestSeries {
    /// Which source it is of.
    pub source: Arc<str>,
    /// Its name and labels.
    pub labels: Labels,
    /// What is said about it.
    pub meta: Arc<Meta>,
    /// Its value, and when it was scraped.
    pub sample: Sample,
}

/// The newest scrapes.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Latest {
    /// Their series, source by source.
    pub series: Vec<LatestSeries>,
    /// Of each source: when it was last scraped, and whether that was missed.
    pub scrapes: BTreeMap<Arc<str>, (i64, bool)>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

/// Of one record, in no particular order of sources.
pub(super) fn latest(snapshot: &Snapshot, selector: &Selector) -> Latest {
    let mut latest = Latest::default();
    let known = snapshot.latest.iter().filter_map(|of| Some((of, of.last?)));
    for (of, last) in known {
        latest.scrapes.insert(Arc::clone(&of.name), last);
    }
    // In the order of definition; few sources, so that looking each up is cheap.
    snapshot.current.walk(|_, definition| {
        let Some(of) = snapshot
            .latest
            .iter()
            .find(|of| of.source == definition.source)
        else {
            return;
        };
        let Some((time, false)) = of.last else { return };
        let (group, bit) = (
            definition.slot as usize / crate::rows::GROUP,
            definition.slot as usize % crate::rows::GROUP,
        );
        let present = of
            .newest
            .present
            .get(group)
            .is_some_and(|word| word >> bit & 1 == 1);
        if present && selector.takes_source(&of.name) {
            let stamp = of
                .newest
                .stamps
                .binary_search_by_key(&definition.slot, |(slot, _)| *slot);
            let offset = stamp.map_or(0, |at| of.newest.stamps[at].1);
            let value = f64::from_bits(of.newest.values[definition.slot as usize]);
            let sample = Sample {
                time_ms: time.wrapping_add(offset),
                value,
            };
            let meta = &snapshot.current.metas()[definition.meta as usize];
            latest.push(selector, &of.name, definition, meta, sample);
        }
    });
    from_parts(snapshot, selector, &mut latest);
    latest
}

impl Latest {
    fn push(
        &mut self,
        selector: &Selector,
        source: &Arc<str>,
        definition: Definition<'_>,
        meta: &Arc<Meta>,
        sample: Sample,
    ) {
        let Ok(labels) = LabelsRef::checked(definition.key) else {
            return;
        };
        if selector.takes(labels) {
            let (source, labels, meta) = (Arc::clone(source), labels.to_owned(), Arc::clone(meta));
            self.series.push(LatestSeries {
                source,
                labels,
                meta,
                sample,
            });
        }
    }
}

/// Sources whose newest scrape is not at hand: it is the last one of the newest part that has any.
fn from_parts(snapshot: &Snapshot, selector: &Selector, latest: &mut Latest) {
    for part in snapshot.parts.iter().rev() {
        let read = snapshot.catalog(part.catalog).and_then(|read| {
            let Some(read) = read else { return Ok(None) };
            let cursor = Cursor::new(snapshot, part, (0, &read.catalog))?;
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
            if latest.scrapes.contains_key(name) {
                continue;
            }
            let rows = timeline.rows.len() as u32;
            if let Some(time) = timeline.missed_last {
                latest.scrapes.insert(Arc::clone(name), (time, true));
            } else if let Some(time) = timeline.rows.last() {
                latest.scrapes.insert(Arc::clone(name), (*time, false));
                wanted[source] = Some((rows - 1, *time)).filter(|_| selector.takes_source(name));
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
                let offset = column
                    .stamps
                    .last()
                    .filter(|(stamped, _)| *stamped == row)
                    .map_or(0, |(_, offset)| *offset);
                let sample = Sample {
                    time_ms: time.wrapping_add(offset),
                    value: f64::from_bits(*bits),
                };
                let (name, meta) = (
                    &catalog.sources()[definition.source as usize],
                    &catalog.metas()[definition.meta as usize],
                );
                latest.push(selector, name, definition, meta, sample);
            }
        });
    }
}
