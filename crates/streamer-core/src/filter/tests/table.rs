//! One test for each row of the table of values and types in `docs/protocol.md`.

use serde_json::json;

use super::*;

use Kind::{BoolValue as Bool, DoubleValue as Double, IntValue as Int};

#[test]
fn numbers_compare_across_whole_and_floating() {
    for (op, field, kind, expected) in [
        ("==", json!(5), Double(5.0), true),
        ("==", json!(5.0), Int(5), true),
        ("!=", json!(5), Double(5.0), false),
        ("!=", json!(5), Double(5.5), true),
        ("<", json!(5), Double(5.5), true),
        ("<", json!(5.5), Int(5), false),
        ("<=", json!(5.0), Int(5), true),
        (">", json!(-5), Double(-5.5), true),
        (">", json!(5), Int(5), false),
        (">=", json!(5), Double(5.0), true),
        ("in", json!(5), list([text("5"), Double(5.0)]), true),
        ("in", json!(5), list([Double(5.1), Int(6)]), false),
        ("contains", json!([1, 5.0]), Int(5), true),
        ("contains", json!([1, 5.1]), Int(5), false),
    ] {
        let fields = json!({"n": field});
        assert_eq!(
            holds("n", op, kind.clone(), &fields),
            expected,
            "{field} {op} {kind:?}"
        );
    }
}

#[test]
fn strings_compare_byte_by_byte() {
    for (op, field, value, expected) in [
        ("==", "Ann", "Ann", true),
        ("==", "Ann", "ann", false),
        ("<", "Z", "a", true),
        ("<", "a", "ab", true),
        (">", "é", "z", true),
        (">", "\u{10000}", "\u{ffff}", true),
        ("<=", "", "", true),
        (">=", "10", "9", false),
    ] {
        let fields = json!({"s": field});
        assert_eq!(
            holds("s", op, text(value), &fields),
            expected,
            "{field} {op} {value}"
        );
    }
}

#[test]
fn false_is_less_than_true() {
    for (op, field, value, expected) in [
        ("==", true, true, true),
        ("!=", true, false, true),
        ("<", false, true, true),
        ("<", true, true, false),
        (">=", true, false, true),
        (">", false, true, false),
        ("<=", false, false, true),
    ] {
        let fields = json!({"b": field});
        assert_eq!(
            holds("b", op, Bool(value), &fields),
            expected,
            "{field} {op} {value}"
        );
    }
}

#[test]
fn different_kinds_are_unequal_and_have_no_order() {
    for (field, kind) in [
        (json!("5"), Int(5)),
        (json!(5), text("5")),
        (json!(1), Bool(true)),
        (json!(true), Int(1)),
        (json!(true), Double(1.0)),
        (json!("true"), Bool(true)),
        (json!(["a"]), text("a")),
        (json!({"a": 1}), text("a")),
        (json!({"a": 1}), Int(1)),
        (json!(null), text("")),
        (json!(null), Int(0)),
        (json!(null), Bool(false)),
    ] {
        let fields = json!({"x": field});
        let of = |op| holds("x", op, kind.clone(), &fields);
        assert!(!of("=="), "{field} == {kind:?}");
        assert!(of("!="), "{field} != {kind:?}");
        for op in ["<", "<=", ">", ">="] {
            assert!(!of(op), "{field} {op} {kind:?}");
        }
    }
}

#[test]
fn a_missing_field_never_matches_not_even_unequal() {
    let fields = json!({"a": {"b": 1}});
    for op in ["==", "!=", "<", "<=", ">", ">=", "contains"] {
        for path in ["x", "a.x", "a.b.x", "x.y"] {
            assert!(!holds(path, op, Int(1), &fields), "{path} {op}");
            assert!(!holds(path, op, text(""), &fields), "{path} {op}");
        }
    }
    assert!(!holds("x", "in", list([Int(1)]), &fields));
    assert!(!holds("x", "==", list([]), &fields));
}

