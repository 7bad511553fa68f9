//! The window of a subscription, as the core knows it: the place up to which documents are received.

use steadfast_wire::streamer as wire;

use super::Snapshot;
use crate::{Place, Window};

/// The window of one subscription. It outlives streams.
#[derive(Debug)]
pub(super) struct WindowState {
    window: Window,
    /// The last place of which documents are received; `None` for all that match.
    bound: Option<Place>,
    /// The number of snapshots that began.
    snapshots: u64,
    /// The number of the newest snapshot of the current request, as the peer counts them.
    number: u32,
}

impl WindowState {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            bound: None,
            snapshots: 0,
            number: 0,
        }
    }

    /// Returns the window for a request that continues with what is held, or begins a snapshot.
    pub(super) fn to_wire(&self) -> wire::Window {
        wire::Window {
            bound: self.bound.as_ref().map(Place::to_wire),
            ..self.window.to_wire()
        }
    }

    /// Notes that a request was sent.
    pub(super) fn on_request(&mut self) {
        self.number = 0;
    }

    /// Notes that a snapshot begins.
    pub(super) fn begin(&mut self, bound: Option<&wire::WindowBound>, number: u32) {
        self.bound = bound.map(|bound| self.window.place_of_wire(bound));
        self.snapshots += 1;
        self.number = number;
    }

    /// Returns the item that tells the application of a beginning.
    pub(super) fn item(&self) -> Snapshot {
        Snapshot::Bound {
            number: self.snapshots,
            bound: self.bound.clone(),
        }
    }

    /// Returns whether a snapshot is the newest one.
    pub(super) fn is_newest(&self, snapshot: u64) -> bool {
        self.snapshots == snapshot
    }

    /// Moves the bound, for the application that holds a snapshot. Returns whether it moved.
    pub(super) fn narrow(&mut self, snapshot: u64, bound: Place) -> bool {
        let narrows =
            self.is_newest(snapshot) && self.bound.as_ref().is_none_or(|now| bound < *now);
        if narrows {
            self.bound = Some(bound);
        }
        narrows
    }

    /// Returns the bound, with the number that the peer gave its snapshot.
    pub(super) fn bound(&self) -> Option<(&Place, u32)> {
        Some((self.bound.as_ref()?, self.number))
    }
}
