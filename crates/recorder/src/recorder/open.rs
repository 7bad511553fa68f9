//! Opening a directory to go on with its record.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::ErrorKind,
    path::Path,
    sync::Arc,
};

use super::{
    Recorder,
    found::{Content, Failure, Found, FoundPart, cut},
};
use crate::{
    catalog::{Catalog, MetaIndex, unreadable},
    disk::{Directory, Disk, read_whole},
    error::{Damage, DamageKind, OpenError},
    frame::{FileKind, Knows, Log},
    live::Live,
    options::Options,
    part::{CatalogForm, Form, Part, span_of},
    replay::Replayed,
    rows::{GROUP, bits},
    shelf::file_cost,
};

/// What was found in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// Parts the record consists of.
    pub parts: usize,
    /// Time of the oldest data, Unix milliseconds.
    pub oldest: Option<i64>,
    /// Time of the newest data, Unix milliseconds.
    pub newest: Option<i64>,
    /// Bytes at the end of the newest files that a killed process, or one that is at work, left
    /// unfinished. They belong to no scrape that was committed.
    pub unfinished: u64,
    /// What is not as it was written. Everything else can be read.
    pub damage: Vec<Damage>,
}

/// The name of the file that is locked by who writes to a directory.
pub(crate) const LOCK: &str = "lock";

impl OpenReport {
    /// Adds what was found in the directory's own `place`.
    pub(crate) fn add(&mut self, found: Self, place: &str) {
        self.parts += found.parts;
        self.oldest = self.oldest.into_iter().chain(found.oldest).min();
        self.newest = self.newest.max(found.newest);
        self.unfinished += found.unfinished;
        let damage = found.damage.into_iter();
        self.damage
            .extend(damage.map(|damage| damage.inside(place)));
    }
}

/// Makes the directory if it is not there, and takes it for whoever holds what is returned.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    let failed = |error| OpenError::Io {
        path: dir.to_owned(),
        error,
    };
    fs::create_dir_all(dir).map_err(|error| match error.kind() {
        // The system's answer for a file in the directory's place.
        ErrorKind::AlreadyExists => failed(ErrorKind::NotADirectory.into()),
        _ => failed(error),
    })?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join(LOCK))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: dir.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

