//! The limits on lines, samples and names.

mod support;

use steadfast_exposition::{Format, Reason};
use support::{Reader, narrow};

#[test]
fn only_the_first_sample_beyond_the_limit_is_reported() {
    let mut limits = narrow();
    limits.samples = 2;
    let mut reader = Reader::new(Format::Prometheus, limits);
    for _ in 0..2 {
        let page = reader.scrape([b"a 1\nb 1\nc 1\n# TYPE d gauge\nd 1\n".as_slice()]);
        assert_eq!(page.lines(), ["a 1", "b 1"]);
        assert_eq!(page.reasons(), [Reason::TooManySamples]);
        assert_eq!(page.summary.rejected.of(Reason::TooManySamples), 2);
        assert!(page.families.contains_key("d"));
    }
}

#[test]
fn sample_limit_covers_cached_lines() {
    let mut limits = narrow();
    limits.samples = 3;
    let mut reader = Reader::new(Format::Prometheus, limits);
    reader.scrape([b"a 1\nb 1\nc 1\n".as_slice()]);
    let page = reader.scrape([b"new 1\na 1\nb 1\nc 1\n".as_slice()]);
    assert_eq!(page.lines(), ["new 1", "a 1", "b 1"]);
    assert_eq!(page.reasons(), [Reason::TooManySamples]);
}

#[test]
fn labels_and_names_beyond_the_limits_reject_the_line() {
    let labels = |count: usize| {
        (0..count)
            .map(|n| format!("l{n}=\"x\","))
            .collect::<Vec<_>>()
            .concat()
    };
    let name = |length: usize| "n".repeat(length);
    let page = [
        format!("ok{{{}}} 1", labels(8)),
        format!("m{{{}}} 1", labels(9)),
        format!("{} 1", name(64)),
        format!("{} 1", name(65)),
        format!("{{\"{}\"}} 1", name(65)),
        format!("m{{{}=\"x\"}} 1", name(65)),
        format!("# TYPE {} gauge", name(65)),
        format!("m{{a=\"{}\"}} 1", name(256)),
        format!("m{{a=\"{}\"}} 1", name(257)),
    ]
    .join("\n");
    let mut reader = Reader::new(Format::Prometheus, narrow());
    let page = reader.scrape([page.as_bytes()]);
    assert_eq!(page.samples.len(), 3);
    assert_eq!(
        page.reasons(),
        [
            Reason::TooManyLabels,
            Reason::NameTooLong,
            Reason::NameTooLong,
            Reason::NameTooLong,
            Reason::NameTooLong,
            Reason::LabelValueTooLong,
        ]
    );
}

#[test]
fn lines_beyond_the_memory_limit_are_read_in_full() {
    let mut limits = narrow();
    limits.remembered_bytes = 3_000;
    let mut reader = Reader::new(Format::Prometheus, limits);
    let lines = (0..60).map(|n| format!("some_name_{n} 1\n"));
    let page = lines.collect::<String>();
    let first = reader.scrape([page.as_bytes()]);
    assert_eq!((first.samples.len(), first.summary.remembered), (60, 0));
    for _ in 0..3 {
        let asked = reader.keeper.asked;
        let read = reader.scrape([page.as_bytes()]);
        assert_eq!(read.samples.len(), 60);
        assert!((10..50).contains(&read.summary.remembered));
        // The sink is asked for all others again.
        let new = (reader.keeper.asked - asked) as u64;
        assert_eq!(new, 60 - read.summary.remembered);
    }
}
