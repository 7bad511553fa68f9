//! Ordered sets that mostly have one element, in 16 bytes.

use std::collections::BTreeSet;

/// A set that is not empty. One element is stored inline; a million filters of one subscription each
/// would otherwise cost an allocation each.
#[derive(Debug)]
pub(super) enum Members<T> {
    One(T),
    // Boxed, so that the enum stays at 16 bytes: there are as many as groups and postings.
    #[allow(clippy::box_collection)]
    Many(Box<BTreeSet<T>>),
}

impl<T: Copy + Ord> Members<T> {
    pub(super) fn insert(&mut self, member: T) {
        match self {
            Self::One(one) if *one == member => {}
            Self::One(one) => *self = Self::Many(Box::new(BTreeSet::from([*one, member]))),
            Self::Many(many) => {
                many.insert(member);
            }
        }
    }

    /// Removes a member and returns whether the set would be empty without it; the owner then drops
    /// the set.
    pub(super) fn remove(&mut self, member: T) -> bool {
        match self {
            Self::One(one) => *one == member,
            Self::Many(many) => {
                many.remove(&member);
                if let (1, Some(&last)) = (many.len(), many.first()) {
                    *self = Self::One(last);
                }
                false
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    /// Returns the members in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        let (one, many) = match self {
            Self::One(one) => (Some(*one), None),
            Self::Many(many) => (None, Some(many)),
        };
        one.into_iter()
            .chain(many.into_iter().flat_map(|many| many.iter().copied()))
    }

    pub(super) fn append_to(&self, out: &mut Vec<T>) {
        match self {
            Self::One(one) => out.push(*one),
            Self::Many(many) => out.extend(many.iter()),
        }
    }
}
