//! Remembering lines and families from one scrape to the next.

mod support;

use steadfast_exposition::{Format, Kind, Limits, Reason};
use support::{Page, Reader};

fn reader() -> Reader {
    Reader::new(Format::Prometheus, Limits::default())
}

fn scrape(reader: &mut Reader, page: &str) -> Page {
    reader.scrape([page.as_bytes()])
}

/// Begins a scrape and abandons it.
fn abandon(reader: &mut Reader, page: &str) {
    reader.begin();
    reader.parser.push(page.as_bytes(), &mut reader.keeper);
    reader.parser.abandon();
}

#[test]
fn a_repeated_line_keeps_its_id_in_any_position() {
    let mut reader = reader();
    scrape(
        &mut reader,
        "a 1\nb{x=\"1\"} 1\nc 1\nd 1\ne 1\nf 1\ng 1\nh 1\n",
    );
    let asked = reader.keeper.asked;
    for page in [
        "h 2\na 2\ng 2\nb{x=\"1\"} NaN\nc 2 5\nf 2\ne 1e3 # {} 1\nd 2\n",
        "a 3\nh 3\ng 3\nc 3\r\nf 3\ne 3\nd 3\nb{x=\"1\"} 3\n",
    ] {
        let read = scrape(&mut reader, page);
        assert_eq!(read.samples.len(), 8);
        assert_eq!(read.summary.remembered, 8);
    }
    assert_eq!(reader.keeper.asked, asked);
}

#[test]
fn a_line_missing_from_the_last_scrape_is_new_again() {
    let mut reader = reader();
    scrape(&mut reader, "a 1\nb 1\n");
    for page in ["a 1\n", "b 1\na 1\n", "a 1\n", "a 1\nb 1\n"] {
        scrape(&mut reader, page);
    }
    assert_eq!(reader.keeper.asked, 4);
}

#[test]
fn a_line_with_an_invalid_value_is_forgotten() {
    let mut reader = reader();
    scrape(&mut reader, "a 1\nb 1\n");
    let read = scrape(&mut reader, "a x\nb 1\n");
    assert_eq!(read.reasons(), [Reason::InvalidValue]);
    scrape(&mut reader, "a 1\nb 1\n");
    assert_eq!(reader.keeper.asked, 3);
}

#[test]
fn an_aborted_scrape_keeps_the_cache_of_the_one_before() {
    let mut reader = reader();
    scrape(&mut reader, "a 1\nb 1\nc 1\n");
    abandon(&mut reader, "a 1\nnew 1\nb 1\nsome");
    let read = scrape(&mut reader, "a 2\nb 2\nc 2\n");
    assert_eq!(read.summary.remembered, 3);
    assert_eq!(read.lines(), ["a 2", "b 2", "c 2"]);
    // Its new line is asked for again, and was not left behind in pieces.
    let asked = reader.keeper.asked;
    let read = scrape(&mut reader, "a 2\nnew 2\nb 2\nc 2\n");
    assert_eq!(reader.keeper.asked, asked + 1);
    assert!(read.faults.is_empty());
}

#[test]
fn begin_abandons_an_unfinished_scrape() {
    let mut reader = reader();
    scrape(&mut reader, "a 1\n");
    reader.begin();
    reader.parser.push(b"b 1\nc", &mut reader.keeper);
    let read = scrape(&mut reader, "a 1\n");
    assert_eq!((read.summary.lines, read.summary.remembered), (1, 1));
    assert_eq!(read.summary.bytes, 4);
}

#[test]
fn calls_outside_a_scrape_do_nothing() {
    let mut reader = reader();
    reader.parser.push(b"a 1\n", &mut reader.keeper);
    scrape(&mut reader, "a 1\n");
    reader.parser.push(b"b 1\nc", &mut reader.keeper);
    reader.parser.abandon();
    let nothing = reader.parser.finish(&mut reader.keeper);
    assert_eq!(nothing.lines, 0);
    assert_eq!(scrape(&mut reader, "a 1\n").summary.remembered, 1);
}

#[test]
fn a_name_that_gets_labels_is_another_series() {
    let mut reader = reader();
    scrape(&mut reader, "m 1\nn{a=\"x\"} 1\n");
    let read = scrape(&mut reader, "m {a=\"x\"} 1\nn{a=\"x\"} {} 1\n");
    assert_eq!(read.lines(), ["m a=\"x\" 1"]);
    assert_eq!(read.reasons(), [Reason::InvalidValue]);
    let read = scrape(&mut reader, "m  1\n");
    assert_eq!(read.lines(), ["m 1"]);
}

#[test]
fn lines_with_carriage_returns_are_remembered() {
    let mut reader = reader();
    let page = "# TYPE a gauge\r\na 1\r\nb 1\r\n";
    scrape(&mut reader, page);
    let read = scrape(&mut reader, page);
    assert_eq!(read.summary.remembered, 2);
    assert!(read.faults.is_empty());
    let short = Limits {
        line_bytes: 4,
        ..Limits::default()
    };
    let mut reader = Reader::new(Format::Prometheus, short);
    scrape(&mut reader, "a 1\r\n");
    let read = scrape(&mut reader, "a 1\r\na 10\r\n");
    assert_eq!(read.reasons(), [Reason::LineTooLong]);
}

