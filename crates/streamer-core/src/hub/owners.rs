//! The subscriptions of each principal, over all its streams.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// The principals that have streams, each with the number of its subscriptions.
#[derive(Debug, Default)]
pub(super) struct Owners {
    totals: BTreeMap<Arc<str>, Weak<AtomicUsize>>,
    /// The number of entries at which those of principals without a stream are removed.
    sweep_at: usize,
}

/// The share of one stream in the subscriptions of its principal. Dropping it gives the share back.
#[derive(Debug)]
pub(super) struct OwnerShare {
    total: Arc<AtomicUsize>,
    own: usize,
}

/// The number of entries from which on a sweep is worth its cost.
const SWEEP_MIN: usize = 64;

impl Owners {
    /// Returns the share of a stream without subscriptions.
    pub(super) fn share(&mut self, owner: &Arc<str>) -> OwnerShare {
        let known = self.totals.get(owner).and_then(Weak::upgrade);
        let total = known.unwrap_or_else(|| {
            self.sweep();
            let total = Arc::default();
            let entry = Arc::downgrade(&total);
            self.totals.insert(Arc::clone(owner), entry);
            total
        });
        OwnerShare { total, own: 0 }
    }

    fn sweep(&mut self) {
        if self.totals.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.totals.retain(|_, total| total.strong_count() > 0);
            self.sweep_at = 2 * self.totals.len();
        }
    }
}

impl OwnerShare {
    /// Returns the subscriptions of all streams of the principal.
    pub(super) fn total(&self) -> usize {
        self.total.load(Relaxed)
    }

    pub(super) fn add(&mut self) {
        self.own += 1;
        self.total.fetch_add(1, Relaxed);
    }

    pub(super) fn remove(&mut self) {
        self.own -= 1;
        self.total.fetch_sub(1, Relaxed);
    }
}

impl Drop for OwnerShare {
    fn drop(&mut self) {
        self.total.fetch_sub(self.own, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_without_a_stream_are_forgotten() {
        let mut owners = Owners::default();
        let mut held = owners.share(&"held".into());
        held.add();
        for number in 0..10_000 {
            let mut share = owners.share(&format!("{number}").into());
            share.add();
            assert_eq!(share.total(), 1);
        }
        assert!(owners.totals.len() <= SWEEP_MIN, "{}", owners.totals.len());
        let other = owners.share(&"held".into());
        assert_eq!(other.total(), 1);
        drop(held);
        assert_eq!(other.total(), 0);
    }
}
