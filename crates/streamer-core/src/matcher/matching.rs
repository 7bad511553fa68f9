//! The matching of one event, in slices.

use std::hint::black_box;

use super::{
    CostProfile, Matcher, SubscriptionKey,
    collection::{Candidates, Collection},
    condition::Conditions,
    ids::Entry,
    lists::Lists,
    values::Values,
};
use crate::{
    Event,
    filter::{InvalidDocument, Op, Operand, holds},
};

/// The matching of one event, between its first and its last candidate.
///
/// Subscriptions may be inserted and removed between two slices. What is found then can name a
/// subscription that is gone, or one that was inserted after the event: whoever delivers looks at
/// where the subscription began. A subscription that stays is found exactly once.
///
/// The memory of a matching that is complete serves the next event: [`start`](Self::start) again.
#[derive(Debug, Default)]
pub struct Matching {
    collection: Option<(usize, u64)>,
    unconditional: Vec<SubscriptionKey>,
    values: Values,
    candidates: Candidates,
    next: usize,
    /// Memory to sort in.
    merged: Vec<SubscriptionKey>,
    lists: Lists,
    fault: Option<InvalidDocument>,
}

/// Subscriptions that are copied for the cost of one candidate. Copying one takes some 2 ns, and
/// evaluating a candidate some 30 ns.
pub(crate) const COPIES_PER_COST: usize = 16;

/// Candidates that are read ahead of their evaluation.
const AHEAD: usize = 16;

impl Matching {
    /// Creates a matching that finds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the last event and looks up the candidates of another one. No condition is evaluated
    /// yet.
    pub fn start(&mut self, matcher: &Matcher, event: &Event) {
        self.unconditional.clear();
        self.candidates.groups.clear();
        self.candidates.differences.clear();
        self.candidates.listed = 0;
        self.next = 0;
        self.lists.clear();
        self.fault = None;
        let found = matcher.collection(&event.database, &event.collection);
        // The serial number tells this collection from a later one at the same index.
        self.collection = found.map(|(index, collection)| (index, collection.serial));
        let Some((_, collection)) = found else {
            return;
        };
        collection.unconditional(&event.document_id, &mut self.unconditional);
        // Without filters no event is read, so that its data may be anything.
        if !collection.groups.is_empty() {
            match collection.fields.read(event, &mut self.values) {
                Ok(()) => collection.candidates(&self.values, &mut self.candidates),
                Err(fault) => self.fault = Some(fault),
            }
        }
    }

    /// Evaluates candidates until none is left or the budget is used up, appends the subscriptions
    /// found, and returns whether it is done. At least one candidate is evaluated.
    ///
    /// The budget counts candidates, conditions and elements of lists, never time, so that a run can
    /// be replayed. It is reduced by what was used, and `profile` learns which filters used it.
    pub fn run(
        &mut self,
        matcher: &Matcher,
        budget: &mut u64,
        profile: &mut CostProfile,
        out: &mut Vec<SubscriptionKey>,
    ) -> bool {
        self.take_unconditional(out);
        let collection = self.collection.and_then(|(index, serial)| {
            let collection = matcher.collections.get(index)?;
            // Of a collection that is gone, no subscription is left to be found.
            (collection.serial == serial).then_some((index, collection))
        });
        let Some((index, collection)) = collection else {
            return true;
        };
        let mut used = 0;
        while let Some(difference) = self.candidates.differences.last_mut() {
            // The first one is processed with any budget; a caller with a budget of 0 still comes
            // to an end.
            if used > 0 && used >= *budget {
                break;
            }
            let max = (*budget - used).saturating_mul(COPIES_PER_COST as u64);
            // At least 1, or an empty budget would copy nothing and never end.
            let max = usize::try_from(max).unwrap_or(usize::MAX).max(1);
            let mut left = max;
            if collection.differing(difference, &mut left, out) {
                self.candidates.differences.pop();
            }
            used += 1 + ((max - left) / COPIES_PER_COST) as u64;
        }
        while let Some(&candidate) = self.candidates.groups.get(self.next) {
            if used > 0 && used >= *budget {
                break;
            }
            // Once per 16 candidates, so that each is read ahead once.
            if self.next.is_multiple_of(AHEAD) {
                let ahead = &self.candidates.groups[self.next..];
                touch(collection, &ahead[..ahead.len().min(AHEAD)]);
            }
            self.next += 1;
            let before = used;
            used += 1;
            // It may be gone since the candidates were looked up.
            let Some(group) = collection.groups.get(candidate.group().index()) else {
                continue;
            };
            // A group at this index may be another one by now; `is_sole` then names subscriptions
            // that are newer than the event, which the caller leaves out.
            let satisfied = candidate.is_sole()
                || all_hold(
                    collection,
                    &group.conditions,
                    &self.values,
                    &mut self.lists,
                    &mut used,
                );
            if satisfied {
                let length = out.len();
                group.members.append_to(out);
                used += ((out.len() - length) / COPIES_PER_COST) as u64;
            }
            let at = (index, collection);
            profile.charge(used - before, at, candidate.group(), satisfied);
        }
        *budget = budget.saturating_sub(used);
        self.is_done()
    }

