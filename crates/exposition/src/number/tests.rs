use proptest::prelude::*;

use super::*;

fn value(text: &str) -> Option<u64> {
    full(text.as_bytes()).ok().map(f64::to_bits)
}

#[test]
fn numbers_are_those_of_prometheus() {
    for (text, expected) in [
        ("0", 0.0),
        ("-0", -0.0),
        ("+1", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5e1", -5.0),
        ("1e3", 1000.0),
        ("1E+03", 1000.0),
        ("1e-3", 0.001),
        ("00012", 12.0),
        ("1e0000000000000001", 10.0),
        ("9007199254740993", 9_007_199_254_740_992.0),
        ("18446744073709551615", 18_446_744_073_709_551_615.0),
        ("1e-400", 0.0),
        ("5e-324", 5e-324),
        ("1.7976931348623157e308", f64::MAX),
        ("Inf", f64::INFINITY),
        ("+inf", f64::INFINITY),
        ("-INFINITY", f64::NEG_INFINITY),
    ] {
        assert_eq!(value(text), Some(expected.to_bits()), "{text}");
    }
    for text in ["NaN", "nan", "NAN"] {
        assert!(full(text.as_bytes()).is_ok_and(f64::is_nan), "{text}");
    }
    let invalid = "- + . e1 1e 1e+ 1_000 1,5 0x1 0x1p1 0x1.8p-3 +NaN -NaN in Infinit infinity1 \
                   1f --1 0b1p1 \u{661}";
    for text in invalid.split(' ').chain(["", "1 "]) {
        assert_eq!(full(text.as_bytes()), Err(NumberFault::Invalid), "{text}");
    }
    for text in ["1e400", "-1e309"] {
        assert_eq!(
            full(text.as_bytes()),
            Err(NumberFault::OutOfRange),
            "{text}"
        );
    }
}

#[test]
fn a_plain_number_ends_before_the_next_byte() {
    for (text, length) in [("12\n", 2), ("1.5 7", 3), ("-3e+2\r", 5), ("1.\n", 2)] {
        assert_eq!(
            plain(text.as_bytes()).map(|(_, length)| length),
            Some(length),
            "{text}"
        );
    }
    for text in [
        "NaN",
        "",
        "-",
        ".",
        "1e",
        "1e400",
        "12345678901234567890",
        "0.1234567890123456789",
    ] {
        assert_eq!(plain(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn seconds_become_the_nearest_millisecond() {
    for (text, expected) in [
        ("1520879607.789", Some(1_520_879_607_789)),
        ("-1.5", Some(-1500)),
        ("0.0005", Some(1)),
        ("1e3", Some(1_000_000)),
        ("NaN", None),
        ("Inf", None),
        ("1e300", None),
        ("", None),
    ] {
        assert_eq!(seconds(text.as_bytes()), expected, "{text}");
    }
    assert_eq!(milliseconds(b"-5"), Some(-5));
    for text in ["1.5", "1e3", "9223372036854775808", "", " 1"] {
        assert_eq!(milliseconds(text.as_bytes()), None, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Both ways of parsing return the same bits as the standard library.
    #[test]
    fn a_decimal_is_the_double_of_the_standard_library(
        text in prop_oneof![
            any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| format!("{value}")),
            any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| format!("{value:e}")),
            any::<i64>().prop_map(|value| value.to_string()),
            (any::<i32>(), 0usize..12).prop_map(|(value, decimals)| format!("{:.decimals$}", f64::from(value) / 1000.0)),
            "[-+]?[0-9]{1,22}(\\.[0-9]{0,22})?([eE][-+]?[0-9]{1,2})?",
            "[-+]?[0-9]{0,3}\\.[0-9]{1,20}(e-?[0-9]{1,3})?",
        ]
    ) {
        let expected: f64 = text.parse().unwrap();
        if expected.is_finite() {
            prop_assert_eq!(value(&text), Some(expected.to_bits()), "{}", text);
            if let Some((read, length)) = plain(text.as_bytes()) {
                prop_assert_eq!(length, text.len());
                prop_assert_eq!(read.to_bits(), expected.to_bits());
            }
        } else {
            prop_assert_eq!(full(text.as_bytes()), Err(NumberFault::OutOfRange));
        }
    }
}
