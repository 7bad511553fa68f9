//! Reading a record that somebody else may be writing.

use std::{path::Path, sync::Arc};

use super::{
    found::{Content, Failure, Found},
    open::OpenReport,
};
use crate::{
    disk::{Directory, Disk},
    error::OpenError,
    part::{CatalogForm, Form, Part, span_of},
    reader::Snapshot,
};

/// How often a directory is read again because files left while it was read.
const TRIES: usize = 16;

/// What is in the record in `dir`, which a recorder may be writing.
pub(crate) fn open_read_only_at(dir: &Path) -> Result<(Snapshot, OpenReport), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(dir));
    read_only(&disk).map_err(|failure| failure.at(dir))
}

fn read_only(disk: &Arc<dyn Disk>) -> Result<(Snapshot, OpenReport), Failure> {
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
    Ok((snapshot, found.opened))
}

#[cfg(test)]
pub(crate) fn read_only_on(
    disk: &Arc<dyn Disk>,
) -> Result<(crate::reader::Reader, OpenReport), OpenError> {
    let read = read_only(disk).map_err(|failure| failure.at(Path::new("disk")));
    read.map(|(snapshot, opened)| (crate::reader::Reader::new(snapshot), opened))
}
