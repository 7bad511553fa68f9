//! The budget: what is used, and making room.

use super::Recorder;
use crate::{
    error::WriteError,
    labels::{Labels, Meta},
    shelf::file_cost,
};

/// Bytes a definition takes beside its labels and its help, at most.
const DEFINITION_BYTES: u64 = 24;

impl Recorder {
    /// Bytes the record has now.
    pub(super) fn used(&self) -> u64 {
        let elsewhere = self
            .sealing_elsewhere
            .as_ref()
            .map_or(0, |elsewhere| elsewhere.reserved);
        let current = if self.disk.is_some() {
            file_cost(self.head.len()) + file_cost(self.catalog_log.len())
        } else {
            self.memory()
                + self
                    .tracks
                    .iter()
                    .flatten()
                    .map(crate::track::Track::memory)
                    .sum::<u64>()
        };
        self.shelf.cost() + current + elsewhere
    }

    /// Bytes in memory beside rows.
    pub(super) fn memory(&self) -> u64 {
        let lives: u64 = self.lives.iter().map(crate::live::Live::memory).sum();
        let sealing = self
            .sealing
            .as_ref()
            .map_or(0, super::seal::Sealing::memory);
        self.catalog.memory() + lives + sealing + self.frame.capacity() as u64
    }

    /// Lets the oldest parts go until `bytes` more fit.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), WriteError> {
        while self.used() + bytes + self.slack() > self.grant.limit {
            if !self.evict() {
                return Err(WriteError::Budget { bytes });
            }
        }
        Ok(())
    }

    pub(super) fn slack(&self) -> u64 {
        if self.disk.is_some() {
            0
        } else {
            self.grant.slack()
        }
    }

    /// Lets the oldest part go. False when there is none that can.
    pub(super) fn evict(&mut self) -> bool {
        let gone = self.shelf.evict(self.disk.as_deref());
        if self
            .sealing
            .as_ref()
            .is_some_and(|sealing| !self.shelf.holds(sealing.id))
        {
            self.sealing = None;
        }
        gone
    }

    /// Whether one more series may be defined, by estimates that err on the side of the budget.
    pub(super) fn has_room_for_series(&mut self, labels: &Labels, meta: &Meta) -> bool {
        let alive = (self.alive + self.defined) as u64;
        let all = self
            .lives
            .iter()
            .map(|live| live.defined() as u64)
            .sum::<u64>()
            .max(1);
        // The dead are assumed to be as long as the others.
        let definitions = self.catalog.memory() * alive.min(all) / all;
        let new = labels.key().len() as u64 + meta.help.len() as u64 + DEFINITION_BYTES;
        let most = self.grant.definitions_max();
        // What is dead goes with the next commit, but until then all of it has to be bearable.
        let fits = alive < self.grant.series_max()
            && definitions + new <= most
            && self.catalog.memory() + new <= 2 * most;
        fits && (self.disk.is_some() || self.make_room(new + 2 * crate::live::SLOT_BYTES).is_ok())
    }
}
