//! Defects of the original, which must not return.

use serde_json::json;

use super::*;

use Kind::{BoolValue as Bool, DoubleValue as Double, IntValue as Int};

#[test]
fn an_invalid_document_id_is_refused() {
    for op in ["==", "eq"] {
        for kind in [Int(5), Double(5.0), Bool(true), list([text("u1")])] {
            let refused = parse(&[message("_id", op, kind)]).unwrap_err();
            assert!(
                matches!(refused.fault, FilterFault::DocumentIdNotText { .. }),
                "{refused}"
            );
        }
        let refused = parse(&[message("_id", op, text(""))]).unwrap_err();
        assert_eq!(refused.fault, FilterFault::EmptyDocumentId);
        let valueless = wire::Filter {
            value: None,
            ..message("_id", op, Int(1))
        };
        assert_eq!(parse(&[valueless]).unwrap_err().fault, FilterFault::NoValue);
    }
}

#[test]
fn text_of_values_matches_only_itself() {
    let hostile = [
        r"zz\' || true //",
        r"C:\temp",
        r"\q",
        "\\",
        "\t",
        "a\nb",
        "'",
        "''",
        "\"",
        "'] || true || doc['x",
        "\0",
        "%s",
        "${x}",
    ];
    for value in hostile {
        assert!(
            holds("x", "==", text(value), &json!({"x": value})),
            "{value:?}"
        );
        assert!(
            holds("x", "in", list([text(value)]), &json!({"x": value})),
            "{value:?}"
        );
        assert!(
            holds("x", "contains", text(value), &json!({"x": [value]})),
            "{value:?}"
        );
        for other in hostile
            .into_iter()
            .chain(["", "t", "\\t", "zz"])
            .filter(|it| *it != value)
        {
            let fields = json!({"x": other});
            assert!(
                !holds("x", "==", text(value), &fields),
                "{value:?} is not {other:?}"
            );
        }
    }
}

#[test]
fn text_of_fields_names_only_a_field() {
    for field in [
        r"i'] == 5 || true || doc['x",
        "it's",
        "a\\b",
        "a\nb",
        "\"",
        "a b",
    ] {
        assert!(
            !holds(field, "==", Int(7), &json!({"i": 5, "x": 7})),
            "{field:?}"
        );
        let fields = json!({ field: 7 });
        assert!(holds(field, "==", Int(7), &fields), "{field:?}");
    }
}

#[test]
fn integers_beyond_two_to_the_53_are_told_apart() {
    let exact = 9_007_199_254_740_993_i64;
    let fields = json!({"n": exact});
    assert!(holds("n", "==", Int(exact), &fields));
    assert!(!holds("n", "==", Int(exact - 1), &fields));
    assert!(!holds("n", "==", Double(9_007_199_254_740_992.0), &fields));
    assert!(holds("n", ">", Double(9_007_199_254_740_992.0), &fields));
    assert!(!holds(
        "n",
        "in",
        list([Int(exact - 1), Int(exact + 1)]),
        &fields
    ));
    let large = json!({"n": u64::MAX});
    assert!(holds("n", ">", Int(i64::MAX), &large));
    assert!(holds(
        "n",
        "<",
        Double(18_446_744_073_709_551_616.0),
        &large
    ));
    assert!(!holds(
        "n",
        "==",
        Double(18_446_744_073_709_551_616.0),
        &large
    ));
}

#[test]
fn doubles_of_documents_are_read_to_the_last_bit() {
    // A parser that rounds twice misses the nearest double of this one.
    let data = r#"{"n": 121.48791951161945}"#;
    let event = event_of("u1", data);
    let filter = parse(&[message(
        "n",
        "==",
        Double("121.48791951161945".parse().unwrap()),
    )]);
    assert_eq!(evaluate(&filter.unwrap(), &Document::of(&event)), Ok(true));
}

#[test]
fn values_no_filter_can_hold_are_errors() {
    for (json, fault) in [
        (json!({"a": 1}), InvalidValue::Object),
        (json!(u64::MAX), InvalidValue::TooLarge(u64::MAX)),
        (json!([1, [{}]]), InvalidValue::Object),
        (json!(["a", {}]), InvalidValue::Object),
    ] {
        assert_eq!(Value::try_from(&json), Err(fault), "{json}");
    }
    for double in [f64::NAN, f64::INFINITY] {
        let refused = Filter::new([
            Condition::new("a", Op::Eq, 1),
            Condition::new("b", Op::In, vec![double]),
        ]);
        let refused = refused.unwrap_err();
        assert_eq!((refused.index, refused.fault), (1, FilterFault::NotFinite));
    }
}

