//! The order of candidates: what was tried last comes last.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The last use of each candidate that is remembered.
///
/// Every dial follows a failure, a loss or a drain, so that whatever was used last is the worst choice
/// now. With it in the last place, a drain leads elsewhere, and one with fifty addresses tries all of them
/// in turn. Where a dead candidate and a good one are all there is, the dead one is tried first again.
#[derive(Debug)]
pub(super) struct Order<K>(Mutex<Uses<K>>);

#[derive(Debug)]
struct Uses<K> {
    newest: u64,
    uses: HashMap<K, u64>,
}

/// Maximum number of candidates that are remembered.
const CAPACITY: usize = 256;

impl<K: Clone + Eq + Hash> Order<K> {
    /// Notes that `candidate` is being used.
    pub(super) fn note(&self, candidate: &K) {
        let mut state = self.state();
        state.newest += 1;
        let use_number = state.newest;
        state.uses.insert(candidate.clone(), use_number);
        if state.uses.len() > CAPACITY {
            let oldest = state.uses.iter().min_by_key(|&(_, number)| *number);
            if let Some(oldest) = oldest.map(|(candidate, _)| candidate.clone()) {
                state.uses.remove(&oldest);
            }
        }
    }

    /// Sorts the candidates by their last use, unused ones first, otherwise as they are.
    pub(super) fn sort(&self, candidates: &mut [K]) {
        let state = self.state();
        candidates.sort_by_key(|candidate| state.uses.get(candidate).copied());
    }

    fn state(&self) -> MutexGuard<'_, Uses<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Order<K> {
    fn default() -> Self {
        Self(Mutex::new(Uses {
            newest: 0,
            uses: HashMap::new(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_used_candidate_comes_last() {
        let order = Order::default();
        let sorted = |order: &Order<char>| {
            let mut candidates = ['a', 'b', 'c'];
            order.sort(&mut candidates);
            candidates
        };
        assert_eq!(sorted(&order), ['a', 'b', 'c']);
        order.note(&'a');
        assert_eq!(sorted(&order), ['b', 'c', 'a']);
        order.note(&'b');
        order.note(&'c');
        assert_eq!(sorted(&order), ['a', 'b', 'c']);
        order.note(&'a');
        order.note(&'a');
        assert_eq!(sorted(&order), ['b', 'c', 'a']);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let order = Order::default();
        (0..10 * CAPACITY).for_each(|number| order.note(&number));
        assert_eq!(order.state().uses.len(), CAPACITY);
        assert!(!order.state().uses.contains_key(&(9 * CAPACITY - 1)));
        assert!(order.state().uses.contains_key(&(9 * CAPACITY)));
    }
}