#[test]
fn a_null_field_is_only_unequal() {
    let fields = json!({"x": null});
    assert!(holds("x", "!=", text("x"), &fields));
    assert!(holds("x", "!=", list([]), &fields));
    for op in ["==", "<", "<=", ">", ">=", "contains"] {
        assert!(!holds("x", op, text("x"), &fields), "{op}");
    }
    assert!(!holds(
        "x",
        "in",
        list([text("x"), Int(0), Bool(false)]),
        &fields
    ));
}

#[test]
fn null_equals_a_null_field_and_no_missing_one() {
    let null = || Kind::NullValue(true);
    for (field, op, kind, expected) in [
        (json!(null), "==", null(), true),
        (json!(null), "!=", null(), false),
        (json!(null), "in", list([Int(1), null()]), true),
        (json!(null), "in", list([Int(1)]), false),
        (json!(0), "==", null(), false),
        (json!(0), "!=", null(), true),
        (json!(""), "!=", null(), true),
        (json!(false), "==", null(), false),
        (json!({}), "!=", null(), true),
        (json!([null]), "!=", null(), true),
        (json!([1, null]), "contains", null(), true),
        (json!([1]), "contains", null(), false),
        (json!({"null": 1}), "contains", null(), false),
        (json!([null]), "==", list([null()]), true),
        (json!([0]), "==", list([null()]), false),
    ] {
        let fields = json!({"x": field, "y": null});
        assert_eq!(
            holds("x", op, kind.clone(), &fields),
            expected,
            "{field} {op} {kind:?}"
        );
        assert!(!holds("missing", op, kind, &fields), "missing {op}");
    }
    for op in ["<", "<=", ">", ">="] {
        let refused = parse(&[message("x", op, null())]).unwrap_err().to_string();
        assert!(refused.contains("does not apply to null"), "{refused}");
    }
}

#[test]
fn keys_with_dots_are_reached_one_by_one() {
    let fields = json!({"a.b": 1, "a": {"b": 2, "c.d": {"e": 3}}});
    for (keys, value) in [
        (&["a.b"][..], Some(1)),
        (&["a", "b"], Some(2)),
        (&["a", "c.d", "e"], Some(3)),
        (&["a", "c", "d", "e"], None),
        (&["a.c.d.e"], None),
    ] {
        for number in 1..=3 {
            let filter = parse(&[message_on_keys(keys, "==", Int(number))]).unwrap();
            let found = evaluate(&filter, &Document::of(&event(&fields))).unwrap();
            assert_eq!(found, value == Some(number), "{filter}");
        }
    }
    let plain = parse(&[message("a.b", "==", Int(2))]).unwrap();
    assert_eq!(
        parse(&[message_on_keys(&["a", "b"], "==", Int(2))]),
        Ok(plain)
    );
}

#[test]
fn in_holds_for_any_element_of_any_kind() {
    let mixed = || list([text("a"), Int(1), Bool(true), list([Int(2), Int(3)])]);
    for (field, expected) in [
        (json!("a"), true),
        (json!(1), true),
        (json!(1.0), true),
        (json!(true), true),
        (json!([2, 3]), true),
        (json!([3, 2]), false),
        (json!("1"), false),
        (json!(false), false),
        (json!({"a": 1}), false),
    ] {
        assert_eq!(
            holds("x", "in", mixed(), &json!({"x": field})),
            expected,
            "{field}"
        );
    }
}

#[test]
fn in_an_empty_list_never_holds() {
    for field in [json!(1), json!(""), json!(null), json!([])] {
        assert!(!holds("x", "in", list([]), &json!({"x": field})), "{field}");
    }
}

#[test]
fn in_with_a_scalar_is_refused() {
    for kind in [text("a"), Int(1), Double(1.0), Bool(true)] {
        let refused = parse(&[message("x", "in", kind)]).unwrap_err();
        assert!(
            matches!(refused.fault, FilterFault::NotAList { .. }),
            "{refused}"
        );
    }
}

