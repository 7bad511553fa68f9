//! Groups by a value that a field must equal or contain.

use std::collections::BTreeSet;

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use super::{
    condition::{Kind, Scalar},
    group::Group,
    ids::{Entry, FieldId},
};

/// Finds the groups that ask for a value by its hash, then by comparing the value with that of one
/// group: all groups of a posting ask for the same.
#[derive(Debug)]
pub(super) struct Postings {
    table: HashTable<Posting>,
    lists: Slab<BTreeSet<Entry>>,
    hasher: FixedState,
}

/// The groups that ask for one value of one field, in 8 bytes: most values have one group, and the
/// smaller the table, the more of it is in the caches. The value stands in the conditions of the
/// groups.
#[derive(Debug)]
struct Posting {
    hash: u32,
    /// A group, or the index of a list of at least two.
    groups: u32,
}

/// A bit of [`Posting::groups`] that no entry has.
const LISTED: u32 = Entry::UNUSED;

impl Postings {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            table: HashTable::new(),
            lists: Slab::new(),
            hasher,
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty() && self.lists.is_empty()
    }

    /// Returns the number of groups that ask for the value.
    pub(super) fn len(
        &self,
        field: FieldId,
        kind: Kind,
        value: &Scalar<'_>,
        groups: &Slab<Group>,
    ) -> usize {
        let posting = self.find(field, kind, value, groups);
        posting.map_or(0, |posting| self.list(posting).map_or(1, BTreeSet::len))
    }

    /// Appends the groups that ask for the value.
    pub(super) fn candidates(
        &self,
        field: FieldId,
        kind: Kind,
        value: &Scalar<'_>,
        groups: &Slab<Group>,
        out: &mut Vec<Entry>,
    ) {
        if let Some(posting) = self.find(field, kind, value, groups) {
            match self.list(posting) {
                Some(list) => out.extend(list),
                None => out.push(Entry::of_bits(posting.groups)),
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
        groups: &Slab<Group>,
    ) -> Option<Entry> {
        self.first(self.find(field, kind, value, groups)?)
    }

    /// Lists a group under a value of one of its conditions.
    pub(super) fn insert(
        &mut self,
        field: FieldId,
        kind: Kind,
        value: &Scalar<'_>,
        entry: Entry,
        groups: &Slab<Group>,
    ) {
        let hash = value.hash(field, kind, &self.hasher);
        let lists = &mut self.lists;
        let asks = |posting: &Posting| {
            let first = first(posting, lists);
            posting.hash == hash && asks(first, field, kind, value, groups)
        };
        if let Some(posting) = self.table.find_mut(spread(hash), asks) {
            if let Some(list) = list_mut(posting, lists) {
                list.insert(entry);
            } else {
                let one = Entry::of_bits(posting.groups);
                // There are fewer lists than groups.
                posting.groups = LISTED | lists.insert(BTreeSet::from([one, entry])) as u32;
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
        let has = |posting: &Posting| {
            posting.hash == hash
                && match list(posting, lists) {
                    Some(list) => list.contains(&entry),
                    None => posting.groups == entry.bits(),
                }
        };
        let Ok(mut found) = self.table.find_entry(spread(hash), has) else {
            return;
        };
        let posting = found.get_mut();
        let Some(list) = list_mut(posting, lists) else {
            found.remove();
            return;
        };
        list.remove(&entry);
        if let (1, Some(&last)) = (list.len(), list.first()) {
            lists.remove((posting.groups & !LISTED) as usize);
            posting.groups = last.bits();
        }
    }

    fn find(
        &self,
        field: FieldId,
        kind: Kind,
        value: &Scalar<'_>,
        groups: &Slab<Group>,
    ) -> Option<&Posting> {
        let hash = value.hash(field, kind, &self.hasher);
        self.table.find(spread(hash), |posting| {
            posting.hash == hash && asks(self.first(posting), field, kind, value, groups)
        })
    }

    fn list(&self, posting: &Posting) -> Option<&BTreeSet<Entry>> {
        list(posting, &self.lists)
    }

    fn first(&self, posting: &Posting) -> Option<Entry> {
        first(posting, &self.lists)
    }
}

fn list<'a>(posting: &Posting, lists: &'a Slab<BTreeSet<Entry>>) -> Option<&'a BTreeSet<Entry>> {
    if posting.groups & LISTED == 0 {
        return None;
    }
    lists.get((posting.groups & !LISTED) as usize)
}

fn list_mut<'a>(
    posting: &Posting,
    lists: &'a mut Slab<BTreeSet<Entry>>,
) -> Option<&'a mut BTreeSet<Entry>> {
    if posting.groups & LISTED == 0 {
        return None;
    }
    lists.get_mut((posting.groups & !LISTED) as usize)
}

fn first(posting: &Posting, lists: &Slab<BTreeSet<Entry>>) -> Option<Entry> {
    match list(posting, lists) {
        Some(list) => list.first().copied(),
        None => Some(Entry::of_bits(posting.groups)),
    }
}

/// The table takes its control byte from the upper bits and its slot from the lower ones.
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash) | u64::from(hash) << 32
}

/// Returns whether a group asks for the value.
fn asks(
    first: Option<Entry>,
    field: FieldId,
    kind: Kind,
    value: &Scalar<'_>,
    groups: &Slab<Group>,
) -> bool {
    let group = first.and_then(|first| groups.get(first.group().index()));
    group.is_some_and(|group| {
        group.conditions.iter().any(|condition| {
            condition.field == field
                && Kind::of(condition.op) == kind
                && condition
                    .listed_values()
                    .is_some_and(|mut values| values.any(|listed| listed.equals(value)))
        })
    })
}
