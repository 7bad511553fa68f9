//! The parts of the record that are complete, oldest first, and the catalogs they need. What leaves
//! when room is needed leaves from here.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

use crate::{
    catalog::Catalog,
    disk::{Disk, DiskFile},
    frame::{FileKind, Log},
    part::{CatalogForm, Form, Part, Tracks},
    segment::Index,
};

/// File systems give out whole blocks; a file is counted as what it takes.
pub(crate) const FILE_BLOCK: u64 = 4 << 10;

/// What a file of this length takes.
pub(crate) fn file_cost(len: u64) -> u64 {
    len.next_multiple_of(FILE_BLOCK)
}

/// Open files.
pub(crate) type Files = Vec<Arc<dyn DiskFile>>;

/// A complete part.
#[derive(Debug)]
pub(crate) struct Shelved {
    /// None when its segment can not be understood; it is kept only until its turn to leave.
    pub(crate) part: Option<Part>,
    pub(crate) id: u64,
    pub(crate) catalog: u64,
    cost: u64,
    /// The head's file as long as it may have to be synced.
    log: Option<Log>,
    /// A segment that was written but is not durable yet.
    written: Option<WrittenSegment>,
    /// Its rows can not be sealed.
    stuck: bool,
}

#[derive(Debug)]
struct WrittenSegment {
    file: Arc<dyn DiskFile>,
    len: u64,
}

/// A catalog that is not the current one.
#[derive(Debug)]
struct KeptCatalog {
    form: CatalogForm,
    cost: u64,
    /// Its file as long as it may have to be synced.
    log: Option<Log>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    parts: VecDeque<Shelved>,
    catalogs: BTreeMap<u64, KeptCatalog>,
    /// Heads whose segment is in place; they go once the directory is durable.
    doomed: Vec<(String, u64)>,
    cost: u64,
    /// Names have changed since the directory was last synced.
    pub(crate) directory_changed: bool,
    pub(crate) evicted_parts: u64,
}

/// The name of a segment while it is written.
pub(crate) fn temporary_name(id: u64) -> String {
    format!("{}.tmp", FileKind::Segment.name(id))
}

impl Shelf {
    /// Bytes of everything on it.
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &Shelved> {
        self.parts.iter()
    }

    /// The first part that is neither sealed nor about to be.
    pub(crate) fn unsealed(&self) -> Option<&Part> {
        self.parts
            .iter()
            .filter(|shelved| shelved.written.is_none() && !shelved.stuck)
            .find_map(|shelved| {
                let part = shelved.part.as_ref()?;
                matches!(part.form, Form::Rows(_)).then_some(part)
            })
    }

    pub(crate) fn push(&mut self, part: Part, cost: u64, log: Option<Log>) {
        self.cost += cost;
        let (id, catalog) = (part.id, part.catalog);
        self.parts.push_back(Shelved {
            part: Some(part),
            id,
            catalog,
            cost,
            log,
            written: None,
            stuck: false,
        });
    }

    /// A file that can not be understood but counts.
    pub(crate) fn push_damaged(&mut self, id: u64, cost: u64) {
        self.cost += cost;
        self.parts.push_back(Shelved {
            part: None,
            id,
            catalog: 0,
            cost,
            log: None,
            written: None,
            stuck: true,
        });
    }

    pub(crate) fn keep_catalog(&mut self, id: u64, form: CatalogForm, cost: u64, log: Option<Log>) {
        self.cost += cost;
        self.catalogs.insert(id, KeptCatalog { form, cost, log });
    }

    /// The catalog is the current one: it is not the shelf's any more.
    pub(crate) fn take_catalog(&mut self, id: u64) {
        if let Some(kept) = self.catalogs.remove(&id) {
            self.cost -= kept.cost;
        }
    }

    /// Where a catalog is.
    pub(crate) fn catalog(&self, id: u64, current: &Arc<Catalog>) -> CatalogForm {
        if id == current.id {
            return CatalogForm::Memory(Arc::clone(current));
        }
        self.catalogs
            .get(&id)
            .map_or(CatalogForm::File, |kept| kept.form.clone())
    }

    /// Lets the oldest part go. False when there is none.
    pub(crate) fn evict(&mut self, disk: Option<&dyn Disk>) -> bool {
        let Some(gone) = self.parts.pop_front() else {
            return false;
        };
        self.cost -= gone.cost;
        self.evicted_parts += 1;
        if let Some(disk) = disk {
            let mut names = vec![
                FileKind::Segment.name(gone.id),
                FileKind::Head.name(gone.id),
            ];
            if let Some(written) = &gone.written {
                self.cost -= file_cost(written.len);
                names.push(temporary_name(gone.id));
            }
            for name in names {
                self.remove(disk, &name, gone.cost);
            }
        }
        self.drop_unneeded_catalogs(disk);
        true
    }

