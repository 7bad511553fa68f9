//! Written pages are read back unchanged.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use steadfast_exposition::{Format, Kind, Numbers, Writer};
use support::{Metadata, Series, read};

fn written(value: f64, numbers: Numbers) -> String {
    let mut page = Writer::new(numbers);
    page.sample("m", [], value, None);
    let page = page.take();
    page.trim_start_matches("m ").trim_end().to_owned()
}

#[test]
fn plain_numbers_have_no_exponent() {
    for (value, plain, shortest) in [
        (1e21, "1000000000000000000000", "1e21"),
        (1e16, "10000000000000000", "1e16"),
        (123.25, "123.25", "123.25"),
        (1e-7, "0.0000001", "1e-7"),
        (-0.0, "-0", "-0"),
        (0.0, "0", "0"),
        (5.0, "5", "5"),
        (-10.0, "-10", "-10"),
        (0.1 + 0.2, "0.30000000000000004", "0.30000000000000004"),
        (1e-5, "0.00001", "0.00001"),
        (
            9.999_999_999_999_999e-6,
            "0.000009999999999999999",
            "9.999999999999999e-6",
        ),
        (
            1.234_567_890_123_456_8e-5,
            "0.000012345678901234568",
            "0.000012345678901234568",
        ),
        (
            9_999_999_999_999_998.0,
            "9999999999999998",
            "9999999999999998",
        ),
        (1e15 + 0.125, "1000000000000000.1", "1000000000000000.1"),
        (f64::NAN, "NaN", "NaN"),
        (f64::INFINITY, "+Inf", "+Inf"),
        (f64::NEG_INFINITY, "-Inf", "-Inf"),
    ] {
        assert_eq!(written(value, Numbers::Plain), plain);
        assert_eq!(written(value, Numbers::Shortest), shortest);
    }
    assert_eq!(written(f64::MAX, Numbers::Plain).len(), 309);
}

#[test]
fn a_family_is_announced_once() {
    let mut page = Writer::new(Numbers::Plain);
    page.family("a", Kind::Histogram, Some("line\nbreak and \\"));
    page.sample("a_bucket", [("le", "+Inf")], 1.0, None);
    let first = page.take();
    page.family("a", Kind::Gauge, Some("again"));
    page.sample("a_sum", [], 2.5, Some(-5));
    page.family("b", Kind::Unknown, None);
    assert_eq!(
        first,
        "# HELP a line\\nbreak and \\\\\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\n"
    );
    assert_eq!(page.as_str(), "a_sum 2.5 -5\n# TYPE b untyped\n");
}

#[test]
fn names_invalid_in_the_old_format_are_quoted() {
    let mut page = Writer::new(Numbers::Plain);
    page.family("my.metric", Kind::Counter, Some("x"));
    page.sample("my.metric", [], 1.0, None);
    page.sample(
        "my.metric",
        [("a", "1"), ("b.c", "2"), ("d:e", "3")],
        1.0,
        None,
    );
    page.sample("1a", [("1b", "\"\\\n")], 1.0, None);
    page.sample("a:b", [("", "left out"), ("__x", "")], 1.0, None);
    page.sample("", [("a", "left out")], 1.0, None);
    page.family("", Kind::Gauge, None);
    assert_eq!(
        page.as_str(),
        "# HELP \"my.metric\" x\n# TYPE \"my.metric\" counter\n{\"my.metric\"} 1\n\
         {\"my.metric\",a=\"1\",\"b.c\"=\"2\",\"d:e\"=\"3\"} 1\n{\"1a\",\"1b\"=\"\\\"\\\\\\n\"} 1\na:b{__x=\"\"} 1\n"
    );
}

/// Text with all characters that have a meaning in the format.
fn text(min: usize) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("a".to_owned()),
        Just("_".to_owned()),
        "[a-z0-9:.]",
        "[\\\\\"\n{}=, #\t\r]",
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, min..6).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        any::<i32>().prop_map(f64::from),
        any::<i32>().prop_map(|value| f64::from(value) / 1000.0),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Unknown),
        Just(Kind::Gauge),
        Just(Kind::Counter),
        Just(Kind::Histogram),
        Just(Kind::Summary)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_written_page_reads_back_as_written(
        families in proptest::collection::btree_map(text(1), (kind(), proptest::option::of(text(0))), 0..4),
        samples in proptest::collection::vec(
            (text(1), proptest::collection::btree_map(text(1), text(0), 0..4), value(), proptest::option::of(any::<i64>())), 0..6),
        plain in any::<bool>(),
    ) {
        let numbers = if plain { Numbers::Plain } else { Numbers::Shortest };
        let mut page = Writer::new(numbers);
        let mut expected_families: BTreeMap<String, Metadata> = BTreeMap::new();
        for (name, (kind, help)) in &families {
            // A carriage return at the end of a line is part of the line end, and help texts have no
            // escape for it.
            let kept = help.as_deref().map(|help| help.strip_suffix('\r').unwrap_or(help).to_owned());
            page.family(name, *kind, help.as_deref());
            expected_families.insert(name.clone(), (kept, Some(*kind), None));
        }
        let mut expected: Vec<(Series, u64, Option<i64>)> = Vec::new();
        for (name, labels, value, timestamp) in &samples {
            let of_text = labels.iter().map(|(label, value)| (label.as_str(), value.as_str()));
            page.sample(name, of_text, *value, *timestamp);
            // Empty labels are dropped, and text does not preserve the bits of a NaN.
            let kept = labels.iter().filter(|(_, value)| !value.is_empty());
            let kept = kept.map(|(label, value)| (label.clone(), value.clone())).collect();
            let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
            expected.push(((name.clone(), kept), bits, *timestamp));
        }
        let read = read(Format::Prometheus, page.as_str());
        prop_assert_eq!(&read.faults, &[]);
        prop_assert_eq!(read.samples, expected);
        prop_assert_eq!(read.families, expected_families);
    }
}
