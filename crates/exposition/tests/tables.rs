//! The meaning of single lines.

mod support;

use steadfast_exposition::{Format, Kind, Limits, Reason, Refused};
use support::{Reader, read};

use Format::{OpenMetrics, Prometheus};

/// Parses one line. Returns the sample, or the reason and the byte at fault.
fn one(format: Format, line: &str) -> Result<String, (Reason, usize)> {
    let page = read(format, format!("{line}\n"));
    match (page.lines().as_slice(), page.faults.as_slice()) {
        ([sample], []) => Ok(sample.clone()),
        ([], [(1, column, reason, _)]) => Err((*reason, *column)),
        (samples, faults) => panic!("{line}: {samples:?} {faults:?}"),
    }
}

/// Lines and the samples that they are.
macro_rules! accepted {
    ($format:ident: $($line:literal => $sample:literal,)*) => {
        $(assert_eq!(one($format, $line), Ok($sample.to_owned()), "{:?}", $line);)*
    };
}

/// Lines, and each one's fault with its column.
macro_rules! rejected {
    ($format:ident: $($line:literal => $reason:ident at $column:literal,)*) => {
        $(assert_eq!(one($format, $line), Err((Reason::$reason, $column)), "{:?}", $line);)*
    };
}

#[test]
fn usual_lines_may_have_tabs_blanks_and_any_line_end() {
    accepted! { Prometheus:
        "m 1" => "m 1",
        "m\t1" => "m 1",
        " \t m  \t1 \t" => "m 1",
        "m 1\r" => "m 1",
        "m{a=\"x\",}\t1\r" => r#"m a="x" 1"#,
    }
}

#[test]
fn empty_braces_are_no_labels() {
    accepted! { Prometheus:
        "m{} 1" => "m 1",
        "m{ } 1" => "m 1",
        "m {}1" => "m 1",
    }
}

#[test]
fn colons_belong_to_names_and_other_signs_need_quotes() {
    accepted! { Prometheus:
        "job:rate5m 1" => "job:rate5m 1",
        ":m 1" => ":m 1",
        r#"{"m-n"} 1"# => "m-n 1",
        r#"{"a.b",c="d"} 1"# => r#"a.b c="d" 1"#,
        r#"{c="d", "a.b"} 1"# => r#"a.b c="d" 1"#,
        r#"{"legacy"} 1"# => "legacy 1",
        r#"{"é\"\\\n{}"} 1"# => "é\"\\\n{} 1",
    }
    rejected! { Prometheus:
        "m-n 1" => InvalidName at 2,
        "a.b 1" => InvalidName at 2,
        "é 1" => InvalidName at 1,
        r#"{a="x"} 1"# => MissingName at 1,
        "{} 1" => MissingName at 1,
        r#"{""} 1"# => InvalidLabelName at 2,
        r#"m{"n"} 1"# => InvalidName at 3,
        r#"{"m","n"} 1"# => InvalidName at 6,
    }
}

#[test]
fn a_name_does_not_begin_with_a_digit() {
    rejected! { Prometheus:
        "1m 1" => InvalidName at 1,
        r#"m{1a="x"} 1"# => InvalidLabelName at 3,
    }
}

#[test]
fn braces_in_a_value_are_part_of_it() {
    accepted! { Prometheus:
        r#"m{p="/a/{id}"} 1"# => r#"m p="/a/{id}" 1"#,
        r#"m{p="} 2"} 1"# => r#"m p="} 2" 1"#,
        r#"m{p="a # {b=\"c\"} 7"} 1"# => r#"m p="a # {b=\"c\"} 7" 1"#,
        r#"m{p="x,y=z"} 1"# => r#"m p="x,y=z" 1"#,
    }
}

#[test]
fn an_empty_value_is_no_label_and_keeps_the_others() {
    accepted! { Prometheus:
        r#"m{a=""} 1"# => "m 1",
        r#"m{a="",b="x"} 1"# => r#"m b="x" 1"#,
    }
}

#[test]
fn blanks_around_equals_are_allowed_but_quotes_are_required() {
    accepted! { Prometheus:
        "m{ a = \"x\" , b\t=\"y\" } 1" => r#"m a="x" b="y" 1"#,
    }
    rejected! { Prometheus:
        "m{a=x} 1" => InvalidLabels at 5,
        "m{a} 1" => InvalidLabels at 4,
        "m{a=} 1" => InvalidLabels at 5,
    }
}

