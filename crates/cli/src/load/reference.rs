//! The filter of the judge. It shares no code with the server's: it works on JSON values, applies
//! every condition to every document, and follows the protocol's table case by case.

use std::cmp::Ordering;

use serde_json::Value;

use super::condition::{Condition, Op};

/// Returns true if the document satisfies all conditions. `_id` is the document's id, which is not
/// among its fields.
pub(crate) fn matches(conditions: &[Condition], id: &str, document: &Value) -> bool {
    conditions.iter().all(|condition| {
        if condition.field == "_id" {
            return condition.op == Op::Equal && condition.value == id;
        }
        match find(document, condition.field) {
            // A missing field satisfies no condition, not even `!=`.
            None => false,
            Some(field) => holds(field, condition.op, &condition.value),
        }
    })
}

fn find<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(document, |value, segment| value.as_object()?.get(segment))
}

fn holds(field: &Value, op: Op, value: &Value) -> bool {
    match op {
        Op::Equal => equal(field, value),
        Op::NotEqual => !equal(field, value),
        Op::Greater => order(field, value) == Some(Ordering::Greater),
        Op::GreaterOrEqual => order(field, value).is_some_and(Ordering::is_ge),
        Op::Less => order(field, value) == Some(Ordering::Less),
        Op::LessOrEqual => order(field, value).is_some_and(Ordering::is_le),
        Op::In => value
            .as_array()
            .is_some_and(|list| list.iter().any(|item| equal(field, item))),
        Op::Contains => match (field, value) {
            (Value::Array(list), _) => list.iter().any(|item| equal(item, value)),
            (Value::Object(fields), Value::String(key)) => fields.contains_key(key),
            _ => false,
        },
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => order(left, right) == Some(Ordering::Equal),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| equal(l, r))
        }
        _ => left == right,
    }
}

/// Returns the order of two values of one kind. Numbers in a run are small enough for `f64`.
fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Value::String(left), Value::String(right)) => Some(left.as_bytes().cmp(right.as_bytes())),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_operator_follows_the_table() {
        let document = json!({
            "n": 5, "f": 5.0, "s": "abc", "b": true, "none": null,
            "list": ["x", 2], "place": { "city": "Lima" },
        });
        for (field, op, value, expected) in [
            ("n", Op::Equal, json!(5), true),
            ("f", Op::Equal, json!(5), true),
            ("n", Op::Equal, json!("5"), false),
            ("n", Op::NotEqual, json!("5"), true),
            ("missing", Op::NotEqual, json!(1), false),
            ("n", Op::Greater, json!(4.5), true),
            ("n", Op::Greater, json!(5), false),
            ("n", Op::GreaterOrEqual, json!(5), true),
            ("n", Op::Less, json!(5), false),
            ("n", Op::LessOrEqual, json!(5), true),
            ("s", Op::Greater, json!("ab"), true),
            ("s", Op::Greater, json!(1), false),
            ("b", Op::Greater, json!(false), true),
            ("none", Op::NotEqual, json!(1), true),
            ("none", Op::Less, json!(1), false),
            ("n", Op::In, json!([1, 5]), true),
            ("n", Op::In, json!([]), false),
            ("list", Op::Contains, json!("x"), true),
            ("list", Op::Contains, json!(2), true),
            ("list", Op::Contains, json!("y"), false),
            ("place", Op::Contains, json!("city"), true),
            ("s", Op::Contains, json!("a"), false),
            ("place.city", Op::Equal, json!("Lima"), true),
            ("place.city.name", Op::Equal, json!("Lima"), false),
            ("list", Op::Equal, json!(["x", 2.0]), true),
            ("_id", Op::Equal, json!("d1"), true),
            ("_id", Op::Equal, json!("d2"), false),
            ("_id", Op::NotEqual, json!("d2"), false),
        ] {
            let condition = Condition::new(field, op, value);
            let text = condition.to_string();
            assert_eq!(matches(&[condition], "d1", &document), expected, "{text}");
        }
    }

    #[test]
    fn all_conditions_must_hold_and_none_is_everything() {
        let range = [
            Condition::new("n", Op::GreaterOrEqual, 1),
            Condition::new("n", Op::Less, 3),
        ];
        assert!(matches(&range, "d", &json!({ "n": 2 })));
        assert!(!matches(&range, "d", &json!({ "n": 3 })));
        assert!(matches(&[], "d", &json!({})));
    }
}
