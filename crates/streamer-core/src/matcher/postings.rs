//! Groups by a value that a field must equal or contain.

use std::collections::BTreeSet;

use foldhash::quality::FixedState;

use super::{
    condition::{Kind, Scalar},
    group::Group,
    ids::{Entry, FieldId},
};
use crate::{arena::Arena, index_table::IndexTable};

/// Finds the groups that ask for a value by its hash, then by comparing the value with those of the
/// groups that need no further evaluation.
#[derive(Debug)]
pub(super) struct Postings {
    /// For each hash a group, or with the bit [`LISTED`] the index of a list of at least two: nearly always those
    /// that ask for one value of one field. The value stands in their conditions.
    table: IndexTable,
    lists: Arena<List>,
    hasher: FixedState,
}

/// The groups of a posting that has, or had, several.
#[derive(Debug)]
struct List {
    entries: BTreeSet<Entry>,
    /// Different values have this hash, so that one group does not speak for all.
    mixed: bool,
}

/// A bit that no entry has.
const LISTED: u32 = Entry::UNUSED;

impl Postings {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            table: IndexTable::default(),
            lists: Arena::new(),
            hasher,
        }
    }

    /// Returns the number of hashes.
    #[cfg(test)]
    pub(super) fn hashes(&self) -> usize {
        self.table.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.len() == 0 && self.lists.is_empty()
    }

    /// Returns the number of groups that ask for the value; a few more if others have its hash.
    pub(super) fn len(&self, field: FieldId, kind: Kind, value: &Scalar<'_>) -> usize {
        let posting = self.find(field, kind, value);
        posting.map_or(0, |posting| {
            self.list(posting).map_or(1, |list| list.entries.len())
        })
    }

    /// Appends the groups that ask for the value. A lone group of the value's hash is appended as one whose
    /// conditions must be evaluated: comparing the value here would wait for the group's memory, before
    /// those of other candidates are read ahead.
    pub(super) fn candidates(
        &self,
        field: FieldId,
        kind: Kind,
        value: &Scalar<'_>,
        groups: &Arena<Group>,
        out: &mut Vec<Entry>,
    ) {
        if let Some(posting) = self.find(field, kind, value) {
            let asks = |entry| asks(entry, field, kind, value, groups);
            match self.list(posting) {
                // A sole entry is not evaluated, and here nothing else shows which value it asks for.
                Some(list) if list.mixed => {
                    out.extend(list.entries.iter().filter(|it| !it.is_sole() || asks(**it)));
                }
                Some(list) if list.entries.first().is_some_and(|first| asks(*first)) => {
                    out.extend(&list.entries);
                }
                Some(_) => {}
                None => out.push(Entry::of_bits(posting).uncertain()),
            }
        }
    }

    /// Returns the one group that asks for the value. Groups that have no other condition are equal if
    /// they ask for the same value, and equal groups are one.
    pub(super) fn only(
        &self,
        field: FieldId,
        kind: Kind,
        value: &Scalar<'_>,
        groups: &Arena<Group>,
    ) -> Option<Entry> {
        let posting = self.find(field, kind, value)?;
        let asks = |entry: &Entry| asks(*entry, field, kind, value, groups);
        match self.list(posting) {
            Some(list) => list.entries.iter().copied().find(asks),
            None => Some(Entry::of_bits(posting)).filter(asks),
        }
    }

    /// Lists a group under a value of one of its conditions.
    pub(super) fn insert(
        &mut self,
        field: FieldId,
        kind: Kind,
        value: &Scalar<'_>,
        entry: Entry,
        groups: &Arena<Group>,
    ) {
        let hash = value.hash(field, kind, &self.hasher);
        let Some(posting) = self.table.find_mut(hash, |_| true) else {
            self.table.insert(hash, entry.bits());
            return;
        };
        let lists = &mut self.lists;
        let known = first(*posting, lists);
        let other = known.is_none_or(|known| !asks(known, field, kind, value, groups));
        if let Some(list) = list_index(*posting).and_then(|at| lists.get_mut(at)) {
            // A group that is there already asks for two values of this hash.
            list.mixed |= !list.entries.insert(entry) || other;
        } else {
            let one = Entry::of_bits(*posting);
            let list = List {
                entries: BTreeSet::from([one, entry]),
                mixed: one == entry || other,
            };
            // There are fewer lists than groups.
            *posting = LISTED | lists.insert(list) as u32;
        }
    }

    /// Undoes [`insert`](Self::insert).
    pub(super) fn remove(&mut self, field: FieldId, kind: Kind, value: &Scalar<'_>, entry: Entry) {
        let hash = value.hash(field, kind, &self.hasher);
        let lists = &mut self.lists;
        let Some(posting) = self.table.find_mut(hash, |_| true) else {
            return;
        };
        let is_last = match list_index(*posting) {
            None => *posting == entry.bits(),
            Some(at) => {
                let Some(list) = lists.get_mut(at) else {
                    return;
                };
                list.entries.remove(&entry);
                match (list.entries.len(), list.entries.first()) {
                    (1, Some(&rest)) if !list.mixed => {
                        *posting = rest.bits();
                        lists.remove(at);
                        false
                    }
                    (0, _) => lists.remove(at).is_some(),
                    _ => false,
                }
            }
        };
        if is_last {
            self.table.remove(hash, |_| true);
        }
    }

    fn find(&self, field: FieldId, kind: Kind, value: &Scalar<'_>) -> Option<u32> {
        let hash = value.hash(field, kind, &self.hasher);
        self.table.find(hash, |_| true)
    }

    fn list(&self, posting: u32) -> Option<&List> {
        self.lists.get(list_index(posting)?)
    }
}

/// Returns the index of the list that a posting is, `None` if it is one group.
fn list_index(posting: u32) -> Option<usize> {
    (posting & LISTED != 0).then_some((posting & !LISTED) as usize)
}

fn first(posting: u32, lists: &Arena<List>) -> Option<Entry> {
    match list_index(posting) {
        Some(at) => lists.get(at)?.entries.first().copied(),
        None => Some(Entry::of_bits(posting)),
    }
}

/// Returns whether a group asks for the value.
fn asks(
    entry: Entry,
    field: FieldId,
    kind: Kind,
    value: &Scalar<'_>,
    groups: &Arena<Group>,
) -> bool {
    let group = groups.get(entry.group().index());
    group.is_some_and(|group| {
        group.conditions.iter().any(|condition| {
            // A group may ask for several values of a field; any of them may be the listed one.
            condition.field == field
                && Kind::of(condition.op) == kind
                && condition
                    .listed_values()
                    .is_some_and(|mut values| values.any(|listed| listed.equals(value)))
        })
    })
}
