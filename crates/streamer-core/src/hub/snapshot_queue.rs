//! The subscriptions of one stream that wait for documents of their snapshots.

use std::collections::VecDeque;

use crate::matcher::SubscriptionKey;

/// The subscriptions of one stream that need a page of documents now.
#[derive(Debug, Default)]
pub(super) struct SnapshotQueue {
    /// Some may have ended.
    pub(super) keys: VecDeque<SubscriptionKey>,
    pub(super) state: SnapshotReadState,
}

/// The part of the reads that a stream takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SnapshotReadState {
    #[default]
    Idle,
    Waiting,
    /// A page is being read or sent.
    InProgress,
}

impl SnapshotQueue {
    /// Adds a subscription that has credit for documents.
    pub(super) fn push(&mut self, key: SubscriptionKey) {
        self.keys.push_back(key);
    }

    /// Adds the subscription whose turn is not over. One that looks for the bound of its window keeps its
    /// turn, so that the places of one window at most are in memory for a stream.
    pub(super) fn push_again(&mut self, key: SubscriptionKey) {
        self.keys.push_front(key);
    }
}
