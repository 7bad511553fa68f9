//! Reading a record's directory: its files, and the damage that comparing them shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use crate::{
    disk::{Disk, read_whole},
    error::{Damage, DamageKind, OpenError},
    frame::{FileKind, HEADER_BYTES, Header},
    head_file::HeadFile,
    part::{Part, PartData, span_of},
    segment::Segment,
    span::{Span, union_of},
};

/// The content of a directory when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The number of parts that the record consists of.
    pub parts: usize,
    /// The time of the oldest data in Unix milliseconds.
    pub oldest: Option<i64>,
    /// The time of the newest data in Unix milliseconds.
    pub newest: Option<i64>,
    /// Bytes at the end of the newest files that a killed process left unfinished, or that a running
    /// one is about to finish. They belong to no committed scrape.
    pub unfinished: u64,
    /// All damage found. The rest of the record can be read.
    pub damage: Vec<Damage>,
}

impl OpenReport {
    /// Adds the report of the record in `directory`.
    pub(crate) fn add(&mut self, report: Self, directory: &str) {
        self.parts += report.parts;
        self.oldest = self.oldest.into_iter().chain(report.oldest).min();
        self.newest = self.newest.max(report.newest);
        self.unfinished += report.unfinished;
        let damage = report.damage.into_iter();
        self.damage
            .extend(damage.map(|damage| damage.inside(directory)));
    }

    /// Adds damage, unless damage of the same file is known.
    pub(super) fn add_damage(&mut self, damage: Damage) {
        if self.damage.iter().all(|known| known.file != damage.file) {
            self.damage.push(damage);
        }
    }
}

/// The files of a record.
#[derive(Debug, Default)]
pub(super) struct RecoveredRecord {
    pub(super) report: OpenReport,
    /// Oldest first.
    pub(super) parts: Vec<RecoveredPart>,
    /// The length of each catalog's file.
    pub(super) catalogs: BTreeMap<u64, u64>,
    /// Files that are of no use any more.
    pub(super) leftovers: Vec<String>,
    pub(super) greatest_id: u64,
    /// A file disappeared between listing and opening: a recorder is at work.
    pub(super) is_changing: bool,
}

#[derive(Debug)]
pub(super) struct RecoveredPart {
    pub(super) id: u64,
    /// The length of the file.
    pub(super) len: u64,
    /// `None` if the file is damaged.
    pub(super) content: Option<RecoveredContent>,
}

#[derive(Debug)]
pub(super) enum RecoveredContent {
    Segment {
        record: u16,
        catalog: u64,
        catalog_blocks: u64,
        span: Span,
    },
    Head(HeadFile),
}

impl RecoveredContent {
    /// Returns the kind of the file, the record's fingerprint, and the catalog.
    fn origin(&self) -> (FileKind, u16, u64) {
        match self {
            Self::Segment {
                record, catalog, ..
            } => (FileKind::Segment, *record, *catalog),
            Self::Head(head) => (FileKind::Head, head.header.record, head.header.catalog),
        }
    }
}

impl RecoveredPart {
    /// Returns the part, or `None` if it is damaged or has no scrape.
    pub(super) fn into_part(self) -> Option<Part> {
        let content = self.content?;
        let (_, record, catalog) = content.origin();
        let (catalog_blocks, span, data) = match content {
            RecoveredContent::Segment {
                catalog_blocks,
                span,
                ..
            } => (catalog_blocks, span, PartData::File),
            RecoveredContent::Head(head) => (
                head.catalog_blocks,
                span_of(&head.rows)?,
                PartData::Rows(head.rows.into()),
            ),
        };
        Some(Part {
            id: self.id,
            record,
            catalog,
            catalog_blocks,
            span,
            data,
        })
    }
}

/// An error that ends opening. The caller knows the path.
#[derive(Debug)]
pub(super) enum RecoverError {
    Io(io::Error),
    Version { file: String, version: u8 },
}

impl From<io::Error> for RecoverError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl RecoverError {
    pub(super) fn at(self, path: &Path) -> OpenError {
        match self {
            Self::Io(error) => OpenError::Io {
                path: path.to_owned(),
                error,
            },
            Self::Version { file, version } => OpenError::Version { file, version },
        }
    }
}

