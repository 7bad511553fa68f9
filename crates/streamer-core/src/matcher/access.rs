//! The condition that a group is listed under, and the lists of one field.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _};

use foldhash::quality::FixedState;
use serde_json::Value as Json;

use super::{
    fields::{FieldId, FieldTable},
    group::{Condition, Entry, GroupId},
    intervals::{Interval, Intervals},
    members::Members,
    postings::{Kind, Postings},
};
use crate::filter::{Number, Op, Value};

/// The condition, by its index, or the conditions of one field that a group is listed under. Nothing
/// that fails them satisfies the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The field equals the value, or one element of an `in`, or contains the value.
    Value(u16),
    /// The field lies between the bounds that the conditions of this field and type of value set.
    Range(FieldId, Type),
    /// The field is present, as every condition requires.
    Presence(FieldId),
}

/// The types of values that have an order. Values of different types have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
    Bool,
}

/// The groups that are listed under ranges of a field, or under its presence.
#[derive(Debug, Default)]
pub(super) struct FieldIndex {
    /// Groups listed under a value that the field contains; without any, arrays are not looked into.
    pub(super) containing: u32,
    /// Groups listed under a value that the field equals.
    pub(super) equalling: u32,
    /// Boxed, because most fields are only ever compared for equality.
    ranges: Option<Box<[Ranges; 3]>>,
    present: Option<Members<Entry>>,
}

/// Ranges over one type of values. Kept apart by the ends they have, because one range without an upper
/// end would make every leaf around it reach to the end.
#[derive(Debug, Default)]
struct Ranges {
    two_sided: Intervals,
    from: Intervals,
    up_to: Intervals,
}

/// A value that groups are listed under.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scalar<'a> {
    Text(&'a str),
    Number(Number),
    Bool(bool),
}

impl<'a> Scalar<'a> {
    pub(super) fn of_json(json: &'a Json) -> Option<Self> {
        match json {
            Json::String(text) => Some(Self::Text(text)),
            Json::Number(number) => Number::of_json(number).map(Self::Number),
            Json::Bool(bool) => Some(Self::Bool(*bool)),
            Json::Null | Json::Array(_) | Json::Object(_) => None,
        }
    }

