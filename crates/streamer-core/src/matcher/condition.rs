//! Conditions in the form in which the matcher keeps and compares them.

use std::hash::{BuildHasher as _, Hash as _, Hasher};

use super::{ids::FieldId, values::ValueRef};
use crate::filter::{
    Condition as NamedCondition, FieldValue as _, Number, Op, Operand, Value, decode_number,
    encode_number,
};
use foldhash::quality::FixedState;
use smallvec::SmallVec;

/// The conditions of a filter as bytes, one after the other: 15 bytes for `user == "user0000001"`. Those
/// of most filters stand within their group. Equal filters have equal bytes.
#[derive(Debug, PartialEq)]
pub(super) struct Conditions(SmallVec<[u8; INLINE]>);

/// The bytes of conditions that a group holds without an allocation. With 32 a group is one cache line.
const INLINE: usize = 32;

/// A condition whose field is the id of a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition<'a> {
    pub(super) field: FieldId,
    pub(super) op: Op,
    pub(super) value: Operand<'a>,
}

impl Conditions {
    /// Brings encoded conditions into the order that all equal filters have.
    pub(super) fn new(mut encoded: Vec<Vec<u8>>) -> Self {
        // By bytes: any order will do that is the same for equal filters.
        encoded.sort_unstable();
        Self::one(encoded.concat())
    }

    /// Takes the only condition, encoded.
    pub(super) fn one(encoded: Vec<u8>) -> Self {
        if encoded.len() <= INLINE {
            return Self(SmallVec::from_slice(&encoded));
        }
        // Without the capacity that is left over: there are as many as groups.
        Self(encoded.into_boxed_slice().into_vec().into())
    }

    /// Returns the first byte of the conditions.
    pub(super) fn first_byte(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Condition<'_>> + Clone {
        let mut bytes = &self.0[..];
        std::iter::from_fn(move || {
            let field = FieldId::new(decode_number(&mut bytes)?);
            let op = *Op::ALL.get(usize::from(*bytes.split_off_first()?))?;
            let value = Operand::decode(&mut bytes)?;
            Some(Condition { field, op, value })
        })
    }

    pub(super) fn hash(&self, hasher: &FixedState) -> u32 {
        hasher.hash_one(&self.0[..]) as u32
    }

    /// Returns the only condition, `None` if there are several.
    pub(super) fn only(&self) -> Option<Condition<'_>> {
        let mut conditions = self.iter();
        let first = conditions.next();
        first.filter(|_| conditions.next().is_none())
    }

    /// Returns the range of keys that the conditions of a field leave.
    pub(super) fn range(&self, field: FieldId, of: Type) -> (u64, u64) {
        let (mut low, mut high) = (u64::MIN, u64::MAX);
        for condition in self.iter().filter(|it| it.field == field) {
            if let Some((its, key)) = condition.bound()
                && its == of
            {
                match condition.op {
                    // The key itself is included for `>`, because other values may share it; the
                    // exact comparison follows.
                    Op::Gt | Op::Ge => low = low.max(key),
                    Op::Lt | Op::Le => high = high.min(key),
                    Op::Eq | Op::Ne | Op::In | Op::Contains => {}
                }
            }
        }
        (low, high)
    }
}

/// Encodes a condition on a field. Conditions have the same bytes if they are equal.
pub(super) fn encode(field: FieldId, condition: &NamedCondition) -> Vec<u8> {
    // Of a text mostly exact: one byte each for the field, the operator, the type and the length.
    let text = match &condition.value {
        Value::Text(text) => text.len(),
        Value::Null | Value::Int(_) | Value::Double(_) | Value::Bool(_) | Value::List(_) => 8,
    };
    let mut bytes = Vec::with_capacity(text + 4);
    encode_number(field.index(), &mut bytes);
    bytes.push(condition.op.index());
    match (condition.op, &condition.value) {
        // Only for `in`: with `==` the order of a list matters.
        (Op::In, Value::List(elements)) => encode_set(elements, &mut bytes),
        (_, value) => Operand::of(value).encode(&mut bytes),
    }
    bytes
}

