//! Filters as people write them.

use super::*;

fn one(text: &str) -> Condition {
    let filter = Filter::from_text([text]).unwrap_or_else(|refused| panic!("{refused}"));
    filter.conditions()[0].clone()
}

#[test]
fn a_condition_reads_as_it_looks() {
    for (text, field, op, value) in [
        ("age >= 18", "age", Op::Ge, Value::Int(18)),
        ("  age   gte   18  ", "age", Op::Ge, Value::Int(18)),
        ("age>=18", "age", Op::Ge, Value::Int(18)),
        ("t<-1.5e3", "t", Op::Lt, Value::Double(-1500.0)),
        ("name == Ann", "name", Op::Eq, "Ann".into()),
        ("name == \"Ann Lee\"", "name", Op::Eq, "Ann Lee".into()),
        ("s == 'x'", "s", Op::Eq, "x".into()),
        ("s == 'two words'", "s", Op::Eq, "two words".into()),
        ("s == '5' ", "s", Op::Eq, "5".into()),
        ("s == ''", "s", Op::Eq, "".into()),
        ("s == O'Neill", "s", Op::Eq, "O'Neill".into()),
        ("v == 1.2.3-4", "v", Op::Eq, "1.2.3-4".into()),
        ("v == 1_a", "v", Op::Eq, "1_a".into()),
        ("n == \"5\"", "n", Op::Eq, "5".into()),
        ("n != true", "n", Op::Ne, true.into()),
        ("day > 2026-11-22", "day", Op::Gt, "2026-11-22".into()),
        ("path == C:\\temp", "path", Op::Eq, "C:\\temp".into()),
        (
            "tag in [\"a\", 1, 1.5]",
            "tag",
            Op::In,
            Value::List(vec!["a".into(), 1.into(), 1.5.into()]),
        ),
        ("tag in[]", "tag", Op::In, Value::List(Vec::new())),
        (
            "address.city eq Köln",
            "address.city",
            Op::Eq,
            "Köln".into(),
        ),
        ("\"a <b>\" contains \"\"", "a <b>", Op::Contains, "".into()),
        ("\"\"==1", "", Op::Eq, Value::Int(1)),
        ("owner == null", "owner", Op::Eq, Value::Null),
        ("owner != \"null\"", "owner", Op::Ne, "null".into()),
        (
            "n in [[null]]",
            "n",
            Op::In,
            Value::List(vec![vec![Value::Null].into()]),
        ),
        ("\"a\".b == 1", "a.b", Op::Eq, Value::Int(1)),
        ("a..b == 1", "a..b", Op::Eq, Value::Int(1)),
        (". == 1", ".", Op::Eq, Value::Int(1)),
        ("a\"b == 1", "a\"b", Op::Eq, Value::Int(1)),
    ] {
        assert_eq!(one(text), Condition::new(field, op, value), "{text}");
    }
}

#[test]
fn quoted_keys_may_contain_dots() {
    for (text, keys) in [
        ("\"a.b\" == 1", &["a.b"][..]),
        ("\"a.b\"==1", &["a.b"]),
        ("x.\"a.b\".y == 1", &["x", "a.b", "y"]),
        ("\"a.b\".\"c = d\" == 1", &["a.b", "c = d"]),
        ("\"a.b\".\"\" == 1", &["a.b", ""]),
        ("\"a\\u002eb\" == 1", &["a.b"]),
    ] {
        let condition = one(text);
        assert!(condition.field.keys().eq(keys.iter().copied()), "{text}");
        assert_eq!(one(&condition.to_string()), condition, "{text}");
    }
    assert_eq!("x.\"a.b\"".parse(), Ok(FieldPath::from_keys(["x", "a.b"])));
    assert_eq!("x y".parse::<FieldPath>(), Err(TextFault::AfterField));
}

#[test]
fn a_fault_is_pointed_at() {
    for (text, column, message) in [
        ("", 1, "expected a field"),
        ("  >= 5", 3, "expected a field"),
        ("age", 4, "expected one of"),
        ("age = 18", 5, "found \"=\""),
        ("age is 18", 5, "found \"is\""),
        ("größe => 18", 7, "found \"=>\""),
        ("age >=", 7, "expected a value"),
        ("name == Ann Lee", 12, "several words needs double quotes"),
        ("name == \"Ann", 12, "this is not JSON"),
        ("name == \"A\" x", 13, "this is not JSON"),
        ("tag in [1, é]", 12, "this is not JSON"),
        ("\"name == 1", 1, "this is not JSON"),
        ("n > null", 5, "does not apply to null"),
        ("\"a\".`b` == 1", 5, "use double quotes"),
        ("\"a\"b == 1", 4, "found \"b\""),
        (
            "_id == null",
            8,
            "a document id is a string and the value is null",
        ),
        ("n == {\"a\": 1}", 6, "a filter value cannot be an object"),
        ("n == 18446744073709551615", 6, "is too large"),
        ("n == 1e999", 6, "not a JSON number"),
        ("n == NaN", 6, "not a JSON number"),
        ("n == .5", 6, "not a JSON number"),
        ("n == 007", 6, "not a JSON number"),
        ("n == 1_000", 6, "not a JSON number"),
        ("n == -1_000.5", 6, "not a JSON number"),
        ("s == 'x", 6, "a text in single quotes"),
        ("s == '", 6, "a text in single quotes"),
        ("s == 'it's'", 6, "a text in single quotes"),
        ("`a.b` == 1", 1, "use double quotes"),
        ("s == `x`", 6, "use double quotes"),
        ("tag in a", 8, "requires a list"),
        ("tag < [1]", 7, "does not apply to a list"),
        ("_id == 5", 8, "a document id is a string and"),
        ("_id == \"\"", 8, "a document id cannot be empty"),
    ] {
        let refused = Filter::from_text([text]).unwrap_err();
        assert_eq!(refused.column, column, "{refused}");
        assert!(refused.to_string().contains(message), "{refused}");
    }
}

#[test]
fn the_faulty_one_of_several_texts_is_named() {
    let refused = Filter::from_text(["age >= 18", "tag in a"]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "filter 2 (\"tag in a\"), column 8: operator in requires a list and the value is a string; \
         use == for equality"
    );
    assert_eq!(refused.index, 1);
}

#[test]
fn a_filter_shows_itself_as_it_is_written() {
    let filter = Filter::new([
        Condition::new("age", Op::Ge, 18),
        Condition::new(
            "a b",
            Op::In,
            vec![Value::from("x"), 1.0.into(), false.into()],
        ),
    ]);
    assert_eq!(
        filter.unwrap().to_string(),
        r#"age >= 18, "a b" in ["x",1.0,false]"#
    );
    assert_eq!(Filter::all().to_string(), "");
}
