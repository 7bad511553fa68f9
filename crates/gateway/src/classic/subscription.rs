//! One subscription of a client.

use std::sync::Arc;

use steadfast_streamer::{Item, Position, Snapshot};

use super::{
    message::{self, Subscribe},
    snapshot,
};
use crate::{
    collected::Collected,
    machine::{Actions, Key},
};

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) key: Key,
    /// The id that the client chose.
    pub(super) id: Box<str>,
    /// What was asked for, to recognise a repetition.
    pub(super) asked: Subscribe,
    pub(super) database: Arc<str>,
    pub(super) is_open: bool,
    /// Everything up to this position was passed on.
    pub(super) position: Option<Position>,
    /// The documents of a snapshot that is not whole.
    pub(super) snapshot: Option<Box<Collected>>,
    /// Its snapshot waits until that of another subscription is whole.
    pub(super) is_paused: bool,
}

impl Subscription {
    pub(super) fn held_bytes(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |it| it.bytes())
    }

    pub(super) fn on_item(&mut self, item: Item, out: &mut Actions) {
        let include_data = self.asked.include_data;
        if let Some(documents) = &mut self.snapshot
            && let Item::Change(_) | Item::Left(_) | Item::Snapshot(Snapshot::Document(_)) = item
        {
            return documents.apply(item);
        }
        match item {
            Item::Change(change) => out.send(message::event(&self.id, &change, include_data)),
            // It is no longer one of those that the client asked for, or may see.
            Item::Left(change) => out.send(message::left(&self.id, &change)),
            Item::Snapshot(Snapshot::Begin { .. }) => self.snapshot = Some(Box::default()),
            Item::Snapshot(Snapshot::End(_)) => {
                let documents = self.snapshot.take().unwrap_or_default();
                match snapshot::finish(*documents, &self.asked.query) {
                    Ok(documents) => out.send(message::snapshot(&self.id, &documents)),
                    Err(what) => {
                        let code = Some("snapshot_too_large");
                        out.send(message::error(Some(&self.id), code, what));
                    }
                }
            }
            // With a snapshot, another one follows.
            Item::Resync(resync) if resync.snapshot_follows => {}
            Item::Gap(_) | Item::Resync(_) => {
                let text = format!(
                    "changes may be missing in subscription {}; read its documents again",
                    self.id
                );
                out.send(message::error(Some(&self.id), Some("gap"), &text));
            }
            // Bounds belong to an order, which is not asked for.
            _ => {}
        }
    }
}
