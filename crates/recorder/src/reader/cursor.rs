//! One part of the record, read series by series.

use std::sync::Arc;

use super::Snapshot;
use crate::{
    catalog::Catalog,
    codec::Decoder,
    column::Column,
    error::{Damage, DamageKind},
    frame::FileKind,
    part::{Form, Part, Tracks},
    rows::GROUP,
    segment::{Block, Section, Segment},
    track::{Expanded, Times},
};

/// A source's scrapes in a part, as the assembling of series needs them.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) source: u32,
    pub(super) name: Arc<str>,
    /// Time of the first scrape, missed or not.
    pub(super) first: i64,
    /// When each row was scraped.
    pub(super) rows: Vec<i64>,
    /// Missed scrapes: before which row the first of several in a row stands, and its time.
    pub(super) missed: Vec<(u32, i64)>,
    /// Time of the last scrape, if that was missed.
    pub(super) missed_last: Option<i64>,
    /// The rows' times only grow.
    pub(super) ascends: bool,
}

impl Timeline {
    /// Nothing when there is no scrape, or the catalog does not know the source.
    fn new(source: u32, times: &Times, catalog: &Catalog) -> Option<Self> {
        let name = Arc::clone(catalog.sources().get(source as usize)?);
        let (first, last) = (times.scrapes.first()?.time, times.scrapes.last()?);
        let missed_last = last.missed.then_some(last.time);
        let mut rows = Vec::with_capacity(times.rows as usize);
        let mut missed: Vec<(u32, i64)> = Vec::new();
        for scraped in &times.scrapes {
            let row = rows.len() as u32;
            if !scraped.missed {
                rows.push(scraped.time);
            } else if missed.last().is_none_or(|(before, _)| *before != row) {
                missed.push((row, scraped.time));
            }
        }
        let ascends = rows.is_sorted();
        Some(Self {
            source,
            name,
            first,
            rows,
            missed,
            missed_last,
            ascends,
        })
    }

    /// The first missed scrape before this row and after the one before it.
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
    Rows(Arc<Tracks>, Box<Expanded>),
    Segment(Segment, Option<Block>),
    /// It left the record, or is damaged.
    Nothing,
}

/// A part being read. Series of one group are read one after the other without reading it again.
#[derive(Debug)]
pub(super) struct Cursor {
    id: u64,
    /// Which of the plan's catalogs.
    pub(super) catalog: u32,
    content: Content,
    timelines: Vec<Timeline>,
    /// The source and the group that are at hand.
    at_hand: Option<(u32, u32)>,
    decoder: Decoder,
}

impl Cursor {
    /// Reads what a part has, of slots that `catalog`, the plan's number `index`, defines.
    pub(super) fn new(
        snapshot: &Snapshot,
        part: &Part,
        (index, catalog): (u32, &Catalog),
    ) -> Result<Self, Damage> {
        let (mut timelines, mut content) = (Vec::new(), Content::Nothing);
        if let Form::Rows(tracks) = &part.form {
            let sources = tracks.iter().enumerate();
            timelines.extend(sources.filter_map(|(source, track)| {
                Timeline::new(source as u32, &track.as_ref()?.times, catalog)
            }));
            content = Content::Rows(Arc::clone(tracks), Box::default());
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
            at_hand: None,
            decoder: Decoder::default(),
        })
    }

    pub(super) fn timelines(&self) -> &[Timeline] {
        &self.timelines
    }

    /// A source's scrapes, if the part has any.
    pub(super) fn timeline(&self, source: u32) -> Option<&Timeline> {
        self.timelines
            .iter()
            .find(|timeline| timeline.source == source)
    }

    /// Whether what the part says could be read.
    pub(super) fn is_readable(&self) -> bool {
        !matches!(self.content, Content::Nothing)
    }

    /// A slot's column; an empty one when it was never there.
    pub(super) fn column(
        &mut self,
        source: u32,
        slot: u32,
        column: &mut Column,
    ) -> Result<(), Damage> {
        column.clear();
        let (group, slot) = (slot / GROUP as u32, slot as usize % GROUP);
        let fresh = self.at_hand != Some((source, group));
        match &mut self.content {
            Content::Nothing => {}
            Content::Rows(tracks, expanded) => {
                let Some(Some(track)) = tracks.get(source as usize) else {
                    return Ok(());
                };
                if fresh {
                    self.at_hand = None;
                    track.expand(group as usize, expanded).map_err(|_| Damage {
                        file: FileKind::Head.name(self.id),
                        offset: 0,
                        kind: DamageKind::Malformed,
                    })?;
                }
                expanded.column(slot, column);
            }
            Content::Segment(segment, block) => {
                if fresh {
                    self.at_hand = None;
                    let section: Option<&Section> = segment
                        .index
                        .sections
                        .iter()
                        .find(|section| section.source == source);
                    *block = match section {
                        Some(section) => segment.block(section, group)?,
                        None => None,
                    };
                }
                if let Some(block) = block {
                    block.column(slot, &mut self.decoder, column)?;
                }
            }
        }
        self.at_hand = Some((source, group));
        Ok(())
    }
}