/// Encodes a list of which neither order nor repetition matters.
fn encode_set(elements: &[Value], out: &mut Vec<u8>) {
    let mut encoded: Vec<Vec<u8>> = elements
        .iter()
        .map(|element| {
            let mut bytes = Vec::new();
            Operand::of(element).encode(&mut bytes);
            bytes
        })
        .collect();
    encoded.sort_unstable();
    encoded.dedup();
    Operand::encode_list_header(encoded.len(), out);
    for element in encoded {
        out.extend(element);
    }
}

impl<'a> Condition<'a> {
    /// Returns the values under which a condition can be listed, `None` if it cannot.
    pub(super) fn listed_values(self) -> Option<impl Iterator<Item = Scalar<'a>>> {
        let (one, several) = match (self.op, self.value) {
            (Op::In, Operand::List(values)) => (None, Some(values)),
            (Op::Eq | Op::Ne | Op::Contains, value) => (Some(value), None),
            (Op::Gt | Op::Ge | Op::Lt | Op::Le | Op::In, _) => return None,
        };
        let values = move || {
            one.into_iter()
                .chain(several.into_iter().flatten())
                .map(Scalar::of)
        };
        if several.is_some_and(|several| several.len() > LISTED_MAX)
            // All or nothing: listed under some values only, a group would be missed by events with
            // the others.
            || values().any(|value| value.is_none())
        {
            return None;
        }
        Some(values().flatten())
    }

    /// Returns the type and the key of a condition that bounds its field, `None` if it does not.
    pub(super) fn bound(self) -> Option<(Type, u64)> {
        match self.op {
            Op::Gt | Op::Ge | Op::Lt | Op::Le => {
                Scalar::of(self.value).and_then(|value| value.ordered())
            }
            Op::Eq | Op::Ne | Op::In | Op::Contains => None,
        }
    }
}

/// The longest `in` whose elements are listed one by one: 100 entries cost 2 kB.
const LISTED_MAX: usize = 100;

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
    Null,
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
            .or_else(|| field.is_null().then_some(Self::Null))
    }

    pub(super) fn of(value: Operand<'a>) -> Option<Self> {
        match value {
            Operand::Null => Some(Self::Null),
            Operand::Text(text) => Some(Self::Text(text)),
            Operand::Number(number) => Some(Self::Number(number)),
            Operand::Bool(bool) => Some(Self::Bool(bool)),
            Operand::List(_) => None,
        }
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Null, Self::Null) => true,
            (Self::Null | Self::Text(_) | Self::Number(_) | Self::Bool(_), _) => false,
        }
    }

    pub(super) fn hash(&self, field: FieldId, kind: Kind, hasher: &FixedState) -> u32 {
        let mut state = hasher.build_hasher();
        // One table for all fields and kinds, so that both are part of the hash.
        field.hash(&mut state);
        kind.hash(&mut state);
        self.write(&mut state);
        state.finish() as u32
    }

    pub(super) fn write(&self, state: &mut impl Hasher) {
        match self {
            // Any bytes will do: whoever finds equal hashes compares the values.
            Self::Null => u64::MAX.hash(state),
            Self::Text(text) => text.hash(state),
            Self::Number(number) => number.hash(state),
            Self::Bool(bool) => bool.hash(state),
        }
    }

    /// Returns the type, and a key that is never greater for a lesser value. Values that are close
    /// may share a key: whoever finds equal keys compares the values. Null has no order.
    pub(super) fn ordered(&self) -> Option<(Type, u64)> {
        Some(match self {
            Self::Null => return None,
            Self::Text(text) => {
                let mut prefix = [0; 8];
                let length = text.len().min(8);
                // Padded with zeros, so that a prefix of a text never has a greater key than the
                // text.
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
        })
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
