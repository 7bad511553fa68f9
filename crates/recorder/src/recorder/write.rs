//! Writing a scrape: the definitions it needs, then one frame; and beginning new files when their
//! time has come.

use std::{io, sync::Arc};

use super::Recorder;
use crate::{
    bytes::{put_count, put_signed, put_varint},
    catalog::{Catalog, Definition, MetaIndex},
    error::WriteError,
    frame::{FileKind, Header, Knows, Log, frame_start},
    part::{CatalogForm, Form, Part, span_of},
    rows::{GROUP, put_row},
    shelf::file_cost,
    track::{Scraped, Track},
};

/// A scrape with its rows.
pub(crate) const SCRAPE: u8 = 1;
/// A scrape that failed.
pub(crate) const MISSED: u8 = 2;
/// Beside these: how many blocks of the catalog are needed from here on follows.
pub(crate) const NAMES: u8 = 0x10;

/// A head in which a meta has changed is closed after this many scrapes.
const META_CHANGE_SCRAPES: usize = 64;

/// A catalog of which this much is dead is begun anew with the next head, in bytes.
const DEAD_BYTES_MIN: u64 = 4 << 10;

impl Recorder {
    pub(super) fn write_scrape(&mut self, source: u32, time: i64) -> Result<usize, WriteError> {
        let written = self
            .begin_write()
            .and_then(|()| self.append_scrape(source, time));
        self.finish_write(&written);
        written
    }

    pub(super) fn write_missed(&mut self, source: u32, time: i64) -> Result<(), WriteError> {
        let written = self
            .begin_write()
            .and_then(|()| self.append_missed(source, time));
        self.finish_write(&written);
        written
    }

    /// New files when it is time, and the definitions that are not written.
    fn begin_write(&mut self) -> Result<(), WriteError> {
        let dead = self.dead_bytes();
        let definitions = self.catalog.memory();
        let slots: u64 = self.lives.iter().map(crate::live::Live::memory).sum();
        let most = self.grant.definitions_max();
        let swollen = dead > DEAD_BYTES_MIN && (definitions > most || slots > most);
        if self.is_head_full() || swollen || self.renew {
            self.close_head();
            // Whoever died before the catalog's first head left has no data now.
            let oldest = self
                .shelf
                .parts()
                .next()
                .map_or(self.head.id(), |shelved| shelved.id);
            let outlived = dead > 0 && self.catalog.id < oldest;
            let wasteful = outlived || dead > definitions / 3 && dead > DEAD_BYTES_MIN;
            if swollen || wasteful || !self.meta_changes.is_empty() || self.renew {
                self.renew_catalog()?;
            }
        }
        self.write_definitions()
    }

    /// Whether the next scrape begins a new head.
    pub(super) fn is_head_full(&self) -> bool {
        let tracks = self.tracks.iter().flatten();
        let scrapes = tracks.map(|track| track.times.scrapes.len()).max();
        let scrapes = scrapes.unwrap_or(0);
        scrapes >= self.options.head_scrapes as usize
            || self.head.len() > self.grant.head_max()
            || !self.meta_changes.is_empty() && scrapes >= META_CHANGE_SCRAPES
    }

    fn finish_write<T>(&mut self, written: &Result<T, WriteError>) {
        if written.is_err() {
            self.counters.write_errors += 1;
        }
        self.seal_step();
        self.alive = self.lives.iter().map(crate::live::Live::count_alive).sum();
        self.defined = 0;
        if self.disk.is_none() {
            // What can not leave is within its own bounds.
            self.make_room(0).ok();
        }
    }

    /// Bytes of definitions that no series needs, by their share in number.
    fn dead_bytes(&mut self) -> u64 {
        self.forget_the_gone();
        let alive: usize = self.lives.iter().map(crate::live::Live::count_alive).sum();
        let all = self
            .lives
            .iter()
            .map(crate::live::Live::defined)
            .sum::<usize>()
            .max(1);
        self.catalog.memory() * all.saturating_sub(alive) as u64 / all as u64
    }

