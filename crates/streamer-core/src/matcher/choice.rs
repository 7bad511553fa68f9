//! The way from a filter to a group: its canonical form and its access.

use slab::Slab;

use super::{
    access::Access,
    condition::{Condition, Kind, Scalar, bound, listed_values, range},
    fields::FieldTable,
    group::Group,
    postings::Postings,
};
use crate::filter::{Condition as NamedCondition, Op, Value};

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

/// Chooses the access with the fewest expected candidates, by what is listed now.
pub(super) fn choose(
    conditions: &[Condition],
    fields: &FieldTable,
    postings: &Postings,
    groups: &Slab<Group>,
) -> Access {
    // Presence selects least, because a field that filters name is mostly there.
    let mut best = (usize::MAX, Access::Presence(conditions[0].field));
    let mut consider = |cost: usize, access: Access| {
        if cost < best.0 {
            best = (cost, access);
        }
    };
    for (at, condition) in conditions.iter().enumerate() {
        let field = condition.field;
        let index = fields.index(field);
        let listed = listed_values(condition);
        if condition.op == Op::Ne {
            // With another condition, the value of that one selects more.
            if conditions.len() == 1 && listed.is_some() {
                return Access::Difference(field);
            }
        } else if let (Some(values), Ok(at)) = (listed, u16::try_from(at)) {
            let kind = Kind::of(condition.op);
            let listed = values
                .iter()
                .filter_map(Scalar::of_value)
                .map(|value| postings.len(field, kind, &value, groups));
            consider(listed.sum::<usize>() + values.len() / 4, Access::Value(at));
        }
        if let Some((of, _)) = bound(condition) {
            let interval = range(conditions, field, of);
            consider(index.range_cost(of, interval), Access::Range(field, of));
        }
    }
    best.1
}
