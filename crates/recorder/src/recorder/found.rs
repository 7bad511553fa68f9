//! What is in a directory: its files, read and compared.

use std::{collections::BTreeMap, io, path::Path};

use super::open::OpenReport;
use crate::{
    disk::{Disk, read_whole},
    error::{Damage, DamageKind, OpenError},
    frame::FileKind,
    part::span_of,
    replay::{Replayed, read_head},
    segment::Segment,
};

/// The files of a record, read.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) opened: OpenReport,
    pub(super) parts: Vec<FoundPart>,
    pub(super) catalogs: BTreeMap<u64, u64>,
    /// Files of no use any more.
    pub(super) leftovers: Vec<String>,
    pub(super) greatest: u64,
    /// A file left between listing and opening.
    pub(super) moved: bool,
}

#[derive(Debug)]
pub(super) struct FoundPart {
    pub(super) id: u64,
    pub(super) len: u64,
    pub(super) content: Option<Content>,
}

#[derive(Debug)]
pub(super) enum Content {
    Segment {
        catalog: u64,
        names: u64,
        span: (i64, i64),
    },
    Head(Replayed),
}

/// What ends opening; the path is known one level up.
#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    Version { file: String, version: u8 },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
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

impl Found {
    pub(super) fn read(disk: &dyn Disk) -> Result<Self, Failure> {
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