    /// The series of a source whose last data has left are not alive.
    fn forget_the_gone(&mut self) {
        let oldest = self
            .shelf
            .parts()
            .next()
            .map_or(self.head.id(), |shelved| shelved.id);
        for live in &mut self.lives {
            if live.last_head < oldest {
                live.forget();
            }
        }
    }

    /// Puts the head on the shelf and begins another. Writes nothing.
    pub(super) fn close_head(&mut self) {
        let id = self.next_id;
        let next = Log::following(id, self.catalog.id, &self.head);
        let head = std::mem::replace(&mut self.head, next);
        let names = std::mem::take(&mut self.head_names);
        self.next_id += 1;
        let sources = self.tracks.len();
        let tracks = std::mem::replace(&mut self.tracks, vec![None; sources]);
        let span = span_of(&tracks);
        if let (None, true, Some(disk)) = (span, head.has_file(), &self.disk) {
            // Its first frame could not be written.
            disk.remove(&head.name()).ok();
        }
        if let Some(span) = span {
            let memory = tracks.iter().flatten().map(Track::memory).sum();
            let cost = if self.disk.is_some() {
                file_cost(head.len())
            } else {
                memory
            };
            let form = Form::Rows(Arc::new(tracks));
            self.shelf.push(
                Part {
                    id: head.id(),
                    catalog: head.catalog(),
                    names,
                    span,
                    form,
                },
                cost,
                Some(head),
            );
        }
    }

    /// Begins a catalog with the series that are alive. The head has been closed.
    fn renew_catalog(&mut self) -> Result<(), WriteError> {
        let (catalog, places) = self.living_catalog();
        let mut catalog_log = Log::new(FileKind::Catalog, catalog.id, catalog.id);
        let mut catalog = Arc::new(catalog);
        if self.disk.is_some() {
            let written = self.write_catalog(&mut catalog, &mut catalog_log);
            if let (Err(_), Some(disk)) = (&written, &self.disk) {
                // It is begun anew under the same name the next time.
                disk.remove(&catalog_log.name()).ok();
            }
            written?;
        }
        if self.renew && self.catalog_log.has_file() {
            // What the old one's file has is in doubt as well, and segments will need it.
            self.rewrite_catalog()?;
        }
        let old_log = std::mem::replace(&mut self.catalog_log, catalog_log);
        let old = std::mem::replace(&mut self.catalog, catalog);
        let (form, cost) = if self.disk.is_some() {
            (CatalogForm::File, file_cost(old_log.len()))
        } else {
            (CatalogForm::Memory(Arc::clone(&old)), old.memory())
        };
        self.shelf.keep_catalog(old.id, form, cost, Some(old_log));
        self.shelf.drop_unneeded_catalogs(self.disk.as_deref());
        self.metas = MetaIndex::new(self.catalog.metas());
        self.meta_changes.clear();
        self.renew = false;
        for live in &mut self.lives {
            live.sweep();
        }
        for (source, slot, block, hash) in places {
            self.lives[source as usize].restore(hash, slot, block as usize);
        }
        self.next_id += 1;
        // The one that was begun has nothing yet.
        self.head = Log::following(self.next_id - 1, self.catalog.id, &self.head);
        self.counters.catalogs += 1;
        Ok(())
    }

    /// A catalog of the series that are alive, and where each stands in it: source, slot, block, hash.
    fn living_catalog(&self) -> (Catalog, Vec<(u32, u32, u32, u32)>) {
        let mut catalog = Catalog::new(self.next_id);
        for live in &self.lives {
            catalog.add_source(Arc::clone(&live.name));
        }
        let mut metas = MetaIndex::default();
        let mut places = Vec::with_capacity(self.alive);
        self.catalog.walk(|_, definition| {
            if !self.lives[definition.source as usize].is_alive(definition.slot) {
                return;
            }
            let meta = if let Some(changed) =
                self.meta_changes.get(&(definition.source, definition.slot))
            {
                changed
            } else {
                &self.catalog.metas()[definition.meta as usize]
            };
            let meta = if let Some(index) = metas.find(meta) {
                index
            } else {
                catalog.add_meta(Arc::clone(meta));
                metas.insert(Arc::clone(meta))
            };
            let block = catalog.define(Definition { meta, ..definition });
            places.push((
                definition.source,
                definition.slot,
                block as u32,
                self.hasher.hash(definition.key),
            ));
        });
        (catalog, places)
    }