impl RecoveredRecord {
    /// Reads all files of a record.
    pub(super) fn read(disk: &dyn Disk) -> Result<Self, RecoverError> {
        let mut record = Self::default();
        let (mut heads, mut segments) = (BTreeMap::new(), BTreeMap::new());
        for (name, len) in disk.list()? {
            if let Some((kind, id)) = FileKind::parse(&name) {
                // Damaged files count as well: a new file must not replace one.
                record.greatest_id = record.greatest_id.max(id);
                match kind {
                    FileKind::Catalog => record.catalogs.insert(id, len),
                    FileKind::Head => heads.insert(id, len),
                    FileKind::Segment => segments.insert(id, len),
                };
            } else if is_temporary(&name) {
                // A write that never got its final name. Foreign files are left alone.
                record.leftovers.push(name);
            }
        }
        let mut records = BTreeMap::new();
        for id in record.catalogs.keys() {
            records.insert(*id, record_of_catalog(*id, disk)?);
        }
        // Segments first: an intact one makes its head a leftover.
        for (id, len) in segments {
            record.read_segment(id, len, disk, &mut heads)?;
        }
        let ids = record.parts.iter().map(|part| &part.id);
        // A head older than a segment was closed, so that it cannot be unfinished.
        let newest = heads.keys().chain(ids).max().copied();
        for (id, len) in heads {
            record.read_head(id, len, disk, newest == Some(id))?;
        }
        // A segment keeps the id of its head, so that ids order all parts by age.
        record.parts.sort_by_key(|part| part.id);
        record.check_origins(&records);
        record.check_head_lengths();
        record.summarize();
        Ok(record)
    }

    fn push(&mut self, id: u64, len: u64, content: Option<RecoveredContent>) {
        self.parts.push(RecoveredPart { id, len, content });
    }

    fn read_segment(
        &mut self,
        id: u64,
        len: u64,
        disk: &dyn Disk,
        heads: &mut BTreeMap<u64, u64>,
    ) -> Result<(), RecoverError> {
        let content = match Segment::open_file(id, disk) {
            Ok(segment) => {
                // The process ended between the renaming of the segment and the removal of the head.
                if heads.remove(&id).is_some() {
                    self.leftovers.push(FileKind::Head.name(id));
                }
                let spans = segment.index.sections.iter().map(|section| section.span);
                union_of(spans).map(|span| RecoveredContent::Segment {
                    record: segment.index.record,
                    catalog: segment.index.catalog,
                    catalog_blocks: segment.index.catalog_blocks,
                    span,
                })
            }
            Err(damage) => {
                self.add_damage(damage)?;
                // The head has the same data, if it is still there.
                if heads.contains_key(&id) {
                    self.leftovers.push(FileKind::Segment.name(id));
                    return Ok(());
                }
                None
            }
        };
        self.push(id, len, content);
        Ok(())
    }

    fn read_head(
        &mut self,
        id: u64,
        len: u64,
        disk: &dyn Disk,
        is_newest: bool,
    ) -> Result<(), RecoverError> {
        let name = FileKind::Head.name(id);
        let read = match read_whole(disk, &name) {
            Ok(bytes) => HeadFile::read(id, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.is_changing = true;
                return Ok(());
            }
            Err(error) => Err(FileKind::Head.unreadable(id, &error)),
        };
        // Only the newest head can end in the middle of a frame without anything being lost.
        let is_unfinished = is_newest
            && match &read {
                Ok(head) => head.damage.as_ref().is_none_or(Damage::is_truncation),
                Err(damage) => damage.is_truncation(),
            };
        let has_scrape = |head: &HeadFile| span_of(&head.rows).is_some();
        // The process ended during the first commit: nothing in the file was committed.
        if is_unfinished && !read.as_ref().is_ok_and(has_scrape) {
            self.report.unfinished += len;
            self.leftovers.push(name);
            return Ok(());
        }
        match read {
            Ok(head) => {
                if !is_unfinished && let Some(damage) = &head.damage {
                    self.add_damage(damage.clone())?;
                }
                self.push(id, len, Some(RecoveredContent::Head(head)));
            }
            Err(damage) => {
                self.add_damage(damage)?;
                self.push(id, len, None);
            }
        }
        Ok(())
    }

