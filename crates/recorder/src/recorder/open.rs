//! Opening a directory: to go on with the record, or only to read it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, TryLockError},
    io,
    path::Path,
    sync::Arc,
};

use super::Recorder;
use crate::{
    catalog::{Catalog, MetaIndex, unreadable},
    disk::{Directory, Disk, read_whole},
    error::{Damage, DamageKind, OpenError},
    frame::{FileKind, Knows, Log},
    live::Live,
    options::Options,
    part::{CatalogForm, Form, Part, span_of},
    reader::{Reader, Snapshot},
    replay::{Replayed, read_head},
    rows::{GROUP, bits},
    segment::Segment,
    shelf::file_cost,
};

/// What was found in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
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

const LOCK: &str = "lock";

/// How often a directory is read again because files left while it was read.
const TRIES: usize = 16;

/// The files of a record, read.
#[derive(Debug, Default)]
struct Found {
    opened: Opened,
    parts: Vec<FoundPart>,
    catalogs: BTreeMap<u64, u64>,
    /// Files of no use any more.
    leftovers: Vec<String>,
    greatest: u64,
    /// A file left between listing and opening.
    moved: bool,
}

#[derive(Debug)]
struct FoundPart {
    id: u64,
    len: u64,
    content: Option<Content>,
}

#[derive(Debug)]
enum Content {
    Segment {
        catalog: u64,
        names: u64,
        span: (i64, i64),
    },
    Head(Replayed),
}

impl Recorder {
    /// Opens the record in `dir`, which is made if it is not there, and goes on with it: every scrape
    /// that was committed is there, whatever ended the process that wrote it. Damage is told and
    /// costs what is damaged.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Opened), OpenError> {
        let failed = |error| OpenError::Io {
            path: dir.to_owned(),
            error,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked {
                    path: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let disk: Arc<dyn Disk> = Arc::new(Directory::new(dir));
        let recorder = Self::new(options, Some(disk), Some(lock))?;
        recorder.restored().map_err(|error| error.at(dir))
    }

    #[cfg(test)]
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
    ) -> Result<(Self, Opened), OpenError> {
        let recorder = Self::new(options, Some(disk), None)?;
        recorder
            .restored()
            .map_err(|error| error.at(Path::new("disk")))
    }

