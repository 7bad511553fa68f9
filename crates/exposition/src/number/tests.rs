use proptest::prelude::*;

use super::*;

fn value(text: &str) -> Option<u64> {
    full(text.as_bytes(), true).ok().map(f64::to_bits)
}

#[test]
fn numbers_are_those_of_go() {
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
        ("0x1p-2", 0.25),
        ("-0X1.8P+1", -3.0),
        ("0x.8p0", 0.5),
        ("0x1p-1074", 5e-324),
        ("0x1p-1075", 0.0),
        ("0x1.8p-1075", 5e-324),
        ("0x1.fffffffffffff7p0", 1.999_999_999_999_999_8),
        ("0x1.fffffffffffff8p0", 2.0),
        ("0x1.00000000000008p0", 1.0),
        ("0x1.000000000000080000000000001p0", 1.000_000_000_000_000_2),
        ("0x0p99999999999999999999", 0.0),
        ("0x1p-99999999999999999999", 0.0),
    ] {
        assert_eq!(value(text), Some(expected.to_bits()), "{text}");
    }
    for text in ["NaN", "nan", "NAN"] {
        assert!(full(text.as_bytes(), true).is_ok_and(f64::is_nan), "{text}");
    }
    let invalid = "- + . e1 1e 1e+ 1_000 1,5 0x1 0xp1 0x1p 0x1p+ 0x1.2.3p1 +NaN -NaN in Infinit infinity1 \
                   1f --1 0b1p1 \u{661}";
    for text in invalid.split(' ').chain(["", "1 "]) {
        assert_eq!(
            full(text.as_bytes(), true),
            Err(NumberFault::Invalid),
            "{text}"
        );
    }
    for text in [
        "1e400",
        "-1e309",
        "0x1p1024",
        "0x1p99999999999999999999",
        "0x1.fffffffffffff8p1023",
    ] {
        assert_eq!(
            full(text.as_bytes(), true),
            Err(NumberFault::OutOfRange),
            "{text}"
        );
    }
    assert_eq!(full(b"0x1p1", false), Err(NumberFault::Invalid));
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
            prop_assert_eq!(full(text.as_bytes(), true), Err(NumberFault::OutOfRange));
        }
    }

    #[test]
    fn a_hexadecimal_double_reads_back_as_itself(value in any::<f64>().prop_filter("finite", |value| value.is_finite())) {
        let bits = value.to_bits();
        let (exponent, fraction) = (bits >> 52 & 0x7ff, bits & ((1 << 52) - 1));
        let (lead, exponent) = if exponent == 0 { (0, -1022) } else { (1, exponent.cast_signed() - 1023) };
        let sign = if value.is_sign_negative() { "-" } else { "" };
        let text = format!("{sign}0x{lead}.{fraction:013x}p{exponent}");
        prop_assert_eq!(full(text.as_bytes(), true).map(f64::to_bits), Ok(bits), "{}", text);
    }
}
