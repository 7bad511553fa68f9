//! What a recorder is asked that shares its budget with others.

use std::sync::Arc;

use super::Recorder;
use crate::{
    frame::FileKind, live::SLOT_FRAME_BYTES, options::Grant, part::span_of, reader::Snapshot,
    track::Track,
};

/// What a recorder has, when one is looked for that can spare something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) used: u64,
    /// Time of its oldest data.
    pub(crate) oldest: Option<i64>,
    /// Whether there is a part that can leave.
    pub(crate) spares: bool,
}

impl Recorder {
    /// From now on it may have this much. It makes room with its next scrape.
    pub(crate) fn grant(&mut self, grant: Grant) {
        self.grant = grant;
    }

    pub(crate) fn claim(&self) -> Claim {
        Claim {
            used: self.used(),
            oldest: self.oldest(),
            spares: self.shelf.parts().next().is_some(),
        }
    }

    /// Bytes that a scrape of so many samples may need, with what is to be done beside it: an estimate
    /// that errs on the side of more.
    pub(crate) fn wants(&self, samples: usize) -> u64 {
        let names = self.catalog.memory();
        let unwritten = names.saturating_sub(self.catalog_log.len());
        let swollen = names > self.grant.definitions_max();
        let renewed = if swollen || self.renew || self.is_head_full() {
            names
        } else {
            0
        };
        let sealed: u64 = self.shelf.unsealed().map_or(0, |part| match &part.form {
            crate::part::Form::Rows(tracks) => tracks.iter().flatten().map(Track::memory).sum(),
            crate::part::Form::Memory(..) | crate::part::Form::File => 0,
        });
        let frame = SLOT_FRAME_BYTES * self.grant.series_max().min(samples as u64);
        // A block for each file that grows.
        let blocks = 4 * crate::shelf::FILE_BLOCK;
        unwritten + renewed + sealed + 2 * frame + blocks + self.slack()
    }

    /// Whether nothing is recorded.
    pub(crate) fn is_bare(&self) -> bool {
        self.shelf.parts().next().is_none() && span_of(&self.tracks).is_none()
    }

    /// Lets the oldest part go. False when there is none that can.
    pub(crate) fn spare(&mut self) -> bool {
        self.evict()
    }

    /// Nothing is recorded here any more: what it wrote last may leave like the rest.
    pub(crate) fn retire(&mut self) {
        if span_of(&self.tracks).is_some() {
            self.close_head();
        }
    }

    /// Removes the files of a record in which nothing is.
    pub(crate) fn remove_files(&self) -> std::io::Result<()> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        for (name, _) in disk.list()? {
            let whole = name.strip_suffix(".tmp").unwrap_or(&name);
            if FileKind::parse(whole).is_some() {
                disk.remove(&name)?;
            }
        }
        Ok(())
    }

    /// What a reader sees of it, as the record in `place`.
    pub(crate) fn snapshot_in(&self, place: &str) -> Snapshot {
        // A catalog has the sources of those before it, so that the current one has all, unless
        // opening could not go on with one.
        let known = !self.lives.is_empty() || self.shelf.parts().next().is_none();
        let sources = known.then(|| {
            self.lives
                .iter()
                .map(|live| Arc::clone(&live.name))
                .collect()
        });
        Snapshot {
            place: place.to_owned(),
            sources,
            ..self.snapshot()
        }
    }
}