    /// Writes the current catalog's file anew, in place of the one that is there.
    fn rewrite_catalog(&mut self) -> Result<(), WriteError> {
        let Some(disk) = self.disk.clone() else {
            return Ok(());
        };
        let bytes = self.catalog.to_file();
        self.make_room(file_cost(bytes.len() as u64))?;
        let name = self.catalog_log.name();
        let temporary = format!("{name}.tmp");
        let written = disk.create(&temporary).and_then(|file| {
            file.write_at(0, &bytes)?;
            disk.rename(&temporary, &name)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                let id = self.catalog.id;
                let header = Header {
                    kind: FileKind::Catalog,
                    id,
                    catalog: id,
                    knows: Knows::default(),
                };
                self.catalog_log = Log::resumed(header, file, bytes.len() as u64);
                self.shelf.directory_changed = true;
                Ok(())
            }
            Err(error) => {
                disk.remove(&temporary).ok();
                Err(WriteError::Io { file: name, error })
            }
        }
    }

    fn write_definitions(&mut self) -> Result<(), WriteError> {
        let mut catalog = Arc::clone(&self.catalog);
        if self.disk.is_none() {
            return self.make_room(0);
        }
        if catalog.is_written() {
            return Ok(());
        }
        let mut log = std::mem::replace(&mut self.catalog_log, Log::new(FileKind::Catalog, 0, 0));
        let written = self.write_catalog(&mut catalog, &mut log);
        self.catalog_log = log;
        // Dropped first, so that marking what is written copies nothing.
        self.catalog = catalog;
        written
    }

    /// Writes what the file of `catalog` lacks. `self.catalog_log` is not counted when it is this log.
    fn write_catalog(
        &mut self,
        catalog: &mut Arc<Catalog>,
        log: &mut Log,
    ) -> Result<(), WriteError> {
        loop {
            let mut frame = Vec::new();
            frame_start(&mut frame);
            let Some(written) = catalog.put_unwritten(catalog.written(), &mut frame) else {
                return Ok(());
            };
            self.make_room(file_cost(log.len() + log.growth(frame.len())))?;
            self.append_to(log, &mut frame)?;
            Arc::make_mut(catalog).mark_written(written);
        }
    }

    fn append_scrape(&mut self, source: u32, time: i64) -> Result<usize, WriteError> {
        let mut frame = std::mem::take(&mut self.frame);
        frame_start(&mut frame);
        let rows = self.put_scrape(source, time, &mut frame);
        let written = self.append_head(&mut frame);
        if written.is_ok() {
            self.turn(source, time, &frame, &rows);
        }
        let samples = rows.samples;
        self.keep_frame(frame);
        written?;
        self.counters.scrapes += 1;
        self.counters.samples += samples as u64;
        Ok(samples)
    }

    fn append_missed(&mut self, source: u32, time: i64) -> Result<(), WriteError> {
        let mut frame = std::mem::take(&mut self.frame);
        frame_start(&mut frame);
        self.put_start(MISSED, source, time, &mut frame);
        let written = self.append_head(&mut frame);
        self.keep_frame(frame);
        written?;
        self.tracks[source as usize]
            .get_or_insert_default()
            .push(Scraped { time, missed: true });
        self.lives[source as usize].last = Some((time, true));
        self.counters.missed += 1;
        Ok(())
    }

    /// Frames are built in the same room again, but a huge one is not kept.
    fn keep_frame(&mut self, mut frame: Vec<u8>) {
        frame.clear();
        frame.shrink_to(256 << 10);
        self.frame = frame;
    }

