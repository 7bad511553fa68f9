//! Reading a record that somebody else may be writing.

use std::{path::Path, sync::Arc};

use super::{
    found::{Content, Failure, Found},
    open::Opened,
};
use crate::{
    disk::{Directory, Disk},
    error::OpenError,
    part::{CatalogForm, Form, Part, span_of},
    reader::{Reader, Snapshot},
};

/// How often a directory is read again because files left while it was read.
const TRIES: usize = 16;

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
