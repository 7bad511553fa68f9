//! What holds for every filter and every document.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value as Json, json};

use super::{numbers::any_number, *};

/// Filters of few fields and values, so that they often hold; some are to be refused.
pub(crate) fn any_filters() -> impl Strategy<Value = Vec<wire::Filter>> {
    let field = select(vec![
        "a",
        "b",
        "a.b",
        "a.b.a",
        "id",
        "_id",
        "collection",
        "",
        ".",
    ]);
    let op = select(vec![
        "==", "!=", ">", ">=", "<", "<=", "in", "contains", "eq", "ne", "gt", "gte", "lt", "lte",
        "in", "contains", "=",
    ]);
    let keys = select(vec!["a", "b", "a.b", "", "_id", "id"]);
    let filter = prop_oneof![
        3 => field.prop_map(|field| message(field, "", Kind::NullValue(true))),
        1 => vec(keys, 1..3).prop_map(|keys| message_on_keys(&keys, "", Kind::NullValue(true))),
    ];
    let usual = (filter, op, any_kind())
        .prop_map(|(filter, op, kind)| wire::Filter {
            op: op.to_owned(),
            value: Some(wire::Value { kind: Some(kind) }),
            ..filter
        })
        .boxed();
    let by_id = select(vec!["u1", "u2", ""]).prop_map(|id| vec![message("_id", "==", text(id))]);
    prop_oneof![
        1 => Just(Vec::new()),
        2 => by_id,
        12 => vec(usual.clone(), 1),
        6 => vec(usual, 2..4),
    ]
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let leaf = prop_oneof![
        4 => select(vec!["", "a", "b", "u1", "users"]).prop_map(text),
        4 => (-2..3_i64).prop_map(Kind::IntValue),
        2 => select(vec![0.0, -0.0, 1.0, 1.5, -2.0]).prop_map(Kind::DoubleValue),
        2 => any_number().prop_map(|number| {
            let double = || Kind::DoubleValue(number.as_f64().unwrap());
            number.as_i64().map_or_else(double, Kind::IntValue)
        }),
        2 => any::<bool>().prop_map(Kind::BoolValue),
        1 => Just(Kind::NullValue(true)),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| vec(inner, 0..4).prop_map(list))
}

/// The fields of a document.
pub(crate) fn any_fields() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        1 => Just(Json::Null),
        4 => select(vec!["", "a", "b", "u1", "users"]).prop_map(Json::from),
        4 => (-2..3_i64).prop_map(Json::from),
        2 => select(vec![0.0, -0.0, 1.0, 1.5, -2.0]).prop_map(Json::from),
        2 => any_number().prop_map(Json::Number),
        2 => any::<bool>().prop_map(Json::from),
    ];
    let any_json = leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Json::from),
            any_object(inner),
        ]
    });
    any_object(any_json)
}

fn any_object(json: impl Strategy<Value = Json>) -> impl Strategy<Value = Json> {
    let key = select(vec!["a", "b", "", "a.b", "_id", "id"]);
    prop::collection::btree_map(key, json, 0..4).prop_map(|fields| {
        let fields = fields.into_iter().map(|(key, json)| (key.to_owned(), json));
        Json::Object(fields.collect())
    })
}

/// Messages with anything in them that protobuf can carry.
fn any_message() -> impl Strategy<Value = wire::Filter> {
    let leaf = prop_oneof![
        ".*".prop_map(Kind::StringValue),
        any::<i64>().prop_map(Kind::IntValue),
        prop::num::f64::ANY.prop_map(Kind::DoubleValue),
        any::<bool>().prop_map(Kind::BoolValue),
        any::<bool>().prop_map(Kind::NullValue),
    ];
    let value = prop::option::weighted(0.95, leaf)
        .prop_map(|kind| wire::Value { kind })
        .prop_recursive(8, 32, 4, |inner| {
            vec(inner, 0..4).prop_map(|values| wire::Value {
                kind: Some(Kind::ListValue(wire::ListValue { values })),
            })
        });
    let known = select(Op::ALL.to_vec()).prop_map(|op| op.to_string());
    let op = prop_oneof![9 => known, 1 => ".*"];
    let path = prop_oneof![Just(Vec::new()), vec("[a. \"]{0,3}", 1..4)];
    (".*", op, prop::option::weighted(0.95, value), path).prop_map(|(field, op, value, path)| {
        wire::Filter {
            field,
            op,
            value,
            path,
        }
    })
}

proptest! {
    #[test]
    fn a_filter_means_what_the_naive_reading_says(
        filters in any_filters(),
        fields in any_fields(),
        id in select(vec!["u1", "u2", "a"]),
    ) {
        let event = event_of(id, fields.to_string());
        let meant = naive::holds(&filters, &event);
        let parsed = parse(&filters).ok();
        let found = parsed.map(|filter| evaluate(&filter, &Document::of(&event)).unwrap());
        prop_assert_eq!(found, meant);
    }

    #[test]
    fn any_message_is_read_or_refused(filters in vec(any_message(), 0..4), fields in any_fields()) {
        match parse(&filters) {
            Ok(filter) => {
                prop_assert!(evaluate(&filter, &Document::of(&event(&fields))).is_ok());
                for spelling in [Spelling::Symbols, Spelling::Words] {
                    prop_assert_eq!(&parse(&filter.to_wire(spelling)).unwrap(), &filter);
                }
            }
            Err(refused) => prop_assert!(!refused.to_string().is_empty()),
        }
    }

    #[test]
    fn any_data_is_a_document_or_an_error(data in vec(any::<u8>(), 0..64)) {
        let by_a = parse(&[message("a", "!=", Kind::IntValue(1))]).unwrap();
        let event = event_of("u1", data.clone());
        let readable = data.is_empty() || serde_json::from_slice::<Json>(&data)
            .is_ok_and(|json| json.is_object());
        prop_assert_eq!(evaluate(&by_a, &Document::of(&event)).is_ok(), readable);
    }

    #[test]
    fn a_filter_reads_back_from_its_text(filters in vec(any_message(), 1..4)) {
        let Ok(filter) = parse(&filters) else { return Ok(()) };
        let texts = filter.conditions().iter().map(ToString::to_string);
        prop_assert_eq!(Filter::from_text(texts), Ok(filter));
    }

    #[test]
    fn any_text_is_read_or_refused_at_a_place_within_it(
        text in prop_oneof![".*", "[a-z\"]{0,3} ?[=!<>]{0,3} ?[\\[\"a1é, .-]{0,6}"],
    ) {
        if let Err(refused) = Filter::from_text([&text]) {
            prop_assert!((1..=text.chars().count() + 1).contains(&refused.column));
        }
    }
}

#[test]
fn deep_documents_within_the_bound_are_read() {
    let deep = (0..100).fold(json!(1), |inside, _| json!({ "a": inside }));
    let path = vec!["a"; 100].join(".");
    assert!(holds(&path, "==", Kind::IntValue(1), &deep));
}
