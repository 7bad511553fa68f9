//! Conditions in the form in which the matcher compares, hashes and orders them.

use std::hash::{BuildHasher as _, Hash as _, Hasher};

use super::{ids::FieldId, values::ValueRef};
use crate::filter::{FieldValue as _, Number, Op, Value};
use foldhash::quality::FixedState;

/// A condition whose field is the id of a path, 32 bytes.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) value: Value,
    pub(super) field: FieldId,
    pub(super) op: Op,
}

/// The types of values that have an order. Values of different types have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
    Bool,
}

/// Two ways of asking for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The field is the value.
    Equals,
    /// The field is a list with the value as an element, or an object with it as a key.
    Contains,
    /// The field is another value.
    Differs,
}

/// A value that groups are listed under.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scalar<'a> {
    Text(&'a [u8]),
    Number(Number),
    Bool(bool),
}

impl<'a> Scalar<'a> {
    pub(super) fn of_field(field: ValueRef<'a>) -> Option<Self> {
        let text = || field.text().map(Self::Text);
        let number = || field.number().map(Self::Number);
        text()
            .or_else(number)
            .or_else(|| field.bool().map(Self::Bool))
    }

    pub(super) fn of_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(Self::Text(text.as_bytes())),
            Value::Int(int) => Some(Self::Number((*int).into())),
            Value::Double(double) => Some(Self::Number((*double).into())),
            Value::Bool(bool) => Some(Self::Bool(*bool)),
            Value::List(_) => None,
        }
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(_) | Self::Number(_) | Self::Bool(_), _) => false,
        }
    }

    pub(super) fn hash(&self, field: FieldId, kind: Kind, hasher: &FixedState) -> u32 {
        let mut state = hasher.build_hasher();
        field.hash(&mut state);
        kind.hash(&mut state);
        self.write(&mut state);
        state.finish() as u32
    }

    /// Hashes the value as [`Value::hash_canonical`] does.
    pub(super) fn write(&self, state: &mut impl Hasher) {
        match self {
            Self::Text(text) => text.hash(state),
            Self::Number(number) => number.hash(state),
            Self::Bool(bool) => bool.hash(state),
        }
    }

    /// Returns the type, and a key that is never greater for a lesser value. Values that are close
    /// may share a key: whoever finds equal keys compares the values.
    pub(super) fn ordered(&self) -> (Type, u64) {
        match self {
            Self::Text(text) => {
                let mut prefix = [0; 8];
                let length = text.len().min(8);
                prefix[..length].copy_from_slice(&text[..length]);
                (Type::Text, u64::from_be_bytes(prefix))
            }
            Self::Number(number) => {
                let bits = number.to_f64().to_bits();
                // Negative doubles order by their inverted bits, others above all of those.
                let key = if bits >> 63 == 1 {
                    !bits
                } else {
                    bits | 1 << 63
                };
                (Type::Number, key)
            }
            Self::Bool(bool) => (Type::Bool, u64::from(*bool)),
        }
    }
}

impl Kind {
    pub(super) fn of(op: Op) -> Self {
        match op {
            Op::Contains => Self::Contains,
            Op::Ne => Self::Differs,
            Op::Eq | Op::In | Op::Gt | Op::Ge | Op::Lt | Op::Le => Self::Equals,
        }
    }
}

/// The longest `in` whose elements are listed one by one: 100 entries cost 2.4 kB.
const LISTED_MAX: usize = 100;

/// Returns the values under which a condition can be listed, `None` if it cannot.
pub(super) fn listed_values(condition: &Condition) -> Option<&[Value]> {
    let values = match (condition.op, &condition.value) {
        (Op::In, Value::List(values)) => values.as_slice(),
        (Op::Eq | Op::Ne | Op::Contains, value) => std::slice::from_ref(value),
        (Op::Gt | Op::Ge | Op::Lt | Op::Le | Op::In, _) => return None,
    };
    let scalar = |value: &Value| !matches!(value, Value::List(_));
    (values.len() <= LISTED_MAX && values.iter().all(scalar)).then_some(values)
}

/// Returns the type and the key of a condition that bounds its field, `None` if it does not.
pub(super) fn bound(condition: &Condition) -> Option<(Type, u64)> {
    match condition.op {
        Op::Gt | Op::Ge | Op::Lt | Op::Le => {
            Scalar::of_value(&condition.value).map(|value| value.ordered())
        }
        Op::Eq | Op::Ne | Op::In | Op::Contains => None,
    }
}

/// Returns the range of keys that the conditions of a field leave.
pub(super) fn range(conditions: &[Condition], field: FieldId, of: Type) -> (u64, u64) {
    let (mut low, mut high) = (u64::MIN, u64::MAX);
    for condition in conditions.iter().filter(|it| it.field == field) {
        if let Some((its, key)) = bound(condition)
            && its == of
        {
            match condition.op {
                Op::Gt | Op::Ge => low = low.max(key),
                Op::Lt | Op::Le => high = high.min(key),
                Op::Eq | Op::Ne | Op::In | Op::Contains => {}
            }
        }
    }
    (low, high)
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
    pub(super) fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |condition: &Self| (condition.field, condition.op);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.value.total_cmp(&other.value))
    }
}
