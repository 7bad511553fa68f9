//! The memory of a parser is counted exactly, is bounded on hostile pages, and is released.

mod support;

use std::fmt::Write as _;

use allocation_counter::measure;
use steadfast_exposition::{
    FamilyRef, Format, Limits, LineFault, Parser, Reason, Refused, SeriesRef, Sink, Summary,
};
use support::narrow;

/// A sink that stores nothing.
struct Nothing;

impl Sink for Nothing {
    type Id = u64;

    fn series(&mut self, _: &SeriesRef<'_>) -> Result<u64, Refused> {
        Ok(0)
    }

    fn sample(&mut self, _: u64, _: f64, _: Option<i64>) {}

    fn rejected(&mut self, _: &LineFault<'_>) {}

    fn family(&mut self, _: &FamilyRef<'_>) {}
}

/// A parser whose allocations are counted. Pages are built outside of the counted code.
struct Watched {
    limits: Limits,
    parser: Parser<u64>,
    /// The bytes that the parser holds of the allocator.
    held: usize,
    /// The most bytes that it has held.
    peak: usize,
}

impl Watched {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            parser: Parser::new(limits),
            held: 0,
            peak: 0,
        }
    }

    fn watch<R>(&mut self, step: impl FnOnce(&mut Parser<u64>) -> R) -> Option<R> {
        let mut result = None;
        let parser = &mut self.parser;
        let allocated = measure(|| result = Some(step(parser)));
        self.peak = self.peak.max(self.held + allocated.bytes_max as usize);
        let held = self
            .held
            .checked_add_signed(allocated.bytes_current as isize);
        self.held = held.expect("the parser frees no more than it allocated");
        assert_eq!(self.parser.held_bytes(), self.held, "held_bytes is exact");
        result
    }

    fn begin(&mut self, lines: impl IntoIterator<Item = String>) {
        self.watch(|parser| parser.begin(Format::Prometheus));
        let mut piece = String::new();
        for line in lines {
            piece.push_str(&line);
            if piece.len() > 60_000 {
                self.watch(|parser| parser.push(piece.as_bytes(), &mut Nothing));
                piece.clear();
            }
        }
        self.watch(|parser| parser.push(piece.as_bytes(), &mut Nothing));
    }

    fn scrape(&mut self, lines: impl IntoIterator<Item = String>) -> Summary {
        self.begin(lines);
        self.finish()
    }

    fn finish(&mut self) -> Summary {
        let summary = self.watch(|parser| parser.finish(&mut Nothing));
        summary.unwrap_or_default()
    }

    /// Checks that memory stayed within the bound, and that an ordinary page releases most of it.
    fn end(mut self) {
        let (peak, bound) = (self.peak, self.limits.held_bytes_max());
        assert!(peak <= bound, "{peak} of {bound}");
        for _ in 0..2 {
            let summary = self.scrape((0..100).map(|n| format!("up{{instance=\"{n}\"}} 1\n")));
            assert_eq!(summary.samples, 100);
        }
        let held = self.parser.held_bytes();
        assert!(held < 80 << 10, "{held} bytes are left of {peak}");
    }
}

/// Limits with little memory for large pages.
fn limits() -> Limits {
    Limits {
        remembered_bytes: 2 << 20,
        samples: 2_000_000,
        families: 5_000,
        metadata_bytes: 256 << 10,
        ..Limits::default()
    }
}

#[test]
fn a_million_series() {
    let mut watched = Watched::new(limits());
    let page = |scrape: usize, count: usize| {
        (0..count).map(move |n| format!("m{{scrape=\"{scrape}\",number=\"{n}\"}} 1\n"))
    };
    let summary = watched.scrape(page(0, 1_000_000));
    assert_eq!(summary.samples, 1_000_000);
    // Equal series, different ones, and both.
    let summary = watched.scrape(page(0, 50_000));
    assert!(
        (10_000..40_000).contains(&summary.remembered),
        "{summary:?}"
    );
    watched.scrape(page(1, 50_000));
    watched.scrape(page(1, 50_000).chain(page(2, 50_000)));
    watched.begin(page(3, 50_000));
    watched.watch(Parser::abandon);
    watched.end();
}

#[test]
fn series_with_the_longest_labels() {
    let mut watched = Watched::new(limits());
    for scrape in 0..3 {
        let line = |n: usize| {
            let mut line = format!("m{{number=\"{scrape} {n}\"");
            for label in 0..3 {
                let length = if n.is_multiple_of(2) { 16 << 10 } else { 900 };
                let value = if n.is_multiple_of(3) { "\\n" } else { "xy" };
                write!(line, ",l{label}=\"{}\"", value.repeat(length / 2)).expect("it is text");
            }
            line + "} 1\n"
        };
        let summary = watched.scrape((0..300).map(line));
        assert_eq!(summary.samples, 300);
    }
    watched.end();
}

#[test]
fn a_million_families_with_help() {
    let mut watched = Watched::new(limits());
    for scrape in 0..4 {
        let line = |n: usize| format!("# HELP f{scrape}_{n} {}\n", "x".repeat(n % 60));
        let page = (0..250_000).map(line);
        if scrape == 1 {
            watched.begin(page);
            watched.watch(Parser::abandon);
        } else {
            watched.scrape(page);
        }
    }
    watched.end();
}

#[test]
fn lines_of_ten_megabytes_are_faults_and_never_held() {
    let mut watched = Watched::new(Limits::default());
    for start in ["", "# HELP a ", "a{b=\""] {
        let text = (0..160).map(|_| "x".repeat(64 << 10));
        let before = ["a 1\n".to_owned(), start.to_owned()];
        let after = ["\"} 1\nd 1\n".to_owned()];
        let summary = watched.scrape(before.into_iter().chain(text).chain(after));
        assert_eq!((summary.samples, summary.lines), (2, 3));
        assert_eq!(summary.rejected.of(Reason::LineTooLong), 1);
        assert_eq!(summary.rejected.total(), 1);
    }
    assert!(watched.peak < 300 << 10, "{} bytes", watched.peak);
    watched.end();
}

