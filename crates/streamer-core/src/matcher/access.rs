//! The condition that a group is listed under.

use super::{
    condition::{Conditions, Type},
    ids::FieldId,
};

/// The condition, by its index, or the conditions of one field that a group is listed under. Nothing
/// that fails them satisfies the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The field equals the value, or one element of an `in`, or contains the value.
    Value(u16),
    /// The field lies between the bounds that the conditions of this field and type of value set.
    Range(FieldId, Type),
    /// The field is present and differs from the value of the only condition.
    Difference(FieldId),
    /// The field is present, as every condition requires.
    Presence(FieldId),
}

impl Access {
    /// Returns whether the filter has no conditions but those of the access.
    pub(super) fn is_sole(self, conditions: &Conditions) -> bool {
        match self {
            Self::Value(_) => conditions.only().is_some(),
            Self::Range(field, of) => conditions.iter().all(|condition| {
                condition.field == field && condition.bound().is_some_and(|(its, _)| its == of)
            }),
            Self::Difference(_) => true,
            // Presence satisfies no condition by itself.
            Self::Presence(_) => false,
        }
    }
}
