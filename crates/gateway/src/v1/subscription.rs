//! One subscription of a socket.

use steadfast_streamer::client::{JsonLines, Projection};

use crate::machine::{Action, Actions, Key};

/// A subscription that a client asked for, from its message to its end.
#[derive(Debug)]
pub(super) struct Subscription {
    /// The id that the client chose.
    pub(super) id: Box<str>,
    pub(super) key: Key,
    pub(super) stage: Stage,
    /// The fields of documents to show; `None` for all.
    fields: Option<Box<Projection>>,
    /// The items that were sent.
    sent: u64,
    /// The items that may be sent in all; `None` without a limit.
    credit: Option<u64>,
    is_paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No server has accepted it.
    Opening,
    /// Items are sent.
    Live,
}

impl Subscription {
    pub(super) fn new(id: &str, key: Key, fields: Option<Projection>, credit: Option<u64>) -> Self {
        Self {
            id: id.into(),
            key,
            stage: Stage::Opening,
            fields: fields.map(Box::new),
            sent: 0,
            credit,
            is_paused: false,
        }
    }

    /// Notes a total of credit. A smaller one is old, or was repeated.
    pub(super) fn grant(&mut self, total: u64, out: &mut Actions) {
        // One that began without a limit has none to raise.
        self.credit = self.credit.map(|credit| credit.max(total));
        if self.is_paused && self.has_credit() {
            self.is_paused = false;
            out.push(Action::Resume(self.key));
        }
    }

    /// Stops reading items once all credit is used: what follows stays in the log.
    pub(super) fn pause_without_credit(&mut self, out: &mut Actions) {
        if !self.has_credit() {
            self.is_paused = true;
            out.push(Action::Pause(self.key));
        }
    }

    /// Sends an item.
    pub(super) fn send(
        &mut self,
        out: &mut Actions,
        write: impl FnOnce(JsonLines<'_>, &mut String),
    ) {
        debug_assert!(self.stage == Stage::Live && self.has_credit());
        self.sent += 1;
        let lines = JsonLines {
            subscription: Some(&self.id),
            fields: self.fields.as_deref(),
        };
        let mut text = String::new();
        write(lines, &mut text);
        out.send(text);
        self.pause_without_credit(out);
    }

    fn has_credit(&self) -> bool {
        self.credit.is_none_or(|credit| self.sent < credit)
    }
}