#[test]
fn contains_is_membership_in_a_list() {
    let fields = json!({"x": ["a", 1, null, [1, "b"], {"k": 1}]});
    assert!(holds("x", "contains", text("a"), &fields));
    assert!(holds("x", "contains", list([Int(1), text("b")]), &fields));
    assert!(!holds("x", "contains", text("k"), &fields));
    assert!(!holds("x", "contains", text("b"), &fields));
}

#[test]
fn contains_is_presence_of_a_key_in_an_object() {
    let fields = json!({"x": {"k": null, "1": 2}});
    assert!(holds("x", "contains", text("k"), &fields));
    assert!(!holds("x", "contains", text("v"), &fields));
    assert!(!holds("x", "contains", Int(1), &fields));
}

#[test]
fn contains_never_holds_for_scalars() {
    for field in [json!("abc"), json!(1), json!(true), json!(null)] {
        let fields = json!({"x": field});
        for kind in [text("a"), text("abc"), text(""), Int(1), Bool(true)] {
            assert!(
                !holds("x", "contains", kind.clone(), &fields),
                "{field} {kind:?}"
            );
        }
    }
}

#[test]
fn lists_are_compared_deeply() {
    let value = || list([Int(1), list([text("a"), Bool(false)])]);
    for (field, equal) in [
        (json!([1, ["a", false]]), true),
        (json!([1.0, ["a", false]]), true),
        (json!([1, ["a"]]), false),
        (json!([1, ["a", false], 2]), false),
        (json!([["a", false], 1]), false),
        (json!([1, {"0": "a"}]), false),
        (json!("[1]"), false),
    ] {
        let fields = json!({"x": field});
        assert_eq!(holds("x", "==", value(), &fields), equal, "{field}");
        assert_eq!(holds("x", "!=", value(), &fields), !equal, "{field}");
    }
    assert!(holds("x", "==", list([]), &json!({"x": []})));
}

#[test]
fn an_order_of_lists_is_refused() {
    for op in ["<", "<=", ">", ">="] {
        let refused = parse(&[message("x", op, list([Int(1)]))]).unwrap_err();
        assert!(
            matches!(refused.fault, FilterFault::NoOrder { .. }),
            "{refused}"
        );
    }
}

#[test]
fn a_path_is_split_at_every_dot_and_leads_through_objects_only() {
    let fields = json!({
        "a": {"b": {"c": 1}},
        "a.b": {"c": 2},
        "list": [{"c": 1}],
        "scalar": "text",
        "": {"": 3},
    });
    assert!(holds("a.b.c", "==", Int(1), &fields));
    assert!(!holds("a.b.c", "==", Int(2), &fields));
    assert!(!holds("list.0", "!=", text(""), &fields));
    assert!(!holds("list.0.c", "==", Int(1), &fields));
    assert!(!holds("scalar.x", "!=", text(""), &fields));
    assert!(holds(".", "==", Int(3), &fields));
    assert!(holds("", "contains", text(""), &fields));
    assert!(!holds("a.", "!=", Int(1), &fields));
}

#[test]
fn all_conditions_must_hold() {
    let fields = json!({"a": 1, "b": "x"});
    let both = |a: i64, field: &str| {
        let filters = [message("a", "==", Int(a)), message(field, "==", text("x"))];
        evaluate(&parse(&filters).unwrap(), &Document::of(&event(&fields))).unwrap()
    };
    assert!(both(1, "b"));
    assert!(!both(2, "b"));
    assert!(!both(1, "missing"));
    assert!(!both(2, "missing"));
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for double in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (op, kind) in [
            ("==", Double(double)),
            ("in", list([Int(1), Double(double)])),
            ("contains", list([list([Double(double)])])),
        ] {
            let refused = parse(&[message("x", op, kind)]).unwrap_err();
            assert_eq!(refused.fault, FilterFault::NotFinite);
        }
    }
}

