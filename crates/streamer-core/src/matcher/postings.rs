//! Groups by a value that a field must equal or contain.

use std::collections::BTreeSet;

use foldhash::quality::FixedState;
use hashbrown::HashTable;

use super::{
    condition::{Kind, Scalar},
    group::Group,
    ids::{Entry, FieldId},
};
use crate::arena::{Arena, is_sparse};

/// Finds the groups that ask for a value by its hash, then by comparing the value with those of the
/// groups that need no further evaluation.
#[derive(Debug)]
pub(super) struct Postings {
    table: HashTable<Posting>,
    lists: Arena<List>,
    hasher: FixedState,
}

/// The groups that ask for the values of one hash, nearly always one value of one field, in 8 bytes:
/// most values have one group, and the smaller the table, the more of it is in the caches. The value
/// stands in the conditions of the groups.
#[derive(Debug)]
struct Posting {
    hash: u32,
    /// A group, or the index of a list of at least two.
    groups: u32,
}

/// The groups of a posting that has, or had, several.
#[derive(Debug)]
struct List {
    entries: BTreeSet<Entry>,
    /// Different values have this hash, so that one group does not speak for all.
    mixed: bool,
}

/// A bit of [`Posting::groups`] that no entry has.
const LISTED: u32 = Entry::UNUSED;

impl Postings {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            table: HashTable::new(),
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
        self.table.is_empty() && self.lists.is_empty()
    }

    /// Returns the number of groups that ask for the value; a few more if others have its hash.
    pub(super) fn len(&self, field: FieldId, kind: Kind, value: &Scalar<'_>) -> usize {
        let posting = self.find(field, kind, value);
        posting.map_or(0, |posting| {
            self.list(posting).map_or(1, |list| list.entries.len())
        })
    }

    /// Appends the groups that ask for the value.
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
                None => out.extend(Some(Entry::of_bits(posting.groups)).filter(|it| asks(*it))),
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
            None => Some(Entry::of_bits(posting.groups)).filter(asks),
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
        let lists = &mut self.lists;
        if let Some(posting) = self.table.find_mut(spread(hash), |it| it.hash == hash) {
            let known = first(posting, lists);
            let other = known.is_none_or(|known| !asks(known, field, kind, value, groups));
            if let Some(list) = list_mut(posting, lists) {
                // A group that is there already asks for two values of this hash.
                list.mixed |= !list.entries.insert(entry) || other;
            } else {
                let one = Entry::of_bits(posting.groups);
                let list = List {
                    entries: BTreeSet::from([one, entry]),
                    mixed: one == entry || other,
                };
                // There are fewer lists than groups.
                posting.groups = LISTED | lists.insert(list) as u32;
            }
            return;
        }
        let posting = Posting {
            hash,
            groups: entry.bits(),
        };
        self.table
            .insert_unique(spread(hash), posting, |known| spread(known.hash));
    }

    /// Undoes [`insert`](Self::insert).
    pub(super) fn remove(&mut self, field: FieldId, kind: Kind, value: &Scalar<'_>, entry: Entry) {
        let hash = value.hash(field, kind, &self.hasher);
        let lists = &mut self.lists;
        let Ok(mut found) = self.table.find_entry(spread(hash), |it| it.hash == hash) else {
            return;
        };
        let posting = found.get_mut();
        let Some(list) = list_mut(posting, lists) else {
            if posting.groups == entry.bits() {
                found.remove();
                self.shrink();
            }
            return;
        };
        list.entries.remove(&entry);
        match (list.entries.len(), list.entries.first()) {
            (1, Some(&rest)) if !list.mixed => {
                lists.remove((posting.groups & !LISTED) as usize);
                posting.groups = rest.bits();
            }
            (0, _) => {
                lists.remove((posting.groups & !LISTED) as usize);
                found.remove();
                self.shrink();
            }
            _ => {}
        }
    }

    fn shrink(&mut self) {
        if is_sparse(self.table.len(), self.table.capacity()) {
            let len = 2 * self.table.len();
            self.table.shrink_to(len, |known| spread(known.hash));
        }
    }

    fn find(&self, field: FieldId, kind: Kind, value: &Scalar<'_>) -> Option<&Posting> {
        let hash = value.hash(field, kind, &self.hasher);
        self.table.find(spread(hash), |it| it.hash == hash)
    }

    fn list(&self, posting: &Posting) -> Option<&List> {
        list(posting, &self.lists)
    }
}

fn list<'a>(posting: &Posting, lists: &'a Arena<List>) -> Option<&'a List> {
    if posting.groups & LISTED == 0 {
        return None;
    }
    lists.get((posting.groups & !LISTED) as usize)
}

fn list_mut<'a>(posting: &Posting, lists: &'a mut Arena<List>) -> Option<&'a mut List> {
    if posting.groups & LISTED == 0 {
        return None;
    }
    lists.get_mut((posting.groups & !LISTED) as usize)
}

fn first(posting: &Posting, lists: &Arena<List>) -> Option<Entry> {
    match list(posting, lists) {
        Some(list) => list.entries.first().copied(),
        None => Some(Entry::of_bits(posting.groups)),
    }
}

/// The table takes its control byte from the upper bits and its slot from the lower ones.
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash) | u64::from(hash) << 32
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