#[test]
fn a_change_of_format_forgets_the_page() {
    let mut reader = reader();
    scrape(&mut reader, "a 1 1000\n");
    reader.format = Format::OpenMetrics;
    let read = scrape(&mut reader, "a 1 1000\n# EOF\n");
    assert_eq!(read.summary.remembered, 0);
    assert_eq!(read.lines(), ["a 1 @1000000"]);
}

#[test]
fn forget_makes_the_parser_new() {
    let mut reader = reader();
    scrape(&mut reader, "# TYPE a gauge\na 1\n");
    reader.parser.forget();
    assert_eq!(scrape(&mut reader, "a 1\n").summary.remembered, 0);
}

#[test]
fn a_family_is_reported_when_it_changes_or_disappears() {
    let mut reader = reader();
    scrape(
        &mut reader,
        "# TYPE a gauge\n# HELP a x\n# TYPE b counter\na 1\n",
    );
    reader.keeper.page.families.clear();
    let read = scrape(
        &mut reader,
        "# TYPE a gauge\n# HELP a x\n# TYPE b counter\na 1\n",
    );
    assert!(read.families.is_empty(), "nothing changed");
    let read = scrape(
        &mut reader,
        "# TYPE a counter\n# HELP a x\n# TYPE b counter\na 1\n",
    );
    let a = (Some("x".to_owned()), Some(Kind::Counter), None);
    assert_eq!(read.families["a"], a);
    assert_eq!(read.families.len(), 1);
    reader
        .keeper
        .page
        .families
        .insert("b".to_owned(), (None, Some(Kind::Counter), None));
    let read = scrape(&mut reader, "# TYPE a counter\na 1\n");
    assert_eq!(read.families["a"], (None, Some(Kind::Counter), None));
    assert!(!read.families.contains_key("b"));
}

#[test]
fn a_family_declared_among_its_samples_applies_from_there_on() {
    let mut reader = reader();
    let page = "a{x=\"1\"} 1\na{x=\"2\"} 1\n# TYPE a gauge\na{x=\"3\"} 1\na{x=\"4\"} 1\n";
    scrape(&mut reader, page);
    let shown = std::mem::take(&mut reader.keeper.shown);
    let kinds: Vec<Option<Kind>> = shown.into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, [None, None, Some(Kind::Gauge), Some(Kind::Gauge)]);
    // It no longer applies after a scrape that does not state it.
    scrape(&mut reader, "b 1\n");
    scrape(&mut reader, "a{x=\"5\"} 1\n");
    assert_eq!(reader.keeper.shown[1], ("a".to_owned(), None));
}

#[test]
fn families_keep_their_metadata_when_others_disappear() {
    let mut reader = reader();
    let all = "# TYPE a gauge\n# TYPE b counter\n# TYPE c gauge\n# HELP c text\n";
    scrape(&mut reader, &format!("{all}c{{x=\"1\"}} 1\n"));
    for page in [
        "# TYPE b counter\n# TYPE c gauge\n# HELP c text\n",
        "# TYPE c gauge\n",
    ] {
        let before = reader.keeper.page.families["c"].clone();
        scrape(&mut reader, page);
        assert_eq!(scrape(&mut reader, page).faults, []);
        let families = &reader.keeper.page.families;
        assert_eq!(families.len(), page.matches("TYPE").count());
        assert_eq!(families["c"].1, before.1);
    }
    assert_eq!(reader.keeper.page.families["c"].0, None);
    scrape(&mut reader, "# TYPE c gauge\nc{x=\"2\"} 1\n");
    let shown = reader.keeper.shown.last().cloned();
    assert_eq!(shown, Some(("c".to_owned(), Some(Kind::Gauge))));
}

#[test]
fn precedence_of_two_declarations_ignores_the_scrape_before() {
    let mut reader = reader();
    let read = scrape(&mut reader, "# TYPE a gauge\n# TYPE a counter\n");
    assert_eq!(read.families["a"].1, Some(Kind::Gauge));
    let read = scrape(&mut reader, "# TYPE a counter\n# TYPE a gauge\n");
    assert_eq!(read.families["a"].1, Some(Kind::Counter));
    assert_eq!(read.reasons(), [Reason::ConflictingMetadata]);
}

#[test]
fn family_metadata_of_an_abandoned_scrape_is_reverted() {
    let mut reader = reader();
    let page = "# TYPE a gauge\n# HELP a x\na 1\n";
    scrape(&mut reader, page);
    abandon(
        &mut reader,
        "# TYPE a counter\n# HELP a y\n# TYPE b gauge\n",
    );
    let read = scrape(&mut reader, page);
    let a = (Some("x".to_owned()), Some(Kind::Gauge), None);
    assert_eq!(read.families["a"], a);
    assert_eq!(read.reasons(), []);
    // The next scrape states nothing at all.
    abandon(&mut reader, "# TYPE a counter\n");
    let read = scrape(&mut reader, "a 1\n");
    assert!(!read.families.contains_key("a"));
}