    /// Drops the catalogs that no part needs.
    pub(crate) fn drop_unneeded_catalogs(&mut self, disk: Option<&dyn Disk>) {
        let needed = |id: &u64| self.parts.iter().any(|shelved| shelved.catalog == *id);
        let unneeded: Vec<u64> = self
            .catalogs
            .keys()
            .filter(|id| !needed(id))
            .copied()
            .collect();
        for id in unneeded {
            let Some(kept) = self.catalogs.remove(&id) else {
                continue;
            };
            self.cost -= kept.cost;
            if let Some(disk) = disk {
                self.remove(disk, &FileKind::Catalog.name(id), kept.cost);
            }
        }
    }

    /// Removes a file, of which `cost` is not counted any more.
    fn remove(&mut self, disk: &dyn Disk, name: &str, cost: u64) {
        if let Some(at) = self.doomed.iter().position(|(doomed, _)| doomed == name) {
            self.cost -= self.doomed.swap_remove(at).1;
        }
        match disk.remove(name) {
            Ok(()) => self.directory_changed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It still takes its room, and the next sync tries again.
            Err(_) => {
                self.cost += cost;
                self.doomed.push((name.to_owned(), cost));
            }
        }
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.parts.iter().position(|shelved| shelved.id == id)
    }

    /// A part is sealed, in memory.
    pub(crate) fn seal_in_memory(&mut self, id: u64, bytes: Vec<u8>, index: Index) {
        let Some(at) = self.position(id) else { return };
        let shelved = &mut self.parts[at];
        if let Some(part) = &mut shelved.part {
            self.cost = self.cost - shelved.cost + bytes.len() as u64;
            shelved.cost = bytes.len() as u64;
            part.form = Form::Memory(Arc::new(bytes), Arc::new(index));
        }
    }

    /// A part's segment is written under its temporary name. False when the part is gone.
    pub(crate) fn written(&mut self, id: u64, file: Arc<dyn DiskFile>, len: u64) -> bool {
        let Some(at) = self.position(id) else {
            return false;
        };
        self.cost += file_cost(len);
        self.parts[at].written = Some(WrittenSegment { file, len });
        true
    }

    pub(crate) fn holds(&self, id: u64) -> bool {
        self.position(id).is_some()
    }

    /// The part's rows can not be sealed; they stay as they are.
    pub(crate) fn give_up(&mut self, id: u64) {
        if let Some(at) = self.position(id) {
            self.parts[at].stuck = true;
        }
    }

    /// Files of catalogs and heads that were written since they were last taken, in this order.
    pub(crate) fn take_unsynced(&mut self) -> (Files, Files) {
        let take = |log: &mut Option<Log>| log.take().and_then(|mut log| log.take_unsynced());
        let catalogs = self
            .catalogs
            .values_mut()
            .filter_map(|kept| take(&mut kept.log))
            .collect();
        let heads = self
            .parts
            .iter_mut()
            .filter_map(|shelved| take(&mut shelved.log))
            .collect();
        (catalogs, heads)
    }

    /// Files of segments that are written but not durable.
    pub(crate) fn unsynced(&self) -> Vec<(u64, Arc<dyn DiskFile>)> {
        let written = self
            .parts
            .iter()
            .filter_map(|shelved| Some((shelved.id, shelved.written.as_ref()?)));
        written
            .map(|(id, written)| (id, Arc::clone(&written.file)))
            .collect()
    }

    /// The temporary file of a part is durable: it takes the head's place.
    pub(crate) fn durable(&mut self, id: u64, disk: &dyn Disk) -> io::Result<()> {
        let Some(at) = self.position(id) else {
            return Ok(());
        };
        let Some(len) = self.parts[at].written.as_ref().map(|written| written.len) else {
            return Ok(());
        };
        disk.rename(&temporary_name(id), &FileKind::Segment.name(id))?;
        self.directory_changed = true;
        let shelved = &mut self.parts[at];
        shelved.written = None;
        self.doomed.push((FileKind::Head.name(id), shelved.cost));
        shelved.cost = file_cost(len);
        if let Some(part) = &mut shelved.part {
            part.form = Form::File;
        }
        Ok(())
    }

    /// The temporary file of a part is in doubt: it is made again.
    pub(crate) fn discard_written(&mut self, id: u64, disk: &dyn Disk) {
        let Some(at) = self.position(id) else { return };
        if let Some(written) = self.parts[at].written.take() {
            let cost = file_cost(written.len);
            self.cost -= cost;
            self.remove(disk, &temporary_name(id), cost);
        }
    }

    /// What may be removed once the directory is durable.
    pub(crate) fn doomed(&self) -> Vec<String> {
        self.doomed.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn bury(&mut self, names: &[String], disk: &dyn Disk) {
        for name in names {
            if let Some((_, cost)) = self.doomed.iter().find(|(doomed, _)| doomed == name) {
                self.remove(disk, name, *cost);
            }
        }
    }

    /// Rows of parts that are not sealed: bytes in memory beside the files.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Arc<Tracks>> {
        self.parts
            .iter()
            .filter_map(|shelved| match &shelved.part.as_ref()?.form {
                Form::Rows(tracks) => Some(tracks),
                Form::Memory(..) | Form::File => None,
            })
    }
}