    /// Takes in what the disk has.
    fn restored(mut self) -> Result<(Self, Opened), Failure> {
        let Some(disk) = self.disk.clone() else {
            return Ok((self, Opened::default()));
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
        opened: &mut Opened,
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

/// What ends opening; the path is known one level up.
#[derive(Debug)]
enum Failure {
    Io(io::Error),
    Version { file: String, version: u8 },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    fn at(self, path: &Path) -> OpenError {
        match self {
            Self::Io(error) => OpenError::Io {
                path: path.to_owned(),
                error,
            },
            Self::Version { file, version } => OpenError::Version { file, version },
        }
    }
}

impl Found {
    fn read(disk: &dyn Disk) -> Result<Self, Failure> {
        let mut found = Self::default();
        let (mut heads, mut segments) = (BTreeMap::new(), BTreeMap::new());
        for (name, len) in disk.list()? {
            if let Some((kind, id)) = FileKind::parse(&name) {
                found.greatest = found.greatest.max(id);
                match kind {
                    FileKind::Catalog => found.catalogs.insert(id, len),
                    FileKind::Head => heads.insert(id, len),
                    FileKind::Segment => segments.insert(id, len),
                };
            } else if name
                .strip_suffix(".tmp")
                .and_then(FileKind::parse)
                .is_some()
            {
                found.leftovers.push(name);
            }
        }
        for (id, len) in segments {
            found.read_segment(id, len, disk, &mut heads)?;
        }
        let newest = heads
            .keys()
            .chain(found.parts.iter().map(|part| &part.id))
            .max()
            .copied();
        for (id, len) in heads {
            found.read_head(id, len, disk, newest == Some(id))?;
        }
        found.parts.sort_by_key(|part| part.id);
        found.compare_heads();
        found.sum_up();
        Ok(found)
    }

    fn read_segment(
        &mut self,
        id: u64,
        len: u64,
        disk: &dyn Disk,
        heads: &mut BTreeMap<u64, u64>,
    ) -> Result<(), Failure> {
        let content = match Segment::open_file(id, disk) {
            Ok(segment) => {
                if heads.remove(&id).is_some() {
                    self.leftovers.push(FileKind::Head.name(id));
                }
                let spans = segment.index.sections.iter().map(|section| section.span);
                let span = spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
                let (catalog, names) = (segment.index.catalog, segment.index.names);
                span.map(|span| Content::Segment {
                    catalog,
                    names,
                    span,
                })
            }
            Err(damage) => {
                self.note(damage)?;
                if heads.contains_key(&id) {
                    self.leftovers.push(FileKind::Segment.name(id));
                    return Ok(());
                }
                None
            }
        };
        self.parts.push(FoundPart { id, len, content });
        Ok(())
    }

    fn read_head(
        &mut self,
        id: u64,
        len: u64,
        disk: &dyn Disk,
        newest: bool,
    ) -> Result<(), Failure> {
        let name = FileKind::Head.name(id);
        let bytes = match read_whole(disk, &name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.moved = true;
                return Ok(());
            }
            Err(error) => {
                let kind = DamageKind::Unreadable(error.kind());
                self.note(Damage {
                    file: name,
                    offset: 0,
                    kind,
                })?;
                self.parts.push(FoundPart {
                    id,
                    len,
                    content: None,
                });
                return Ok(());
            }
        };
        let is_cut = |damage: &Damage| damage.kind == DamageKind::Cut;
        let head = match read_head(id, &bytes) {
            Ok(head) => head,
            // A header that was not written whole: nothing was committed to this head.
            Err(damage) if newest && is_cut(&damage) => {
                self.opened.unfinished += len;
                self.leftovers.push(name);
                return Ok(());
            }
            Err(damage) => {
                self.note(damage)?;
                self.parts.push(FoundPart {
                    id,
                    len,
                    content: None,
                });
                return Ok(());
            }
        };
        // Only the newest may have been cut short by what ended its process.
        let unfinished = newest && head.damage.as_ref().is_none_or(is_cut);
        if unfinished && span_of(&head.tracks).is_none() {
            self.opened.unfinished += len;
            self.leftovers.push(name);
            return Ok(());
        }
        if !unfinished && let Some(damage) = &head.damage {
            self.note(damage.clone())?;
        }
        self.parts.push(FoundPart {
            id,
            len,
            content: Some(Content::Head(head)),
        });
        Ok(())
    }

    /// A head knows how long the one before it was.
    fn compare_heads(&mut self) {
        let heads = self.parts.iter().filter_map(|part| match &part.content {
            Some(Content::Head(head)) => Some((part.id, head)),
            Some(Content::Segment { .. }) | None => None,
        });
        let lengths: BTreeMap<u64, u64> = heads.clone().map(|(id, head)| (id, head.good)).collect();
        let short = heads.filter_map(|(_, head)| {
            let knows = head.header.knows;
            let good = *lengths.get(&knows.head)?;
            (good < knows.extent).then(|| cut(FileKind::Head.name(knows.head), good))
        });
        let short: Vec<Damage> = short.collect();
        for damage in short {
            if self
                .opened
                .damage
                .iter()
                .all(|known| known.file != damage.file)
            {
                self.opened.damage.push(damage);
            }
        }
    }

    fn note(&mut self, damage: Damage) -> Result<(), Failure> {
        match damage.kind {
            DamageKind::Version(version) => {
                return Err(Failure::Version {
                    file: damage.file,
                    version,
                });
            }
            DamageKind::Missing => self.moved = true,
            DamageKind::Cut
            | DamageKind::Checksum
            | DamageKind::Malformed
            | DamageKind::Misplaced
            | DamageKind::Unreadable(_) => self.opened.damage.push(damage),
        }
        Ok(())
    }

    /// What there is; and which catalogs are not there, or not needed.
    fn sum_up(&mut self) {
        self.opened.parts = self.parts.len();
        let mut missing = Vec::new();
        for part in &self.parts {
            let Some(content) = &part.content else {
                continue;
            };
            let (catalog, span) = match content {
                Content::Segment { catalog, span, .. } => (*catalog, Some(*span)),
                Content::Head(head) => (head.header.catalog, span_of(&head.tracks)),
            };
            if let Some((least, most)) = span {
                self.opened.oldest =
                    Some(self.opened.oldest.map_or(least, |oldest| oldest.min(least)));
                self.opened.newest =
                    Some(self.opened.newest.map_or(most, |newest| newest.max(most)));
            }
            if !self.catalogs.contains_key(&catalog) && !missing.contains(&catalog) {
                missing.push(catalog);
            }
        }
        for id in missing {
            let kind = DamageKind::Missing;
            self.opened.damage.push(Damage {
                file: FileKind::Catalog.name(id),
                offset: 0,
                kind,
            });
        }
    }
}

/// The damage of a file that ends too early.
pub(crate) fn cut(file: String, offset: u64) -> Damage {
    Damage {
        file,
        offset,
        kind: DamageKind::Cut,
    }
}

/// Opens the record in `dir` to read it, also while a recorder writes to it: what is committed by
/// then is seen, and nothing is changed.
pub fn open_read_only(dir: &Path) -> Result<(Reader, Opened), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(dir));
    read_only(&disk).map_err(|failure| failure.at(dir))
}

fn read_only(disk: &Arc<dyn Disk>) -> Result<(Reader, Opened), Failure> {
    let mut found = Found::read(&**disk)?;
    for _ in 1..TRIES {
        if !found.moved {
            break;
        }
        found = Found::read(&**disk)?;
    }
    let mut snapshot = Snapshot {
        disk: Some(Arc::clone(disk)),
        ..Snapshot::default()
    };
    for part in found.parts {
        let (catalog, names, span, form) = match part.content {
            Some(Content::Segment {
                catalog,
                names,
                span,
            }) => (catalog, names, span, Form::File),
            Some(Content::Head(head)) => {
                let Some(span) = span_of(&head.tracks) else {
                    continue;
                };
                found.opened.unfinished += part.len.saturating_sub(head.good);
                (
                    head.header.catalog,
                    head.names,
                    span,
                    Form::Rows(Arc::new(head.tracks)),
                )
            }
            None => continue,
        };
        if snapshot
            .catalogs
            .last()
            .is_none_or(|(id, _)| *id != catalog)
        {
            snapshot.catalogs.push((catalog, CatalogForm::File));
        }
        snapshot.parts.push(Part {
            id: part.id,
            catalog,
            names,
            span,
            form,
        });
    }
    snapshot.damage.clone_from(&found.opened.damage);
    Ok((Reader::new(snapshot), found.opened))
}

#[cfg(test)]
pub(crate) fn read_only_on(disk: &Arc<dyn Disk>) -> Result<(Reader, Opened), OpenError> {
    read_only(disk).map_err(|failure| failure.at(Path::new("disk")))
}