#[test]
fn a_page_without_a_line_feed_is_one_fault() {
    let mut watched = Watched::new(narrow());
    for _ in 0..2 {
        watched.begin([]);
        for _ in 0..1_000 {
            watched.watch(|parser| parser.push(&[b'a'; 1_000], &mut Nothing));
        }
        let summary = watched.finish();
        assert_eq!((summary.lines, summary.rejected.total()), (1, 1));
    }
    assert!(watched.peak < 64 << 10, "{} bytes", watched.peak);
    watched.end();
}

#[test]
fn samples_beyond_the_limit_are_counted() {
    let mut watched = Watched::new(narrow());
    for scrape in 0..3 {
        let line = |n: usize| format!("m{scrape}{{number=\"{n}\",text=\"some text\"}} 1\n");
        let summary = watched.scrape((0..10_000).map(line));
        assert_eq!(summary.samples, 1_000);
        assert_eq!(summary.rejected.of(Reason::TooManySamples), 9_000);
    }
    watched.end();
}

#[test]
fn metadata_is_bounded_and_expires() {
    let mut watched = Watched::new(narrow());
    let help = "x".repeat(100);
    for scrape in 0..20 {
        let lines = |n: usize| format!("# HELP f{scrape}_{n} {help}\n# TYPE f{scrape}_{n} gauge\n");
        let summary = watched.scrape((0..200).map(lines));
        assert_eq!(summary.rejected.of(Reason::TooMuchMetadata), 2 * (200 - 50));
        assert_eq!(summary.rejected.total(), 300);
    }
    watched.end();
}

#[test]
fn unfinished_scrapes_leave_nothing_behind() {
    let mut watched = Watched::new(narrow());
    watched.scrape((0..50).map(|n| format!("# HELP f{n} x\n")));
    let help = "y".repeat(4_000);
    for scrape in 0..200 {
        let known = scrape % 50;
        watched.begin([format!(
            "# HELP f{known} {help}\n# HELP g{scrape} {help}\nm{scrape} 1\nand so"
        )]);
        watched.watch(Parser::abandon);
    }
    let (left, peak) = (watched.held, watched.peak);
    assert!(left < 64 << 10 && peak < 128 << 10, "{left} and {peak}");
    watched.end();
}

#[test]
fn the_index_of_short_lines_counts_as_held() {
    for line in ["#\n", "a 1\n"] {
        let mut limits = narrow();
        limits.samples = usize::MAX;
        let mut watched = Watched::new(limits);
        for scrape in 0..3 {
            // The page differs from its first line on, so that two layouts are held.
            let first = format!("first{scrape} 1\n");
            let lines = (0..190_000).map(|_| line.to_owned());
            let summary = watched.scrape(std::iter::once(first).chain(lines));
            assert_eq!(summary.lines, 190_001);
        }
        watched.end();
    }
}

#[test]
fn the_longest_lines_in_pieces() {
    let mut watched = Watched::new(limits());
    watched.watch(|parser| parser.begin(Format::Prometheus));
    for length in [5_000, 40_000, 65_000, (64 << 10) - 9] {
        let line = format!("# HELP a {}", "\\\\".repeat(length / 2));
        for piece in line.as_bytes().chunks(700).chain([b"\n".as_slice()]) {
            watched.watch(|parser| parser.push(piece, &mut Nothing));
        }
    }
    watched.watch(|parser| parser.finish(&mut Nothing));
    watched.end();
}

#[test]
fn a_page_that_loses_most_lines_keeps_the_others_cached() {
    let mut watched = Watched::new(Limits::default());
    let page = |every: usize| {
        let numbers = (0..60_000).step_by(every);
        numbers.map(|n| {
            format!(
                "some_name_of_a_metric{{number=\"{n}\",and=\"{}\"}} 1\n",
                n % 7
            )
        })
    };
    watched.scrape(page(1));
    let all = watched.parser.held_bytes();
    for every in [10, 20, 600] {
        let count = 60_000 / every as u64;
        assert_eq!(watched.scrape(page(every)).remembered, count);
        assert_eq!(watched.scrape(page(every)).remembered, count);
        let held = watched.parser.held_bytes();
        assert!(held < all / every * 2 + (80 << 10), "{held} of {all}");
    }
    watched.end();
}

#[test]
fn remembered_lines_have_a_small_overhead() {
    let line = |n: usize, more: &str| {
        format!("http_requests_total{{handler=\"/api/v1/orders/{n}\",method=\"GET\"{more}}} 1\n")
    };
    let lines = 20_000;
    let own = (0..lines).map(|n| line(n, "").len() - 2).sum::<usize>();
    let mut watched = Watched::new(Limits::default());
    watched.scrape((0..lines).map(|n| line(n, "")));
    let per_line = |held: usize| (held - own) as f64 / lines as f64;
    // An entry has 24 bytes, because an id has eight here.
    let held = per_line(watched.parser.held_bytes());
    assert!(held < 36.0, "{held} bytes");
    // Pages that differ from the one before also need an index.
    for scrape in 0..8 {
        let more = |n: usize| {
            if n % 10 == scrape {
                ",code=\"500\""
            } else {
                ""
            }
        };
        watched.scrape((0..lines).map(|n| line(n, more(n))));
    }
    let held = per_line(watched.parser.held_bytes());
    assert!(held < 90.0, "{held} bytes");
}