#[test]
fn escapes_are_resolved_once_and_unknown_ones_are_kept() {
    accepted! { Prometheus:
        r#"m{a="x\"y",b="z"} 1"# => r#"m a="x\"y" b="z" 1"#,
        r#"m{a="\\"} 1"# => r#"m a="\\" 1"#,
        r#"m{a="\n\\n"} 1"# => r#"m a="\n\\n" 1"#,
        r#"m{a="\t\é"} 1"# => r#"m a="\\t\\é" 1"#,
    }
    rejected! { Prometheus:
        r#"m{a="x\"} 1"# => InvalidLabels at 5,
        r#"m{a="x\"# => InvalidLabels at 5,
    }
}

#[test]
fn a_comma_may_follow_the_last_label_only() {
    accepted! { Prometheus:
        r#"m{a="x",} 1"# => r#"m a="x" 1"#,
        r#"{"m",} 1"# => "m 1",
    }
    rejected! { Prometheus:
        "m{,} 1" => InvalidLabelName at 3,
        r#"m{,a="x"} 1"# => InvalidLabelName at 3,
        r#"m{a="x",,b="y"} 1"# => InvalidLabelName at 9,
        r#"m{a="x" b="y"} 1"# => InvalidLabels at 9,
    }
}

#[test]
fn every_number_of_prometheus_is_accepted() {
    accepted! { Prometheus:
        "m NaN" => "m NaN",
        "m Inf" => "m inf",
        "m +Inf" => "m inf",
        "m -inf" => "m -inf",
        "m infinity" => "m inf",
        "m -1.5E+3" => "m -1500",
    }
    rejected! { Prometheus:
        "m 1_000" => InvalidValue at 3,
        "m 0x1p-2" => InvalidValue at 3,
        "m one" => InvalidValue at 3,
        "m 1,5" => InvalidValue at 3,
        "m" => MissingValue at 2,
        "m " => MissingValue at 3,
        r#"m{a="x"}"# => MissingValue at 9,
    }
}

#[test]
fn text_after_a_value_rejects_only_its_own_line() {
    let page = read(
        Prometheus,
        "a 1 1700000000000\nb 1e400\nc word\nd 1 2 3\ne 1 # {t=\"x\"} 0.5\nf 1 -5\ng 1 1.5\nh 2\n",
    );
    assert_eq!(
        page.lines(),
        ["a 1 @1700000000000", "e 1", "f 1 @-5", "h 2"]
    );
    assert_eq!(
        page.reasons(),
        [
            Reason::ValueOutOfRange,
            Reason::InvalidValue,
            Reason::TrailingData,
            Reason::InvalidTimestamp
        ]
    );
    assert_eq!(page.summary.timestamps, 2);
    assert_eq!(page.summary.exemplars, 1);
    assert_eq!(page.summary.rejected.total(), 4);
}

#[test]
fn help_is_unescaped_and_applies_to_all_histogram_series() {
    let page = read(
        Prometheus,
        "h_bucket{le=\"1\"} 1\n# HELP h of \\\\ and \\n and \\\"\n# TYPE h histogram\nh_sum 1\nh_count 1\n",
    );
    let metadata = (
        Some("of \\ and \n and \\\"".to_owned()),
        Some(Kind::Histogram),
        None,
    );
    assert_eq!(page.families["h"], metadata);
    let mut reader = Reader::new(Prometheus, Limits::default());
    reader.scrape([b"# TYPE h histogram\nh_sum 1\nh_other 1\nh 1\n".as_slice()]);
    let h = ("h".to_owned(), Some(Kind::Histogram));
    let other = ("h_other".to_owned(), None);
    assert_eq!(reader.keeper.shown, [h.clone(), other, h]);
}

#[test]
fn a_type_after_an_error_is_still_applied() {
    let page = read(
        Prometheus,
        "what is this\n# TYPE a counter\n# TYPE b nothing\n# TYPE c gauge\na 1\n",
    );
    assert_eq!(page.families["a"].1, Some(Kind::Counter));
    assert_eq!(page.families["c"].1, Some(Kind::Gauge));
    assert!(!page.families.contains_key("b"));
    assert_eq!(
        page.reasons(),
        [Reason::InvalidValue, Reason::InvalidMetadata]
    );
}