#[test]
fn lists_of_every_type_of_value_arrive_whole() {
    let filter = Filter::new([
        Condition::new("tag", Op::In, ["a", "b"]),
        Condition::new("n", Op::In, vec![1_u8, 2]),
        Condition::new(
            "x",
            Op::Contains,
            vec![Value::from(1.5_f32), Value::from(true)],
        ),
        Condition::new("big", Op::Eq, Value::try_from(1_u64 << 63).unwrap()),
        Condition::new("name", Op::Ne, String::from("Ann")),
    ])
    .unwrap();
    let expected = [
        message("tag", "in", list([text("a"), text("b")])),
        message("n", "in", list([Int(1), Int(2)])),
        message("x", "contains", list([Double(1.5), Bool(true)])),
        message("big", "eq", Double(9_223_372_036_854_775_808.0)),
        message("name", "ne", text("Ann")),
    ];
    assert_eq!(filter.to_wire(Spelling::Words), expected);
    assert_eq!(parse(&filter.to_wire(Spelling::Symbols)), Ok(filter));
}

#[test]
fn a_filter_beyond_a_limit_is_refused_at_once() {
    let limits = FilterLimits {
        max_filters: 2,
        max_list: 3,
        max_bytes: 64,
        max_depth: 2,
    };
    let parse = |filters: &[wire::Filter]| Filter::parse(filters, &limits);
    let small = || message("a", "==", Int(1));
    assert!(parse(&[small(), small()]).is_ok());
    let fault = |filters: &[wire::Filter]| parse(filters).unwrap_err().fault;
    let three = [small(), small(), small()];
    assert_eq!(fault(&three), FilterFault::TooManyConditions { limit: 2 });

    let ints = |count: i64| list((0..count).map(Int));
    assert!(parse(&[message("a", "in", ints(3))]).is_ok());
    let long = FilterFault::TooManyElements { limit: 3 };
    assert_eq!(fault(&[message("a", "in", ints(4))]), long);
    let spread = [message("a", "in", ints(2)), message("a", "in", ints(2))];
    assert_eq!(fault(&spread), long);

    assert!(parse(&[message("a", "==", text(&"x".repeat(61)))]).is_ok());
    let large = FilterFault::TooManyBytes { limit: 64 };
    assert_eq!(fault(&[message("a", "==", text(&"x".repeat(62)))]), large);
    assert_eq!(fault(&[message(&"x".repeat(65), "==", Int(1))]), large);
    assert_eq!(fault(&[message("a", &"=".repeat(65), Int(1))]), large);

    assert!(parse(&[message("a", "in", list([list([])]))]).is_ok());
    let deep = message("a", "in", list([list([list([])])]));
    assert_eq!(fault(&[deep]), FilterFault::TooDeep { limit: 2 });
}

#[test]
fn a_refusal_shortens_a_long_field() {
    let field = "é".repeat(500);
    let filters = [message("a", "==", Int(1)), message(&field, "in", text("a"))];
    let refused = parse(&filters).unwrap_err();
    assert_eq!((refused.index, refused.field.chars().count()), (1, 64));
    assert_eq!(
        parse(&[message("tag", "in", text("a"))])
            .unwrap_err()
            .to_string(),
        "filter 1 on \"tag\": operator in requires a list and the value is a string; \
         use == for equality"
    );
}

#[test]
fn data_that_is_no_document_is_an_error_that_tells_none_of_it() {
    let by_age = parse(&[message("age", ">", Int(1))]).unwrap();
    for data in [
        "{".to_owned(),
        "[1]".to_owned(),
        "\"secret\"".to_owned(),
        "{\"age\": secret}".to_owned(),
        "{\"age\": 1e999}".to_owned(),
        "{\"age\": 2} secret".to_owned(),
        format!(
            "{{\"age\": 2, \"deep\": {}1{}}}",
            "[".repeat(10_000),
            "]".repeat(10_000)
        ),
    ] {
        let event = event_of("u1", data.clone());
        let document = Document::of(&event);
        let invalid = evaluate(&by_age, &document).unwrap_err();
        assert_eq!(invalid.offset, 7);
        assert!(!invalid.to_string().contains("secret"), "{invalid}");
        assert_eq!(
            evaluate(&by_age, &document),
            Err(invalid),
            "the answer stays"
        );
        assert_eq!(
            evaluate(&Filter::all(), &document),
            Ok(true),
            "nobody had to look"
        );
    }
    let invalid_utf8 = event_of("u1", &b"{\"age\": \"\xff\"}"[..]);
    assert!(evaluate(&by_age, &Document::of(&invalid_utf8)).is_err());
}

#[test]
fn data_of_no_bytes_is_a_document_with_the_names_of_its_event() {
    let event = event_of("u1", "");
    let by_id = parse(&[message("id", "==", text("u1"))]).unwrap();
    assert_eq!(evaluate(&by_id, &Document::of(&event)), Ok(true));
}
