//! The matcher reads documents as `Document` reads them, however they are written.

use std::fmt::Write as _;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::filter::{
    Document,
    tests::{
        naive,
        properties::{any_fields, any_filters},
    },
};

/// Documents in any writing of JSON: blanks, escapes, repeated members, numbers in several forms.
pub(super) fn any_data() -> impl Strategy<Value = String> {
    (any_fields(), vec(any::<u8>(), 0..64)).prop_map(|(fields, choices)| {
        let mut choices = choices.into_iter();
        let mut data = String::new();
        // Most documents are written without any of this.
        write(
            &fields,
            &mut move || choices.next().unwrap_or(255),
            &mut data,
        );
        data
    })
}

fn write(json: &Json, choose: &mut impl FnMut() -> u8, out: &mut String) {
    out.push_str(
        ["", " ", "\n\t", "\r"]
            .get(usize::from(choose() / 16))
            .unwrap_or(&""),
    );
    match json {
        Json::Null | Json::Bool(_) => out.push_str(&json.to_string()),
        Json::Number(number) => {
            out.push_str(&number.to_string());
            let whole = number.is_i64() || number.is_u64();
            let forms = if whole {
                [".0", "e0", ".000E+00"]
            } else {
                ["", "", ""]
            };
            out.push_str(forms.get(usize::from(choose() / 16)).unwrap_or(&""));
        }
        Json::String(text) => write_text(text, choose, out),
        Json::Array(elements) => {
            out.push('[');
            for (at, element) in elements.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                write(element, choose, out);
            }
            out.push(']');
        }
        Json::Object(members) => {
            out.push('{');
            let mut separator = "";
            for (name, member) in members {
                // A member that the one after it replaces.
                let earlier = [json!(1), json!({"a": 1, "b": {"a": "b"}}), json!(["a"])];
                if let Some(earlier) = earlier.get(usize::from(choose() / 16)) {
                    out.push_str(separator);
                    write_text(name, choose, out);
                    write!(out, ":{earlier}").unwrap();
                    separator = ",";
                }
                out.push_str(separator);
                write_text(name, choose, out);
                out.push_str([" :", ":"][usize::from(choose().min(1))]);
                write(member, choose, out);
                separator = ",";
            }
            out.push('}');
        }
    }
    out.push_str(
        ["", " ", "\n"]
            .get(usize::from(choose() / 16))
            .unwrap_or(&""),
    );
}

fn write_text(text: &str, choose: &mut impl FnMut() -> u8, out: &mut String) {
    if choose() > 64 {
        out.push_str(&Json::from(text).to_string());
        return;
    }
    out.push('"');
    for unit in text.encode_utf16() {
        write!(out, "\\u{unit:04x}").unwrap();
    }
    out.push('"');
}

/// A matcher with a filter on each of the fields.
fn matcher_that_reads(fields: &[&str]) -> Matcher {
    let mut matcher = Matcher::new(7);
    for (key, field) in (1..).zip(fields) {
        subscribe(&mut matcher, key, &[message(field, "!=", text("no such"))]);
    }
    matcher
}

/// Values in all states of repair.
const VALUES: &[&str] = &[
    "1e308",
    "1e309",
    "-1e309",
    "0e999",
    "1e-999",
    "1E+2",
    "1.5",
    "-0",
    "-0.0",
    "01",
    "-01",
    "00",
    "-",
    "+1",
    "1.",
    ".5",
    "1e",
    "1e+",
    "1.e1",
    "0x1",
    "1_0",
    "NaN",
    "Infinity",
    "true",
    "tru",
    "truex",
    "null",
    "nul",
    "False",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "-9223372036854775809",
    "[]",
    "[1,]",
    "[,1]",
    "[1 2]",
    "[1}",
    "{}",
    "{,}",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{a:1}",
    "{\"a\" 1}",
    "{\"a\":1 \"b\":2}",
    "\"",
    "",
    " ",
    "\"\\\"",
    "\"\\\"\"",
    "\"\\\\\"",
    "\"\\\\\\\"",
    "\"\\x\"",
    "\"\\u12\"",
    "\"\\u123g\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\"\\ude00\"",
    "\"\\ud83d\\n\"",
    "\"\\ud83d\\ud83d\"",
    "\"\\ud83dxx\"",
    "\"\t\"",
    "\"12345678\t\"",
    "\"1234567\u{1f}\"",
    "\"1234567\u{7f}\"",
    "\"\u{e9}\u{1f600}\u{80}\"",
    "\"/\\/\"",
    "'a'",
    "1 1",
    "\u{feff}1",
    "\u{a0}1",
    "\u{b}1",
    "//\n1",
    "\"\\b\\f\\n\\r\\t\"",
    "\"a\\",
];