#[test]
fn the_family_of_a_suffix_is_the_exact_name_first() {
    let mut reader = Reader::new(Prometheus, Limits::default());
    reader.scrape([
        b"# TYPE a summary\n# TYPE a_sum gauge\na_sum 1\na_count 1\na_bucket 1\na_total 1\n"
            .as_slice(),
    ]);
    assert_eq!(
        reader.keeper.shown,
        [
            ("a_sum".to_owned(), Some(Kind::Gauge)),
            ("a".to_owned(), Some(Kind::Summary)),
            ("a_bucket".to_owned(), None),
            ("a_total".to_owned(), None),
        ]
    );
}

#[test]
fn series_differ_by_their_sorted_labels() {
    accepted! { Prometheus:
        r#"m{b="2",a="1",a_="3",B="4"} 1"# => r#"m B="4" a="1" a_="3" b="2" 1"#,
        r#"m{"z é"="1","a.b"="2"} 1"# => r#"m a.b="2" z é="1" 1"#,
    }
    let mut reader = Reader::new(Prometheus, Limits::default());
    reader.scrape([b"m{a=\"1,2\"} 1\nm{b=\"x\",a=\"y\"} 1\n".as_slice()]);
    assert_eq!(reader.keeper.series.len(), 2);
}

#[test]
fn two_labels_with_one_name_reject_the_line() {
    rejected! { Prometheus:
        r#"m{a="x",a="y"} 1"# => DuplicateLabel at 9,
        r#"m{a="x",a="x"} 1"# => DuplicateLabel at 9,
        r#"m{a="",b="","a"="y"} 1"# => DuplicateLabel at 13,
        r#"m{__name__="n"} 1"# => DuplicateLabel at 3,
        r#"{a="x","\\"="1","m","\\"="2"} 1"# => DuplicateLabel at 21,
    }
}

#[test]
fn invalid_utf8_anywhere_rejects_its_line() {
    let page = read(
        Prometheus,
        b"a{b=\"\xff\"} 1\n# HELP a \xc3\x28\n# \xff\na\xff 1\na 1 # {b=\"\xff\"} 1\nb 1\n",
    );
    assert_eq!(page.lines(), ["b 1"]);
    assert_eq!(page.reasons(), [Reason::InvalidUtf8; 5]);
    let columns: Vec<usize> = page.faults.iter().map(|fault| fault.1).collect();
    assert_eq!(columns, [6, 10, 3, 2, 11]);
    assert!(page.faults[0].3.contains('\u{fffd}'));
}

#[test]
fn invalid_utf8_after_a_cached_line_rejects_it() {
    let mut reader = Reader::new(OpenMetrics, Limits::default());
    reader.scrape([b"a_total 1 # {b=\"x\"} 1\n# EOF\n".as_slice()]);
    let page = reader.scrape([b"a_total 1 # {b=\"\xff\"} 1\n# EOF\n".as_slice()]);
    assert_eq!(page.reasons(), [Reason::InvalidUtf8]);
}

#[test]
fn a_zero_byte_is_text_within_quotes_and_a_fault_elsewhere() {
    accepted! { Prometheus:
        "m{a=\"x\0\"} 1" => r#"m a="x\0" 1"#,
    }
    rejected! { Prometheus:
        "m\0 1" => InvalidName at 2,
        "m 1\0" => InvalidValue at 3,
        "\0" => InvalidName at 1,
    }
}

#[test]
fn openmetrics_seconds_become_milliseconds() {
    accepted! { OpenMetrics:
        "m 1 1700000000.123" => "m 1 @1700000000123",
        "m 1 1700000000.123456" => "m 1 @1700000000123",
        "m 1 -1.5e3" => "m 1 @-1500000",
        "m 1 1 # {} 0.5 1.5" => "m 1 @1000",
        r#"m{a="x"} 1 # {t="}","u.v"="\""} -0.5 1.5 "# => r#"m a="x" 1"#,
    }
    rejected! { OpenMetrics:
        "m 1 NaN" => InvalidTimestamp at 5,
        "m 1 1 1" => TrailingData at 7,
        "m 1 #" => InvalidExemplar at 6,
        "m 1 # 1" => InvalidExemplar at 7,
        r#"m 1 # {a="x"}"# => InvalidExemplar at 14,
        "m 1 # {a=x} 1" => InvalidExemplar at 10,
        r#"m 1 # {"a"} 1"# => InvalidExemplar at 7,
        "m 1 # {} x" => InvalidExemplar at 10,
        "m 1 # {} 1 x" => InvalidExemplar at 12,
        "m 1 # {} 1 1 1" => TrailingData at 14,
    }
}

