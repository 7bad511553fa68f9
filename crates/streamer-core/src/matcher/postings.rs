//! Groups by a value that a field must equal or contain.

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use super::{
    condition::{Kind, Scalar, listed_values},
    group::Group,
    ids::{Entry, FieldId},
    members::Members,
};

/// The groups that ask for one value of one field. The value itself stands in their conditions.
#[derive(Debug)]
struct Posting {
    hash: u32,
    groups: Members<Entry>,
}

/// Finds the groups that ask for a value by its hash, then by comparing the value with that of one
/// group: all groups of a posting ask for the same.
#[derive(Debug)]
pub(super) struct Postings {
    table: HashTable<Posting>,
    hasher: FixedState,
}

impl Postings {
    pub(super) fn new(hasher: FixedState) -> Self {
        Self {
            table: HashTable::new(),
            hasher,
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
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
        posting.map_or(0, |posting| posting.groups.len())
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
            posting.groups.append_to(out);
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
        self.find(field, kind, value, groups)?.groups.first()
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
        let asks = |posting: &Posting| asks(posting, hash, field, kind, value, groups);
        if let Some(posting) = self.table.find_mut(spread(hash), asks) {
            posting.groups.insert(entry);
            return;
        }
        let posting = Posting {
            hash,
            groups: Members::One(entry),
        };
        self.table
            .insert_unique(spread(hash), posting, |known| spread(known.hash));
    }

    /// Undoes [`insert`](Self::insert).
    pub(super) fn remove(&mut self, field: FieldId, kind: Kind, value: &Scalar<'_>, entry: Entry) {
        let hash = value.hash(field, kind, &self.hasher);
        let lists = |posting: &Posting| posting.hash == hash && posting.groups.contains(entry);
        if let Ok(mut posting) = self.table.find_entry(spread(hash), lists)
            && posting.get_mut().groups.remove(entry)
        {
            posting.remove();
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
            asks(posting, hash, field, kind, value, groups)
        })
    }
}

/// The table takes its control byte from the upper bits and its slot from the lower ones.
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash) | u64::from(hash) << 32
}

fn asks(
    posting: &Posting,
    hash: u32,
    field: FieldId,
    kind: Kind,
    value: &Scalar<'_>,
    groups: &Slab<Group>,
) -> bool {
    let group = || groups.get(posting.groups.first()?.group().index());
    posting.hash == hash
        && group().is_some_and(|group| {
            group.conditions.iter().any(|condition| {
                condition.field == field
                    && Kind::of(condition.op) == kind
                    && listed_values(condition).is_some_and(|values| {
                        let mut values = values.iter().filter_map(Scalar::of_value);
                        values.any(|listed| listed.equals(value))
                    })
            })
        })
}