    /// Finds parts of another record than their catalog, given the fingerprints of the catalogs. Both files
    /// may be intact, and values would be read as those of other series.
    fn check_origins(&mut self, catalogs: &BTreeMap<u64, u16>) {
        let is_own = |content: &RecoveredContent| {
            let (_, record, catalog) = content.origin();
            let expected = catalogs.get(&catalog).copied().unwrap_or_default();
            record == expected || record == 0 || expected == 0
        };
        let contents = self.parts.iter().filter_map(|part| part.content.as_ref());
        let own = contents.filter(|content| is_own(content));
        let confirmed: BTreeSet<u64> = own.map(|content| content.origin().2).collect();
        for part in &mut self.parts {
            if let Some(content) = part.content.take_if(|content| !is_own(content)) {
                let (kind, _, catalog) = content.origin();
                // If no part confirms the catalog, it is the file that was exchanged.
                let (kind, id) = if confirmed.contains(&catalog) {
                    (kind, part.id)
                } else {
                    (FileKind::Catalog, catalog)
                };
                let damage = kind.damage(id, 0, DamageKind::Misplaced);
                self.report.add_damage(damage);
            }
        }
    }

    /// Finds heads that are shorter than the head behind them says.
    fn check_head_lengths(&mut self) {
        let heads = self.parts.iter().filter_map(|part| match &part.content {
            Some(RecoveredContent::Head(head)) => Some((part.id, head)),
            Some(RecoveredContent::Segment { .. }) | None => None,
        });
        let lengths = heads.clone().map(|(id, head)| (id, head.intact_len));
        let lengths: BTreeMap<u64, u64> = lengths.collect();
        let damage = heads.filter_map(|(_, head)| {
            let (previous, extent) = (head.header.previous_head, head.header.extent);
            // A head that was sealed or evicted since has no length to compare.
            let len = *lengths.get(&previous)?;
            let damage = || FileKind::Head.damage(previous, len, DamageKind::Truncated);
            (len < extent).then(damage)
        });
        for damage in damage.collect::<Vec<_>>() {
            self.report.add_damage(damage);
        }
    }

    fn add_damage(&mut self, damage: Damage) -> Result<(), RecoverError> {
        match damage.kind {
            DamageKind::Version(version) => {
                // To go on would mean to evict, in the end, data that an older program cannot read.
                return Err(RecoverError::Version {
                    file: damage.file,
                    version,
                });
            }
            DamageKind::Missing => self.is_changing = true,
            DamageKind::Truncated
            | DamageKind::Checksum
            | DamageKind::Malformed
            | DamageKind::Misplaced
            | DamageKind::Restored(_)
            | DamageKind::Unreadable(_) => self.report.damage.push(damage),
        }
        Ok(())
    }

    /// Completes the report, and finds catalogs that are missing.
    fn summarize(&mut self) {
        self.report.parts = self.parts.len();
        let contents = self.parts.iter().filter_map(|part| part.content.as_ref());
        let needs = contents.map(|content| match content {
            RecoveredContent::Segment { catalog, span, .. } => (*catalog, Some(*span)),
            RecoveredContent::Head(head) => (head.header.catalog, span_of(&head.rows)),
        });
        let span = union_of(needs.clone().filter_map(|(_, span)| span));
        self.report.oldest = span.map(|span| span.0);
        self.report.newest = span.map(|span| span.1);
        for (catalog, _) in needs {
            // Without its catalog, the part's slots have no names.
            if !self.catalogs.contains_key(&catalog) {
                let missing = FileKind::Catalog.damage(catalog, 0, DamageKind::Missing);
                self.report.add_damage(missing);
            }
        }
    }
}

/// Returns the record's fingerprint of a catalog, 0 if it is not known. Catalogs are read when they are needed,
/// but a newer format must be noticed before anything is changed.
fn record_of_catalog(id: u64, disk: &dyn Disk) -> Result<u16, RecoverError> {
    let file = FileKind::Catalog.name(id);
    let mut header = [0; HEADER_BYTES];
    let read = disk
        .open(&file)
        .and_then(|file| file.read_at(0, &mut header));
    match read.map(|()| Header::read(&header, FileKind::Catalog, id)) {
        Ok(Ok(header)) => Ok(header.record),
        Ok(Err(DamageKind::Version(version))) => Err(RecoverError::Version { file, version }),
        // Any other damage is found, and reported, by who reads the catalog.
        Ok(Err(_)) | Err(_) => Ok(0),
    }
}

fn is_temporary(name: &str) -> bool {
    let name = name.strip_suffix(".tmp");
    name.and_then(FileKind::parse).is_some()
}