#[test]
fn an_openmetrics_page_ends_with_its_mark() {
    let page = read(OpenMetrics, "a 1\n# EOF\n");
    assert!(!page.summary.eof_missing && page.faults.is_empty());
    let page = read(OpenMetrics, "a 1\n# EOF");
    assert!(!page.summary.eof_missing && page.faults.is_empty());
    let page = read(OpenMetrics, "a 1\n# EOF\na 2\n\n");
    assert_eq!(page.lines(), ["a 1"]);
    assert_eq!(page.reasons(), [Reason::AfterEof; 2]);
    let page = read(OpenMetrics, "a 1\n# EOFF\n# EOF b\n\nb 2");
    assert!(page.summary.eof_missing);
    assert_eq!(page.lines(), ["a 1", "b 2"]);
    assert_eq!(page.reasons(), [Reason::NotInThisFormat; 3]);
    let page = read(Prometheus, "a 1\n# EOF\n\n#\n#HELP a\nb 2");
    assert!(!page.summary.eof_missing && page.faults.is_empty());
    assert_eq!(page.lines(), ["a 1", "b 2"]);
}

#[test]
fn invalid_metadata_rejects_its_line() {
    for (line, column) in [
        ("# HELP", 7),
        ("# TYPE a", 9),
        ("# TYPE a b", 10),
        ("# TYPE a Counter", 10),
        ("# TYPE a counter x", 10),
        ("# HELP a-b x", 8),
        ("# TYPE \"a counter", 8),
        ("# TYPE \"\" counter", 8),
        ("# TYPE \"a\"counter", 8),
    ] {
        let page = read(Prometheus, line);
        assert_eq!(page.reasons(), [Reason::InvalidMetadata], "{line}");
        assert_eq!(page.faults[0].1, column, "{line}");
    }
    let page = read(
        Prometheus,
        "# HELP a\n# HELP b \n# HELP c  x \n# HELP \"d.e\" x\n#\tTYPE\t\"d.e\" \tgauge \n# UNIT a b\n",
    );
    assert!(page.faults.is_empty());
    let help = |name: &str| page.families[name].0.as_deref();
    assert_eq!(
        [help("a"), help("b"), help("c"), help("d.e")],
        [Some(""), Some(""), Some(" x "), Some("x")]
    );
    assert_eq!(page.families["d.e"].1, Some(Kind::Gauge));
}

#[test]
fn repeated_metadata_is_accepted_contradictions_are_not() {
    let page = read(
        Prometheus,
        "# TYPE a gauge\n# HELP a x\n# TYPE a gauge\n# TYPE a counter\n# HELP a y\na 1\n",
    );
    assert_eq!(page.reasons(), [Reason::ConflictingMetadata; 2]);
    assert_eq!(
        page.families["a"],
        (Some("x".to_owned()), Some(Kind::Gauge), None)
    );
}

#[test]
fn a_unit_is_the_end_of_the_family_name() {
    let page = read(
        OpenMetrics,
        "# UNIT a_seconds seconds\n# UNIT b \n# UNIT c seconds\n# UNIT seconds seconds\n# EOF\n",
    );
    assert_eq!(page.families["a_seconds"].2.as_deref(), Some("seconds"));
    assert_eq!(page.reasons(), [Reason::InvalidMetadata; 2]);
}

#[test]
fn refused_series_are_counted_and_offered_again() {
    let mut reader = Reader::new(Prometheus, Limits::default());
    reader.keeper.refuse = vec![
        ("b".to_owned(), Refused::Budget),
        ("c".to_owned(), Refused::SeriesLimit),
        ("d".to_owned(), Refused::Unwanted),
    ];
    let page = b"a 1\nb 1\nb 2\nc 1\nd 1\ne 1\n".as_slice();
    let first = reader.scrape([page]);
    assert_eq!(first.lines(), ["a 1", "e 1"]);
    let refused = first.summary.refused;
    assert_eq!(
        (refused.budget, refused.series_limit, refused.unwanted),
        (2, 1, 1)
    );
    assert_eq!(refused.total(), 4);
    assert!(first.faults.is_empty());
    reader.keeper.refuse.clear();
    let second = reader.scrape([page]);
    assert_eq!(second.samples.len(), 6);
    assert_eq!(second.summary.remembered, 2);
}