    pub(super) fn of_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(Self::Text(text)),
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
        match self {
            Self::Text(text) => text.hash(&mut state),
            Self::Number(number) => number.hash(&mut state),
            Self::Bool(bool) => bool.hash(&mut state),
        }
        state.finish() as u32
    }

    /// Returns the type, and a key that is never greater for a lesser value. Values that are close
    /// may share a key: whoever finds equal keys compares the values.
    fn ordered(&self) -> (Type, u64) {
        match self {
            Self::Text(text) => {
                let mut prefix = [0; 8];
                let length = text.len().min(8);
                prefix[..length].copy_from_slice(&text.as_bytes()[..length]);
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

impl Access {
    /// Chooses the access with the fewest expected candidates, by what is listed now.
    pub(super) fn choose(
        conditions: &[Condition],
        fields: &FieldTable,
        postings: &Postings,
        groups: &slab::Slab<super::group::Group>,
    ) -> Self {
        // Presence selects least, because a field that filters name is mostly there.
        let mut best = (usize::MAX, Self::Presence(conditions[0].field));
        let mut consider = |cost: usize, access: Self| {
            if cost < best.0 {
                best = (cost, access);
            }
        };
        for (at, condition) in conditions.iter().enumerate() {
            let field = condition.field;
            let index = fields.index(field);
            if let (Some(values), Ok(at)) = (listed_values(condition), u16::try_from(at)) {
                let kind = Kind::of(condition.op);
                let listed = values
                    .iter()
                    .filter_map(Scalar::of_value)
                    .map(|value| postings.len(field, kind, &value, groups));
                consider(listed.sum::<usize>() + values.len() / 4, Self::Value(at));
            }
            if let Some((of, _)) = bound(condition) {
                let interval = range(conditions, field, of);
                consider(index.range_cost(of, interval), Self::Range(field, of));
            }
        }
        best.1
    }

    /// Returns whether the filter has no conditions but those of the access.
    pub(super) fn is_sole(self, conditions: &[Condition]) -> bool {
        match self {
            Self::Value(_) => conditions.len() == 1,
            Self::Range(field, of) => conditions.iter().all(|condition| {
                condition.field == field && bound(condition).is_some_and(|(its, _)| its == of)
            }),
            // Presence satisfies no condition by itself.
            Self::Presence(_) => false,
        }
    }
}

/// The longest `in` whose elements are listed one by one: 100 entries cost 2.4 kB.
const LISTED_MAX: usize = 100;

/// Returns the values under which a condition can be listed, `None` if it cannot.
pub(super) fn listed_values(condition: &Condition) -> Option<&[Value]> {
    let values = match (condition.op, &condition.value) {
        (Op::In, Value::List(values)) => values.as_slice(),
        (Op::Eq | Op::Contains, value) => std::slice::from_ref(value),
        (Op::Ne | Op::Gt | Op::Ge | Op::Lt | Op::Le | Op::In, _) => return None,
    };
    let scalar = |value: &Value| !matches!(value, Value::List(_));
    (values.len() <= LISTED_MAX && values.iter().all(scalar)).then_some(values)
}

/// Returns the type and the key of a condition that bounds its field, `None` if it does not.
fn bound(condition: &Condition) -> Option<(Type, u64)> {
    match condition.op {
        Op::Gt | Op::Ge | Op::Lt | Op::Le => {
            Scalar::of_value(&condition.value).map(|value| value.ordered())
        }
        Op::Eq | Op::Ne | Op::In | Op::Contains => None,
    }
}

/// Returns the range of keys that the conditions of a field leave.
fn range(conditions: &[Condition], field: FieldId, of: Type) -> (u64, u64) {
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

impl FieldIndex {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            containing,
            equalling,
            ranges,
            present,
        } = self;
        *containing == 0 && *equalling == 0 && ranges.is_none() && present.is_none()
    }

    /// Counts a group that is listed under a value of the field, or no longer is.
    pub(super) fn count(&mut self, kind: Kind, listed: bool) {
        let count = match kind {
            Kind::Equals => &mut self.equalling,
            Kind::Contains => &mut self.containing,
        };
        *count = if listed { *count + 1 } else { *count - 1 };
    }

    pub(super) fn insert_range(
        &mut self,
        of: Type,
        group: GroupId,
        field: FieldId,
        conditions: &[Condition],
    ) {
        let interval = interval(of, group, field, conditions);
        let ranges = self.ranges.get_or_insert_default();
        ranges[of as usize].of_shape(interval).insert(interval);
    }

    pub(super) fn remove_range(
        &mut self,
        of: Type,
        group: GroupId,
        field: FieldId,
        conditions: &[Condition],
    ) {
        let interval = interval(of, group, field, conditions);
        let Some(ranges) = &mut self.ranges else {
            return;
        };
        ranges[of as usize].of_shape(interval).remove(interval);
        if ranges.iter().all(Ranges::is_empty) {
            self.ranges = None;
        }
    }

    pub(super) fn insert_present(&mut self, group: GroupId) {
        let entry = Entry::new(group, false);
        match &mut self.present {
            Some(present) => present.insert(entry),
            None => self.present = Some(Members::One(entry)),
        }
    }

    pub(super) fn remove_present(&mut self, group: GroupId) {
        if let Some(present) = &mut self.present
            && present.remove(Entry::new(group, false))
        {
            self.present = None;
        }
    }

    /// Appends the groups listed under the presence of the field or a range that the value lies in.
    pub(super) fn candidates(&self, json: &Json, out: &mut Vec<Entry>) {
        if let Some(present) = &self.present {
            present.append_to(out);
        }
        let Some(ranges) = &self.ranges else {
            return;
        };
        let Some((of, key)) = Scalar::of_json(json).map(|value| value.ordered()) else {
            return;
        };
        let Ranges {
            two_sided,
            from,
            up_to,
        } = &ranges[of as usize];
        for intervals in [two_sided, from, up_to] {
            intervals.containing(key, |interval| {
                // At an end, equal keys may stand for different values.
                let inside = interval.low < key && key < interval.high;
                let entry = interval.entry;
                out.push(if inside { entry } else { entry.uncertain() });
            });
        }
    }

    /// Estimates the candidates of a range: of two-sided ones, those that its lower end lies in now; of
    /// one-sided ones, half.
    fn range_cost(&self, of: Type, (low, high): (u64, u64)) -> usize {
        let ranges = self.ranges.as_deref().map(|ranges| &ranges[of as usize]);
        let len = |pick: fn(&Ranges) -> &Intervals| ranges.map_or(0, |it| pick(it).len());
        match (low, high) {
            (u64::MIN, _) => len(|it| &it.up_to) / 2 + 4,
            (_, u64::MAX) => len(|it| &it.from) / 2 + 4,
            _ => ranges.map_or(0, |it| it.two_sided.count_containing(low, COUNTED_MAX)) + 2,
        }
    }
}

/// Ranges counted to choose an access; a million of them that overlap would hold up each insertion.
const COUNTED_MAX: usize = 64;

fn interval(of: Type, group: GroupId, field: FieldId, conditions: &[Condition]) -> Interval {
    let (low, high) = range(conditions, field, of);
    let sole = Access::Range(field, of).is_sole(conditions);
    Interval {
        low,
        high,
        entry: Entry::new(group, sole),
    }
}

impl Ranges {
    fn of_shape(&mut self, interval: Interval) -> &mut Intervals {
        match (interval.low, interval.high) {
            (u64::MIN, _) => &mut self.up_to,
            (_, u64::MAX) => &mut self.from,
            _ => &mut self.two_sided,
        }
    }

    fn is_empty(&self) -> bool {
        self.two_sided.is_empty() && self.from.is_empty() && self.up_to.is_empty()
    }
}