impl Recorder {
    /// Opens the record in `dir`, which is made if it is not there, and goes on with it: every scrape
    /// that was committed is there, whatever ended the process that wrote it. Damage is told and
    /// costs what is damaged.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, OpenReport), OpenError> {
        let lock = lock(dir)?;
        Self::open_unlocked(dir, options, Some(lock))
    }

    /// Opens the record in a directory that nobody else writes to, by this lock or another.
    pub(crate) fn open_unlocked(
        dir: &Path,
        options: Options,
        lock: Option<File>,
    ) -> Result<(Self, OpenReport), OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(Directory::new(dir));
        let recorder = Self::new(options, Some(disk), lock)?;
        recorder.restored().map_err(|error| error.at(dir))
    }

    #[cfg(test)]
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
    ) -> Result<(Self, OpenReport), OpenError> {
        let recorder = Self::new(options, Some(disk), None)?;
        recorder
            .restored()
            .map_err(|error| error.at(Path::new("disk")))
    }

    /// Takes in what the disk has.
    fn restored(mut self) -> Result<(Self, OpenReport), Failure> {
        let Some(disk) = self.disk.clone() else {
            return Ok((self, OpenReport::default()));
        };
        let mut found = Found::read(&*disk)?;
        for name in &found.leftovers {
            disk.remove(name)?;
        }
        self.next_id = found.greatest + 1;
        let newest = found
            .parts
            .pop_if(|part| matches!(part.content, Some(Content::Head(_))));
        for part in found.parts {
            self.shelve(part);
        }
        for (id, len) in &found.catalogs {
            self.shelf
                .keep_catalog(*id, CatalogForm::File, file_cost(*len), None);
        }
        if let Some(newest) = newest {
            self.resume(newest, &*disk, &mut found.opened)?;
        }
        if self.head.is_new() {
            let id = self.next_id;
            self.catalog = Arc::new(Catalog::new(id));
            self.catalog_log = Log::new(FileKind::Catalog, id, id);
            self.head = Log::new(FileKind::Head, id, id);
            self.next_id += 1;
        }
        self.shelf.drop_unneeded_catalogs(Some(&*disk));
        if self.make_room(0).is_err() {
            self.start_over(&*disk);
        }
        Ok((self, found.opened))
    }

    fn shelve(&mut self, part: FoundPart) {
        let FoundPart { id, len, content } = part;
        let cost = file_cost(len);
        match content {
            Some(Content::Segment {
                catalog,
                names,
                span,
            }) => {
                self.shelf.push(
                    Part {
                        id,
                        catalog,
                        names,
                        span,
                        form: Form::File,
                    },
                    cost,
                    None,
                );
            }
            Some(Content::Head(head)) => {
                if let Some(span) = span_of(&head.tracks) {
                    let form = Form::Rows(Arc::new(head.tracks));
                    self.shelf.push(
                        Part {
                            id,
                            catalog: head.header.catalog,
                            names: head.names,
                            span,
                            form,
                        },
                        cost,
                        None,
                    );
                }
            }
            None => self.shelf.push_damaged(id, cost),
        }
    }

    /// Goes on with the newest head, or puts it on the shelf when something is wrong with it.
    fn resume(
        &mut self,
        part: FoundPart,
        disk: &dyn Disk,
        opened: &mut OpenReport,
    ) -> Result<(), Failure> {
        let Some(Content::Head(head)) = &part.content else {
            return Ok(());
        };
        let id = head.header.catalog;
        let (catalog, good, damage) = match read_whole(disk, &FileKind::Catalog.name(id)) {
            Ok(bytes) => Catalog::read(id, &bytes),
            Err(error) => (Catalog::new(id), 0, Some(unreadable(id, &error))),
        };
        let is_cut = |damage: &Option<Damage>| {
            damage
                .as_ref()
                .is_none_or(|damage| damage.kind == DamageKind::Cut)
        };
        let lives = self.lives_of(&catalog, head);
        let short = catalog.blocks() < head.names;
        let good_enough = good > 0 && is_cut(&damage) && !short && is_cut(&head.damage);
        let (true, Some(lives)) = (good_enough, lives) else {
            let short = short.then(|| cut(FileKind::Catalog.name(id), good));
            if let Some(damage) = damage
                .filter(|damage| damage.kind != DamageKind::Cut)
                .or(short)
                && opened.damage.iter().all(|known| known.file != damage.file)
            {
                opened.damage.push(damage);
            }
            self.shelve(part);
            return Ok(());
        };
        let FoundPart {
            id: head_id,
            content: Some(Content::Head(head)),
            ..
        } = part
        else {
            return Ok(());
        };
        let file = disk.open_to_write(&FileKind::Head.name(head_id))?;
        opened.unfinished += file.len()?.saturating_sub(head.good);
        file.set_len(head.good)?;
        let names = disk.open_to_write(&FileKind::Catalog.name(id))?;
        opened.unfinished += names.len()?.saturating_sub(good);
        names.set_len(good)?;
        self.shelf.take_catalog(id);
        self.metas = MetaIndex::new(catalog.metas());
        let catalog_header = crate::frame::Header {
            kind: FileKind::Catalog,
            id,
            catalog: id,
            knows: Knows::default(),
        };
        self.catalog_log = Log::resumed(catalog_header, names, good);
        self.catalog = Arc::new(catalog);
        self.head = Log::resumed(head.header, file, head.good);
        self.tracks = head.tracks;
        self.tracks.resize_with(lives.len(), || None);
        self.lives = lives;
        Ok(())
    }

    /// The series as the head left them. Nothing when one that is there is not defined.
    fn lives_of(&self, catalog: &Catalog, head: &Replayed) -> Option<Vec<Live>> {
        let mut lives: Vec<Live> = catalog
            .sources()
            .iter()
            .map(|name| Live::new(Arc::clone(name)))
            .collect();
        catalog.walk(|block, definition| {
            let hash = self.hasher.hash(definition.key);
            lives[definition.source as usize].restore(hash, definition.slot, block);
        });
        for (source, track) in head.tracks.iter().enumerate() {
            let Some(track) = track else { continue };
            let live = lives.get_mut(source)?;
            let last = track.times.scrapes.last()?;
            live.last = Some((last.time, last.missed));
            live.last_head = head.header.id;
            let state = &head.states[source];
            for (group, state) in state.groups.iter().enumerate() {
                let slots = bits(state.present).map(|slot| (group * GROUP + slot) as u32);
                for slot in slots {
                    live.generation(slot)?;
                }
            }
            live.resume(&state.groups, &state.stamps);
        }
        Some(lives)
    }

    /// Nothing of what was found fits the budget: it all goes.
    fn start_over(&mut self, disk: &dyn Disk) {
        self.close_head();
        while self.shelf.evict(Some(disk)) {}
        self.shelf
            .keep_catalog(self.catalog.id, CatalogForm::File, 0, None);
        let id = self.next_id;
        self.next_id += 1;
        self.catalog = Arc::new(Catalog::new(id));
        self.catalog_log = Log::new(FileKind::Catalog, id, id);
        self.head = Log::new(FileKind::Head, id, id);
        self.shelf.drop_unneeded_catalogs(Some(disk));
        self.lives.clear();
        self.tracks.clear();
        self.metas = MetaIndex::default();
    }
}
