//! The lists of one event, hashed once.

use std::hash::{BuildHasher, Hash as _, Hasher};

use foldhash::quality::FixedState;

use super::{
    condition::Scalar,
    ids::FieldId,
    values::{ValueRef, Values},
};
use crate::{
    filter::{FieldValue as _, Operand, equal},
    index_table::IndexTable,
};

/// The elements of the event's long lists by hash, made when the first condition asks. Without them, a
/// document of 1 MB and a filter of 63 `contains` would cost 30 million comparisons.
#[derive(Debug, Default)]
pub(super) struct Lists {
    hashed: Vec<FieldId>,
    /// The places of elements, by the hash of field and element.
    elements: IndexTable,
}

/// Elements up to which a list is scanned.
const SCANNED_MAX: usize = 16;

/// Elements beyond which the memory is given back with the event.
const KEPT_MAX: usize = 1 << 12;

impl Lists {
    /// Forgets the lists of an event.
    pub(super) fn clear(&mut self) {
        self.hashed.clear();
        self.elements.clear();
        if self.elements.capacity() > KEPT_MAX {
            self.elements = IndexTable::default();
        }
    }

    /// Returns whether an element of a field's list equals the value, and adds the elements looked at
    /// to `used`.
    pub(super) fn contains(
        &mut self,
        values: &Values,
        (field, list): (FieldId, ValueRef<'_>),
        value: Operand<'_>,
        hasher: &FixedState,
        used: &mut u64,
    ) -> bool {
        let Some(mut elements) = list.elements() else {
            return false;
        };
        let len = elements.len();
        if len <= SCANNED_MAX {
            *used += len as u64 / 4;
            return elements.any(|element| equal(element, value));
        }
        // Paid by the first condition that asks: most events are decided without it.
        if !self.hashed.contains(&field) {
            *used += len as u64;
            self.hashed.push(field);
            for element in elements {
                self.insert(values, field, element, hasher);
            }
        }
        let hash = hash(field, hasher, |state| {
            hash_operand(value, state);
            true
        });
        let inside = list.inside();
        // All fields share the table: an equal element of another field's list does not count.
        let same = |at| inside.contains(&at) && equal(values.at(at), value);
        hash.is_some_and(|hash| self.elements.find(hash, same).is_some())
    }

    fn insert(&mut self, values: &Values, field: FieldId, element: ValueRef<'_>, of: &FixedState) {
        let Some(hash) = hash(field, of, |state| hash_field(element, state)) else {
            return;
        };
        // A list of one element a million times must not be a chain of a million entries.
        let same = |at| same(values.at(at), element);
        if self.elements.find(hash, same).is_none() {
            self.elements.insert(hash, element.place());
        }
    }
}

/// Returns the hash of a field and what `write` adds, `None` if that returns false.
fn hash(
    field: FieldId,
    hasher: &FixedState,
    write: impl FnOnce(&mut <FixedState as BuildHasher>::Hasher) -> bool,
) -> Option<u32> {
    let mut state = hasher.build_hasher();
    field.hash(&mut state);
    write(&mut state).then(|| state.finish() as u32)
}

fn hash_operand(value: Operand<'_>, state: &mut impl Hasher) {
    match (Scalar::of(value), value) {
        (Some(scalar), _) => scalar.write(state),
        (None, Operand::List(elements)) => {
            elements.len().hash(state);
            for element in elements {
                hash_operand(element, state);
            }
        }
        (None, Operand::Null | Operand::Text(_) | Operand::Number(_) | Operand::Bool(_)) => {}
    }
}

/// Hashes a value as [`hash_operand`] hashes an equal one. Returns false for what no value of a filter
/// equals: objects, and lists with those.
fn hash_field(value: ValueRef<'_>, state: &mut impl Hasher) -> bool {
    if let Some(scalar) = Scalar::of_field(value) {
        scalar.write(state);
        return true;
    }
    value.elements().is_some_and(|mut elements| {
        elements.len().hash(state);
        elements.all(|element| hash_field(element, state))
    })
}

/// Returns whether two values are equal that [`hash_field`] hashes.
fn same(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    match (Scalar::of_field(a), Scalar::of_field(b)) {
        (Some(a), Some(b)) => a.equals(&b),
        (None, None) => match (a.elements(), b.elements()) {
            (Some(a), Some(b)) => a.len() == b.len() && a.zip(b).all(|(a, b)| same(a, b)),
            _ => false,
        },
        (Some(_), None) | (None, Some(_)) => false,
    }
}