#[test]
fn matcher_refuses_what_the_reader_of_documents_refuses() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let mut values: Vec<_> = VALUES.iter().map(ToString::to_string).collect();
    values.push("9".repeat(308));
    values.push("9".repeat(310));
    values.push(format!("0.{}", "9".repeat(400)));
    for depth in 124..130 {
        values.push(nested(depth));
        values.push(objects(depth));
        values.push(format!("[{}]", objects(depth)));
    }
    let reading = matcher_that_reads(&["a", "b.c", "a.a.a"]);
    let passing = matcher_that_reads(&["x"]);
    for value in &values {
        for data in [
            value.clone(),
            format!("{{\"a\":{value}}}"),
            format!("{{\"b\":{{\"c\":{value}}},\"d\":{value}}}"),
            format!(" {{ \"b\" : [ {value} , {{ \"c\" : {value} }} ] }} "),
        ] {
            let event = event_of("u1", data.clone());
            let refused = !data.is_empty() && Document::read(data.as_bytes()).is_err();
            for matcher in [&reading, &passing] {
                assert_eq!(matcher.start(&event).fault().is_some(), refused, "{data}");
            }
            let members = read_members(data.as_bytes());
            assert_eq!(members.is_none(), refused || data.is_empty(), "{data}");
        }
    }
}

#[test]
fn the_last_member_of_a_name_counts() {
    let mut matcher = Matcher::new(7);
    subscribe(&mut matcher, 1, &[message("n", "==", Kind::IntValue(1))]);
    subscribe(&mut matcher, 2, &[message("n", "==", Kind::IntValue(2))]);
    subscribe(&mut matcher, 3, &[message("n.a", "==", Kind::IntValue(1))]);
    subscribe(&mut matcher, 4, &[message("n.b", "==", Kind::IntValue(1))]);
    subscribe(&mut matcher, 5, &[message("id", "==", text("u1"))]);
    subscribe(&mut matcher, 6, &[message("id.a", "==", Kind::IntValue(1))]);
    for (data, expected) in [
        (r#"{"n":1,"n":2}"#, vec![2, 5]),
        (r#"{"n":{"a":1},"n":{"b":1}}"#, vec![4, 5]),
        (r#"{"n":{"a":1,"a":2},"n":1}"#, vec![1, 5]),
        (r#"{"n":1,"\u006e":null}"#, vec![5]),
        (r#"{"n":{"a":2,"\u0061":1},"id":{"a":1}}"#, vec![3, 5]),
    ] {
        assert_eq!(matched(&matcher, &event_of("u1", data)), expected, "{data}");
    }
}

#[test]
fn contains_finds_keys_beside_members_that_filters_read() {
    let mut matcher = Matcher::new(7);
    for (key, name) in (1..).zip(["a", "b", "c", "d"]) {
        subscribe(&mut matcher, key, &[message("o", "contains", text(name))]);
    }
    subscribe(
        &mut matcher,
        5,
        &[message("o.b.d", "==", Kind::IntValue(1))],
    );
    subscribe(&mut matcher, 6, &[message("o.b", "contains", text("d"))]);
    let data = r#"{"o":{"a":[1,{"c":1}],"b":{"d":1},"\u0062":{"d":1},"e":{"c":1}}}"#;
    assert_eq!(matched(&matcher, &event_of("u1", data)), [1, 2, 5, 6]);
}

#[test]
fn a_list_of_equal_elements_is_hashed_in_linear_time() {
    let mut matcher = Matcher::new(7);
    let two = [
        message("tags", "contains", text("a")),
        message("tags", "!=", text("b")),
        message("tags", "contains", list([Kind::IntValue(1)])),
        message("more", "contains", text("b")),
    ];
    subscribe(&mut matcher, 1, &two);
    let tags = "\"a\",".repeat(100_000);
    let more = "\"a\",[1,{}],".repeat(20);
    for (last, expected) in [("[1.0]", vec![1]), ("[1,1]", vec![]), ("\"b\"", vec![])] {
        let data = format!(r#"{{"tags":[{tags}{last}],"more":[{more}"b"]}}"#);
        // A chain of 100,000 entries with one hash would take minutes.
        assert_eq!(matched(&matcher, &event_of("u1", data)), expected, "{last}");
    }
}

proptest! {
    #[test]
    fn damaged_data_is_refused_and_other_data_read(
        filters in any_filters(),
        data in any_data(),
        damage in vec((any::<prop::sample::Index>(), select(b"\"\\{}[]:,0e. -nt\x01\xc3\xa9a".to_vec()), 0..3), 0..4),
    ) {
        let mut data = data.into_bytes();
        for (at, byte, kind) in damage {
            let at = at.index(data.len() + 1);
            match (kind, at < data.len()) {
                (0, true) => data[at] = byte,
                (1, true) => drop(data.remove(at)),
                _ => data.insert(at, byte),
            }
        }
        let Ok(filter) = parse(&filters) else { return Ok(()) };
        let mut matcher = Matcher::new(7);
        matcher.insert(SubscriptionKey(1), "default", "users", &filter);
        let readable = data.is_empty() || Document::read(&data).is_ok();
        let event = event_of("u1", data);
        let matching = matcher.start(&event);
        if let Selection::Conditions(_) = filter.selection() {
            prop_assert_eq!(matching.fault().is_none(), readable);
        }
        if !event.data.is_empty() {
            // The last member of a name is the one that counts.
            let members = read_members(&event.data).map(|members| {
                let members = members.into_iter();
                members
                    .map(|it| (it.name.into_owned(), serde_json::from_str(it.value).unwrap()))
                    .collect()
            });
            prop_assert_eq!(members, Document::read(&event.data).ok());
        }
        if readable && !event.data.is_empty() {
            let holds = naive::holds(&filters, &event).unwrap();
            prop_assert_eq!(matched(&matcher, &event).len(), usize::from(holds));
        }
    }
}
