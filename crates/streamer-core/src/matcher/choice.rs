//! The way from a filter to a group: its canonical form and its access.

use super::{
    access::Access,
    condition::{Conditions, Kind, encode},
    fields::FieldTable,
    ids::FieldId,
    postings::Postings,
};
use crate::filter::{Condition as NamedCondition, Op};

/// Brings conditions into the form in which equal filters are equal: each path by its id, elements of
/// `in` sorted and named once, conditions sorted and named once. Acquires the fields.
///
/// Two filters of one form hold for the same documents. The reverse is not attempted: `a > 1` beside
/// `a > 2` has another form than `a > 2` alone.
pub(super) fn canonical(conditions: &[NamedCondition], fields: &mut FieldTable) -> Conditions {
    if let [condition] = conditions {
        // Most filters: nothing is to be sorted, or named once.
        let field = fields.acquire(&condition.field);
        return Conditions::one(encode(field, condition));
    }
    let mut encoded = Vec::with_capacity(conditions.len());
    for condition in conditions {
        let field = fields.acquire(&condition.field);
        let bytes = encode(field, condition);
        // Repeated conditions would give equal filters different forms. Quadratic, but a filter has
        // 64 at most by default.
        if encoded.contains(&bytes) {
            fields.release(field);
        } else {
            encoded.push(bytes);
        }
    }
    Conditions::new(encoded)
}

/// Does the same as [`canonical`] without acquiring a field. `None` if a field is not known, so that no group
/// has this form.
pub(super) fn known(conditions: &[NamedCondition], fields: &FieldTable) -> Option<Conditions> {
    let mut encoded = Vec::with_capacity(conditions.len());
    for condition in conditions {
        let bytes = encode(fields.known(&condition.field)?, condition);
        if !encoded.contains(&bytes) {
            encoded.push(bytes);
        }
    }
    Some(Conditions::new(encoded))
}

/// Chooses the access with the fewest expected candidates, by what is listed now.
pub(super) fn choose(conditions: &Conditions, fields: &FieldTable, postings: &Postings) -> Access {
    let mut best: Option<(usize, Access)> = None;
    let mut consider = |cost: usize, access: Access| {
        // The first of equals, so that the choice does not depend on anything but the filter and
        // the lists.
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, access));
        }
    };
    for (at, condition) in conditions.iter().enumerate() {
        let field = condition.field;
        // Presence selects least, because a field that filters name is mostly there.
        consider(usize::MAX, Access::Presence(field));
        if let (Some(values), Ok(at)) = (condition.listed_values(), u16::try_from(at)) {
            let kind = Kind::of(condition.op);
            if condition.op != Op::Ne {
                let (mut cost, mut listed) = (0, 0);
                for value in values {
                    cost += postings.len(field, kind, &value);
                    listed += 1;
                }
                // Each element of an `in` needs an entry of its own, so that fewer elements are
                // better.
                consider(cost + listed / 4, Access::Value(at));
            } else if conditions.only().is_some() {
                // With another condition, the value of that one selects more.
                return Access::Difference(field);
            }
        }
        if let Some((of, _)) = condition.bound() {
            let cost = fields
                .index(field)
                .range_cost(of, conditions.range(field, of));
            consider(cost, Access::Range(field, of));
        }
    }
    // Not reached: a filter without conditions is no group.
    best.map_or(Access::Presence(FieldId::ROOT), |(_, access)| access)
}
