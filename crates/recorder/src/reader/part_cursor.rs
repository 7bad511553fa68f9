//! Reading one part of the record series by series.

use std::sync::Arc;

use crate::{
    catalog::Catalog,
    codec::Decoder,
    column::Column,
    error::{Damage, DamageKind},
    frame::FileKind,
    part::{HeadRows, Part},
    rows::GROUP,
    segment::{Block, Segment},
    snapshot::Snapshot,
    source_rows::{GroupColumns, ScrapeTimes},
};

/// The scrapes of a source in a part.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) source: u32,
    pub(super) name: Arc<str>,
    /// The time of the first scrape, successful or not.
    pub(super) first: i64,
    /// The time of each successful scrape.
    pub(super) rows: Vec<i64>,
    /// The first of each run of failed scrapes: the row behind the run, and its time.
    pub(super) missed: Vec<(u32, i64)>,
    /// The time of the last scrape, if that failed.
    pub(super) missed_last: Option<i64>,
    /// The times of the rows ascend, which they do unless a clock was set back.
    pub(super) is_sorted: bool,
}

impl Timeline {
    /// Returns `None` if there is no scrape, or the catalog does not define the source.
    fn new(source: u32, times: &ScrapeTimes, catalog: &Catalog) -> Option<Self> {
        let name = Arc::clone(catalog.sources().get(source as usize)?);
        let (first, last) = (times.scrapes.first()?.time, times.scrapes.last()?);
        let missed_last = last.missed.then_some(last.time);
        let mut rows = Vec::with_capacity(times.rows as usize);
        let mut missed: Vec<(u32, i64)> = Vec::new();
        for scrape in &times.scrapes {
            // Only the first of a run of failed scrapes ends the presence of a series.
            let row = rows.len() as u32;
            if !scrape.missed {
                rows.push(scrape.time);
            } else if missed.last().is_none_or(|(before, _)| *before != row) {
                missed.push((row, scrape.time));
            }
        }
        let is_sorted = rows.is_sorted();
        Some(Self {
            source,
            name,
            first,
            rows,
            missed,
            missed_last,
            is_sorted,
        })
    }

    /// Returns the time of the first failed scrape between this row and the one before it.
    pub(super) fn missed_before(&self, row: u32) -> Option<i64> {
        let at = self
            .missed
            .binary_search_by_key(&row, |(before, _)| *before)
            .ok()?;
        Some(self.missed[at].1)
    }
}

#[derive(Debug)]
enum Content {
    Rows(Arc<HeadRows>, Box<GroupColumns>),
    Segment(Segment, Option<Block>),
    /// The part was evicted since.
    Evicted,
}

/// A cursor over the series of a part. It reads a group once for all series of it in a row.
#[derive(Debug)]
pub(super) struct PartCursor {
    id: u64,
    /// The index of the part's catalog in the plan.
    pub(super) catalog: u32,
    content: Content,
    timelines: Vec<Timeline>,
    /// The source and the group that `content` has read.
    loaded: Option<(u32, u32)>,
    decoder: Decoder,
}

impl PartCursor {
    /// Opens a part of which `catalog`, number `index` in the plan, defines the slots.
    pub(super) fn new(
        snapshot: &Snapshot,
        part: &Part,
        (index, catalog): (u32, &Catalog),
    ) -> Result<Self, Damage> {
        let (mut timelines, mut content) = (Vec::new(), Content::Evicted);
        if let Some(head) = part.rows() {
            let sources = head.iter().enumerate();
            timelines.extend(sources.filter_map(|(source, rows)| {
                Timeline::new(source as u32, &rows.as_ref()?.times, catalog)
            }));
            content = Content::Rows(Arc::clone(head), Box::default());
        } else if let Some(segment) = snapshot.segment(part)? {
            let sections = segment.index.sections.iter();
            timelines.extend(
                sections
                    .filter_map(|section| Timeline::new(section.source, &section.times, catalog)),
            );
            content = Content::Segment(segment, None);
        }
        Ok(Self {
            id: part.id,
            catalog: index,
            content,
            timelines,
            loaded: None,
            decoder: Decoder::default(),
        })
    }

    pub(super) fn timelines(&self) -> &[Timeline] {
        &self.timelines
    }

    /// Returns the scrapes of a source.
    pub(super) fn timeline(&self, source: u32) -> Option<&Timeline> {
        self.timelines
            .iter()
            .find(|timeline| timeline.source == source)
    }

    pub(super) fn is_evicted(&self) -> bool {
        matches!(self.content, Content::Evicted)
    }

    /// Reads the column of a slot, which is empty if the slot was never present.
    pub(super) fn column(
        &mut self,
        source: u32,
        slot: u32,
        column: &mut Column,
    ) -> Result<(), Damage> {
        column.clear();
        let (group, slot) = (slot / GROUP as u32, slot as usize % GROUP);
        let is_loaded = self.loaded == Some((source, group));
        match &mut self.content {
            Content::Evicted => {}
            Content::Rows(head, columns) => {
                let Some(Some(rows)) = head.get(source as usize) else {
                    return Ok(());
                };
                if !is_loaded {
                    // After an error the columns are incomplete.
                    self.loaded = None;
                    rows.read_group(group as usize, columns)
                        .map_err(|_| FileKind::Head.damage(self.id, 0, DamageKind::Malformed))?;
                }
                columns.column(slot, column);
            }
            Content::Segment(segment, block) => {
                if !is_loaded {
                    self.loaded = None;
                    let mut sections = segment.index.sections.iter();
                    *block = match sections.find(|section| section.source == source) {
                        Some(section) => segment.block(section, group)?,
                        None => None,
                    };
                }
                if let Some(block) = block {
                    block.column(slot, &mut self.decoder, column)?;
                }
            }
        }
        self.loaded = Some((source, group));
        Ok(())
    }
}
