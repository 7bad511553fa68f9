//! What is held stays within the limits, whatever arrives.

mod support;

use allocation_counter::measure;
use steadfast_exposition::{
    FamilyRef, Format, Limits, LineFault, Parser, Reason, Refused, SeriesRef, Sink, Summary,
};
use support::Reader;

/// Narrow enough that every limit is reached by a page that is built quickly.
fn narrow() -> Limits {
    Limits {
        line_bytes: 4 << 10,
        samples: 1_000,
        labels_per_series: 8,
        name_bytes: 64,
        label_value_bytes: 256,
        families: 50,
        metadata_bytes: 8 << 10,
        remembered_bytes: 32 << 10,
    }
}

/// Forgets everything at once.
struct Nothing;

impl Sink for Nothing {
    type Id = u32;

    fn series(&mut self, _: &SeriesRef<'_>) -> Result<u32, Refused> {
        Ok(0)
    }

    fn sample(&mut self, _: u32, _: f64, _: Option<i64>) {}

    fn rejected(&mut self, _: &LineFault<'_>) {}

    fn family(&mut self, _: &FamilyRef<'_>) {}
}

/// Reads pages that a closure writes in pieces, and returns the last summary and the most bytes
/// that were allocated at a time.
fn peak(
    limits: Limits,
    scrapes: usize,
    mut piece: impl FnMut(usize, usize) -> Option<Vec<u8>>,
) -> (Summary, u64) {
    let mut pieces = Vec::new();
    for scrape in 0..scrapes {
        let mut page = Vec::new();
        while let Some(piece) = piece(scrape, page.len()) {
            page.push(piece);
        }
        pieces.push(page);
    }
    let mut summary = Summary::default();
    let allocated = measure(|| {
        let mut parser = Parser::new(limits);
        for page in &pieces {
            parser.begin(Format::Prometheus);
            for piece in page {
                parser.push(piece, &mut Nothing);
            }
            summary = parser.finish(&mut Nothing);
        }
        // What a parser says it holds is what it holds, but for a node of a tree here and there.
        assert!(parser.held_bytes() < 300 << 10, "{}", parser.held_bytes());
    });
    (summary, allocated.bytes_max)
}

/// Everything the narrow limits let a parser hold: two layouts with their entries and indexes, two
/// sets of metadata, buffers that grew by doubling.
const BOUND: u64 = 600 << 10;

#[test]
fn a_line_of_ten_megabytes_is_one_fault_and_never_held() {
    let (summary, peak) = peak(Limits::default(), 2, |_, n| match n {
        0 => Some(b"a 1\nb{c=\"".to_vec()),
        1..160 => Some(vec![b'x'; 64 << 10]),
        160 => Some(b"\"} 1\nd 1\n".to_vec()),
        _ => None,
    });
    assert_eq!(summary.samples, 2);
    assert_eq!(summary.lines, 3);
    assert_eq!(summary.rejected.of(Reason::LineTooLong), 1);
    assert_eq!(summary.rejected.total(), 1);
    assert!(peak < 300 << 10, "{peak} bytes");
}

#[test]
fn a_page_without_a_line_feed_is_one_fault() {
    let (summary, peak) = peak(narrow(), 2, |_, n| (n < 1000).then(|| vec![b'a'; 1000]));
    assert_eq!((summary.lines, summary.rejected.total()), (1, 1));
    assert!(peak < 64 << 10, "{peak} bytes");
}

#[test]
fn many_series_are_taken_up_to_the_limit_and_counted_beyond() {
    let (summary, peak) = peak(narrow(), 3, |scrape, n| {
        let line = |k: usize| format!("m{scrape}{{number=\"{k}\",text=\"some text\"}} 1\n");
        (n < 100).then(|| {
            (0..100)
                .map(|k| line(n * 100 + k))
                .collect::<String>()
                .into_bytes()
        })
    });
    assert_eq!(summary.samples, 1_000);
    assert_eq!(summary.rejected.of(Reason::TooManySamples), 9_000);
    assert!(peak < BOUND, "{peak} bytes");
}

#[test]
fn of_samples_beyond_the_limit_one_is_shown() {
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
fn sample_limit_covers_lines_with_a_cached_shape() {
    let mut limits = narrow();
    limits.samples = 3;
    let mut reader = Reader::new(Format::Prometheus, limits);
    let lines: Vec<String> = (0..6).map(|n| format!("a{{x=\"{n}\"}} 1\n")).collect();
    let page = reader.scrape([lines.concat().as_bytes()]);
    assert_eq!(page.samples.len(), 3);
    assert_eq!(page.summary.rejected.of(Reason::TooManySamples), 3);
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
fn labels_and_names_beyond_the_limits_cost_their_line() {
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
fn metadata_is_kept_up_to_the_limits_and_none_of_it_for_ever() {
    // Other families and long texts with every scrape, some of them never finished.
    let (summary, peak) = peak(narrow(), 20, |scrape, n| {
        let help = "x".repeat(100);
        (n < 200).then(|| {
            format!("# HELP f{scrape}_{n} {help}\n# TYPE f{scrape}_{n} gauge\n").into_bytes()
        })
    });
    assert_eq!(summary.rejected.of(Reason::TooMuchMetadata), 2 * (200 - 50));
    assert_eq!(summary.rejected.total(), 300);
    assert!(peak < BOUND, "{peak} bytes");
}

#[test]
fn scrapes_that_are_never_finished_leave_nothing_behind() {
    let allocated = measure(|| {
        let mut parser = Parser::new(narrow());
        let known: Vec<String> = (0..50).map(|n| format!("# HELP f{n} x\n")).collect();
        parser.begin(Format::Prometheus);
        parser.push(known.concat().as_bytes(), &mut Nothing);
        parser.finish(&mut Nothing);
        for scrape in 0..200 {
            parser.begin(Format::Prometheus);
            let help = "y".repeat(4_000);
            let page = format!(
                "# HELP f{} {help}\n# HELP g{scrape} {help}\nm{scrape} 1\n",
                scrape % 50
            );
            parser.push(page.as_bytes(), &mut Nothing);
            parser.push(b"and so", &mut Nothing);
            parser.abandon();
        }
        let held = parser.held_bytes();
        assert!(held < 64 << 10, "{held} bytes");
    });
    assert!(allocated.bytes_max < 128 << 10, "{allocated:?}");
}

#[test]
fn what_finds_the_shortest_lines_again_is_counted_as_held() {
    for line in ["#\n", "a 1\n"] {
        let mut limits = narrow();
        limits.samples = usize::MAX;
        let piece = line.repeat(10_000).into_bytes();
        let (summary, peak) = peak(limits, 3, |scrape, n| match (scrape, n) {
            // The page differs from its first line on, so that both are held.
            (_, 0) => Some(format!("first{scrape} 1\n").into_bytes()),
            (_, n) => (n < 20).then(|| piece.clone()),
        });
        assert_eq!(summary.lines, 190_001);
        assert!(peak < BOUND, "{line:?}: {peak}");
    }
}

#[test]
fn lines_that_there_is_no_room_to_remember_are_read_in_full() {
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
        // The others are asked for each time.
        let anew = (reader.keeper.asked - asked) as u64;
        assert_eq!(anew, 60 - read.summary.remembered);
    }
}