#[test]
fn the_ends_of_the_number_ranges_are_taken() {
    for (field, kind) in [
        (json!(i64::MIN), Int(i64::MIN)),
        (json!(i64::MAX), Int(i64::MAX)),
        (json!(1e21), Double(1e21)),
        (json!(1e-7), Double(1e-7)),
        (json!(1e300), Double(1e300)),
        (json!(f64::MAX), Double(f64::MAX)),
        (json!(f64::MIN_POSITIVE), Double(f64::MIN_POSITIVE)),
    ] {
        assert!(
            holds("x", "==", kind.clone(), &json!({"x": field})),
            "{kind:?}"
        );
    }
}

#[test]
fn values_and_elements_without_a_kind_are_refused() {
    let nothing = wire::Value { kind: None };
    let with = |value| {
        let filter = wire::Filter {
            value,
            ..message("x", "==", Int(1))
        };
        parse(&[filter]).unwrap_err().to_string()
    };
    assert_eq!(with(None), "value is nil");
    assert_eq!(
        with(Some(nothing.clone())),
        "unsupported proto value type: <nil>"
    );
    let list = Kind::ListValue(wire::ListValue {
        values: vec![nothing],
    });
    let list = wire::Value { kind: Some(list) };
    assert_eq!(with(Some(list)), "unsupported proto value type: <nil>");
}

#[test]
fn operators_are_taken_in_both_spellings_letter_for_letter() {
    for op in Op::ALL {
        for spelling in [Spelling::Symbols, Spelling::Words] {
            assert_eq!(op.spelled(spelling).parse(), Ok(op));
        }
    }
    for op in ["", "=", "EQ", " ==", "array-contains", "IN", "ge", "<>"] {
        let refused = parse(&[message("x", op, Int(1))]).unwrap_err();
        assert_eq!(refused.to_string(), format!("unsupported operator: {op}"));
    }
}

#[test]
fn no_filters_select_the_whole_collection() {
    let filter = parse(&[]).unwrap();
    assert_eq!(filter.selection(), Selection::Collection);
    assert_eq!(filter, Filter::all());
    assert_eq!(
        evaluate(&filter, &Document::of(&event(&json!({})))),
        Ok(true)
    );
}

#[test]
fn one_equality_on_the_id_selects_a_document() {
    for op in ["==", "eq"] {
        let filter = parse(&[message("_id", op, text("u1"))]).unwrap();
        assert_eq!(filter.selection(), Selection::Document("u1"));
        let data = json!({"_id": "other"}).to_string();
        for (id, expected) in [("u1", true), ("other", false)] {
            let event = event_of(id, data.clone());
            assert_eq!(evaluate(&filter, &Document::of(&event)), Ok(expected));
        }
    }
}

#[test]
fn the_id_field_in_other_company_is_an_ordinary_one() {
    let by_id = || message("_id", "==", text("u1"));
    let with_age = [by_id(), message("age", "==", Int(1))];
    let listed = [message("_id", "in", list([text("u1")]))];
    let other = [message("_id", "!=", text("u2"))];
    let twice = [by_id(), by_id()];
    for filters in [&with_age[..], &listed, &other, &twice] {
        let filter = parse(filters).unwrap();
        let on = |fields| evaluate(&filter, &Document::of(&event(&fields))).unwrap();
        assert!(!on(json!({"age": 1})), "{filter}: no such field");
        assert!(
            on(json!({"age": 1, "_id": "u1"})),
            "{filter}: a user's own field"
        );
    }
    assert!(parse(&[message("_id", ">", Int(1))]).is_ok());
    assert!(parse(&[by_id(), message("_id", "==", Int(1))]).is_ok());
}

#[test]
fn the_names_of_the_event_are_fields_and_win_over_the_data() {
    let fields = json!({"id": "forged", "collection": "forged", "version": 3});
    assert!(holds("id", "==", text("u1"), &fields));
    assert!(holds("id", "in", list([text("u1")]), &fields));
    assert!(holds("collection", "==", text("users"), &fields));
    assert!(!holds("id", "==", text("forged"), &fields));
    assert!(holds("version", ">", Int(2), &fields));
    assert!(!holds("id.x", "!=", text(""), &fields));
}