    fn append_head(&mut self, frame: &mut Vec<u8>) -> Result<(), WriteError> {
        let before = file_cost(self.head.len());
        let after = file_cost(self.head.len() + self.head.growth(frame.len()));
        // In memory the pieces of rows have slack of about their own size.
        let room = if self.disk.is_some() {
            after - before
        } else {
            2 * frame.len() as u64
        };
        self.make_room(room)?;
        let mut head = std::mem::replace(&mut self.head, Log::new(FileKind::Head, 0, 0));
        let written = self.append_to(&mut head, frame);
        self.head = head;
        if written.is_ok() {
            self.head_names = self.catalog.written_blocks();
        }
        written
    }

    fn append_to(&mut self, log: &mut Log, frame: &mut Vec<u8>) -> Result<(), WriteError> {
        let failed = |error: io::Error| WriteError::Io {
            file: log.name(),
            error,
        };
        let bytes = log.growth(frame.len());
        if let Some(disk) = &self.disk {
            if !log.has_file() {
                log.attach(disk.create(&log.name()).map_err(failed)?);
                self.shelf.directory_changed = true;
            }
            self.counters.bytes_written += bytes;
        }
        let name = log.name();
        log.append(frame)
            .map_err(|error| WriteError::Io { file: name, error })
    }

    fn put_start(&self, kind: u8, source: u32, time: i64, frame: &mut Vec<u8>) {
        let before = self.tracks[source as usize]
            .as_ref()
            .and_then(|track| track.times.last());
        let names = self.catalog.written_blocks();
        let tell = names != self.head_names;
        frame.push(kind | if tell { NAMES } else { 0 });
        if tell {
            put_varint(frame, names);
        }
        put_count(frame, source as usize);
        put_signed(frame, time.wrapping_sub(before.unwrap_or_default()));
    }

    /// Puts the scrape's payload; tells where the rows of the groups end.
    fn put_scrape(&mut self, source: u32, time: i64, frame: &mut Vec<u8>) -> Rows {
        self.put_start(SCRAPE, source, time, frame);
        let live = &mut self.lives[source as usize];
        live.stamps.sort_unstable();
        let begun = self.tracks[source as usize]
            .as_ref()
            .map_or(0, Track::groups);
        put_count(frame, live.groups());
        let mut rows = Rows {
            ends: Vec::with_capacity(live.groups() + 1),
            samples: 0,
        };
        rows.ends.push(frame.len());
        let nothing = [0; GROUP];
        let mut stamps = live.stamps.iter().peekable();
        for group in 0..live.groups() {
            let slots = group * GROUP..(group + 1) * GROUP;
            let before = if group < begun {
                (
                    &live.newest.values[slots.clone()],
                    live.newest.present[group],
                )
            } else {
                (&nothing[..], 0)
            };
            let mut own = Vec::new();
            while let Some((slot, offset)) =
                stamps.next_if(|(slot, _)| slots.contains(&(*slot as usize)))
            {
                own.push(((*slot as usize - slots.start) as u8, *offset));
            }
            put_row(frame, before, (&live.next[slots], live.seen[group]), &own);
            rows.ends.push(frame.len());
            rows.samples += live.seen[group].count_ones() as usize;
        }
        rows
    }

    /// The scrape is written: it becomes the newest.
    fn turn(&mut self, source: u32, time: i64, frame: &[u8], rows: &Rows) {
        let track = self.tracks[source as usize].get_or_insert_default();
        // The frame may have got a header in front.
        let shift = frame.len() - rows.ends[rows.ends.len() - 1];
        let begun = track.groups();
        for (group, pair) in rows.ends.windows(2).enumerate() {
            track.push_row(group, &frame[shift + pair[0]..shift + pair[1]]);
        }
        track.push(Scraped {
            time,
            missed: false,
        });
        let live = &mut self.lives[source as usize];
        for (_, offset) in &live.stamps {
            track.cover(time.wrapping_add(*offset));
        }
        live.turn(begun);
        live.last = Some((time, false));
        live.last_head = self.head.id();
    }
}

/// Where the rows of a scrape's groups begin and end in its frame.
struct Rows {
    ends: Vec<usize>,
    samples: usize,
}
