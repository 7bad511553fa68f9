//! The subscriptions of a socket.

use std::task::{Context, Poll};

use crate::{machine::Key, rights::Peer, shared::Counted, subscription::Event, upstream::Handle};

/// The subscriptions of a socket, of which each has its turn.
#[derive(Debug, Default)]
pub(super) struct Slots {
    all: Vec<Slot>,
    /// The slot that is polled first, so that none waits for ever.
    turn: usize,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    handle: Handle,
    is_paused: bool,
    _counted: Counted,
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn add(&mut self, key: Key, handle: Handle, counted: Counted) {
        self.all.push(Slot {
            key,
            handle,
            is_paused: false,
            _counted: counted,
        });
    }

    pub(super) fn pause(&mut self, key: Key, is_paused: bool) {
        if let Some(slot) = self.all.iter_mut().find(|slot| slot.key == key) {
            slot.is_paused = is_paused;
        }
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.all.retain(|slot| slot.key != key);
    }

    pub(super) fn clear(&mut self) {
        self.all = Vec::new();
    }

    pub(super) fn apply_rights(&mut self, peer: &Peer) {
        for slot in &mut self.all {
            slot.handle.apply_rights(peer);
        }
    }

    /// Polls for the next event of a subscription. One that has ended is removed.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Key, Event)> {
        for step in 0..self.all.len() {
            let index = (self.turn + step) % self.all.len();
            let slot = &mut self.all[index];
            if slot.is_paused {
                continue;
            }
            if let Poll::Ready(event) = slot.handle.poll_next(cx) {
                let key = slot.key;
                self.turn = index + 1;
                if matches!(event, Event::Ended(_)) {
                    self.remove(key);
                }
                return Poll::Ready((key, event));
            }
        }
        Poll::Pending
    }
}