    /// Evaluates all candidates and appends the subscriptions found: those of the document, those of the
    /// whole collection, then those with other filters; each kind in the order of keys.
    pub fn finish(&mut self, matcher: &Matcher, out: &mut Vec<SubscriptionKey>) {
        self.take_unconditional(out);
        let filtered = out.len();
        let mut unlimited = u64::MAX;
        self.run(
            matcher,
            &mut unlimited,
            &mut CostProfile::without_samples(),
            out,
        );
        self.sort(&mut out[filtered..]);
    }

    fn is_done(&self) -> bool {
        self.candidates.differences.is_empty() && self.next == self.candidates.groups.len()
    }

    /// Sorts what [`run`](Self::run) appended.
    pub(crate) fn sort(&mut self, keys: &mut [SubscriptionKey]) {
        // A long list of subscriptions comes first, in order. The rest is a part of it.
        let run = keys
            .windows(2)
            .take_while(|pair| pair[0] <= pair[1])
            .count()
            + 1;
        if run >= keys.len() {
            return;
        }
        // Merging pays only if a good part is in order already.
        if run < keys.len() / 4 {
            keys.sort_unstable();
            return;
        }
        let rest = &mut keys[run..];
        rest.sort_unstable();
        self.merged.clear();
        self.merged.extend_from_slice(rest);
        // From the back, so that the run is moved within its own memory.
        let mut left = run;
        for at in (0..keys.len()).rev() {
            let Some(&last) = self.merged.last() else {
                return;
            };
            if left > 0 && keys[left - 1] > last {
                left -= 1;
                keys[at] = keys[left];
            } else {
                keys[at] = last;
                self.merged.pop();
            }
        }
    }

    /// Appends the subscriptions that need no evaluation, once. [`run`](Self::run) does this first.
    pub(crate) fn take_unconditional(&mut self, out: &mut Vec<SubscriptionKey>) {
        out.append(&mut self.unconditional);
    }

    /// Returns the number of candidates, evaluated or not.
    #[must_use]
    pub fn candidates(&self) -> usize {
        self.candidates.groups.len() + self.candidates.listed
    }

    /// Returns the reason why the data could not be looked into. Then no subscription with
    /// conditions is found.
    #[must_use]
    pub fn fault(&self) -> Option<&InvalidDocument> {
        self.fault.as_ref()
    }

    pub(super) fn into_fault(self) -> Option<InvalidDocument> {
        self.fault
    }
}

/// Reads a byte of what each candidate is evaluated with. Groups lie far apart, and a processor waits for
/// several of them at once only if it finds the reads close together.
fn touch(collection: &Collection, candidates: &[Entry]) {
    let read = |candidate: &Entry| {
        let group = collection.groups.get(candidate.group().index())?;
        Some(group.conditions.first_byte())
    };
    let bytes = candidates.iter().filter_map(read);
    black_box(bytes.fold(0, |all, byte: u8| all ^ byte));
}

fn all_hold(
    collection: &Collection,
    conditions: &Conditions,
    values: &Values,
    lists: &mut Lists,
    used: &mut u64,
) -> bool {
    conditions.iter().all(|condition| {
        let field = condition.field;
        let Some(value) = values.get(field) else {
            return false;
        };
        // Not for an absent field, which is found without looking at a value.
        *used += 1;
        // A list of the document may be long, and many conditions may ask for its elements.
        if condition.op == Op::Contains && value.is_list() {
            let hasher = &collection.hasher;
            return lists.contains(values, (field, value), condition.value, hasher, used);
        }
        if let Operand::List(elements) = condition.value {
            // An `in` is evaluated element by element, up to 1,000 by default.
            *used += elements.len() as u64;
        }
        holds(condition.op, condition.value, value)
    })
}
