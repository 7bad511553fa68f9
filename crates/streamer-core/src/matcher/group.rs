//! Groups: the subscriptions that share one filter, and its conditions.

use std::hash::{BuildHasher, Hash as _, Hasher as _};

use foldhash::quality::FixedState;

use super::{
    SubscriptionKey,
    access::Access,
    fields::{FieldId, FieldTable},
    members::Members,
};
use crate::filter::{Condition as NamedCondition, Op, Value};

/// The index of a group within its collection. It may be given out again once the group is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupId(u32);

/// A group as it stands in a posting or an interval: its id, and whether it has no conditions but
/// those that it is listed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry(u32);

/// Subscriptions whose filters are equal.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) members: Members<SubscriptionKey>,
    pub(super) conditions: Box<[Condition]>,
    pub(super) access: Access,
}

/// A condition whose field is the id of a path, 32 bytes.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) value: Value,
    pub(super) field: FieldId,
    pub(super) op: Op,
}

impl GroupId {
    pub(super) fn new(index: usize) -> Self {
        // The upper bit belongs to `Entry`. 2^31 groups have 100 bytes each and fill memory first.
        debug_assert!(index < 1 << 31, "too many groups in one collection");
        Self(index as u32)
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

impl Entry {
    const SOLE: u32 = 1 << 31;

    pub(super) fn new(group: GroupId, sole: bool) -> Self {
        Self(group.0 | if sole { Self::SOLE } else { 0 })
    }

    pub(super) fn group(self) -> GroupId {
        GroupId(self.0 & !Self::SOLE)
    }

    /// Returns whether whatever satisfies the access satisfies the whole filter.
    pub(super) fn is_sole(self) -> bool {
        self.0 & Self::SOLE != 0
    }

    /// Returns the entry as one whose conditions must be evaluated.
    pub(super) fn uncertain(self) -> Self {
        Self(self.0 & !Self::SOLE)
    }
}

/// Brings conditions into the form in which equal filters are equal: each path by its id, elements of
/// `in` sorted and named once, conditions sorted and named once. Acquires the fields.
///
/// Two filters of one form hold for the same documents. The reverse is not attempted: `a > 1` beside
/// `a > 2` has another form than `a > 2` alone.
pub(super) fn canonical(
    conditions: &[NamedCondition],
    fields: &mut FieldTable,
) -> Box<[Condition]> {
    let mut canonical: Vec<Condition> = conditions
        .iter()
        .map(|condition| Condition {
            value: match (&condition.op, &condition.value) {
                (Op::In, Value::List(elements)) => {
                    let mut elements = elements.clone();
                    elements.sort_by(Value::total_cmp);
                    elements.dedup_by(|a, b| a.total_cmp(b).is_eq());
                    Value::List(elements)
                }
                (_, value) => value.clone(),
            },
            field: fields.acquire(&condition.field),
            op: condition.op,
        })
        .collect();
    canonical.sort_by(Condition::total_cmp);
    canonical.dedup_by(|a, b| {
        let same = a.total_cmp(b).is_eq();
        if same {
            fields.release(a.field);
        }
        same
    });
    canonical.into_boxed_slice()
}

/// Hashes conditions in canonical form.
pub(super) fn hash(conditions: &[Condition], hasher: &FixedState) -> u32 {
    let mut state = hasher.build_hasher();
    for condition in conditions {
        condition.field.hash(&mut state);
        condition.op.hash(&mut state);
        condition.value.hash_canonical(&mut state);
    }
    state.finish() as u32
}

/// Returns whether conditions in canonical form are equal.
pub(super) fn equal(a: &[Condition], b: &[Condition]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.total_cmp(b).is_eq())
}

impl Condition {
    fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |condition: &Self| (condition.field, condition.op);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.value.total_cmp(&other.value))
    }
}
