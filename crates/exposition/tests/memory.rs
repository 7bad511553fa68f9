//! What a parser says it holds is what it holds, and it gives back what it no longer needs.

use std::fmt::Write as _;

use allocation_counter::measure;
use steadfast_exposition::{
    FamilyRef, Format, Limits, LineFault, Parser, Refused, SeriesRef, Sink, Summary,
};

/// Forgets everything at once.
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

/// A parser under watch. Pages are written where the allocations are not counted.
struct Watched {
    limits: Limits,
    parser: Parser<u64>,
    /// Bytes that the parser has of the allocator, and the most it ever had.
    held: usize,
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
        self.held = held.expect("no more is given back than was taken");
        let says = self.parser.held_bytes();
        assert_eq!(self.held, says, "what it holds, and what it says it holds");
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
        let summary = self.watch(|parser| parser.finish(&mut Nothing));
        summary.unwrap_or_default()
    }

    /// The bound held, and what is left after an ordinary page is what that needs.
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

/// Little memory for what is remembered, and much that arrives.
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
    // Equal ones, others, and both.
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
fn series_with_as_long_labels_as_may_be() {
    let mut watched = Watched::new(limits());
    for scrape in 0..3 {
        let line = |n: usize| {
            let mut line = format!("m{{number=\"{scrape} {n}\"");
            for label in 0..3 {
                // Every second one is too long for the chunk that others are in.
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
fn lines_of_ten_megabytes() {
    let mut watched = Watched::new(limits());
    for begins in ["", "# HELP a ", "a{b=\""] {
        let text = (0..160).map(|_| "x".repeat(64 << 10));
        let begins = std::iter::once(begins.to_owned());
        watched.scrape(begins.chain(text).chain(["\n".to_owned()]));
    }
    watched.end();
}

#[test]
fn lines_as_long_as_may_be_that_come_in_pieces() {
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
fn a_line_is_remembered_for_little_more_than_its_own_bytes() {
    let line = |n: usize, more: &str| {
        format!("http_requests_total{{handler=\"/api/v1/orders/{n}\",method=\"GET\"{more}}} 1\n")
    };
    let lines = 20_000;
    let own = (0..lines).map(|n| line(n, "").len() - 2).sum::<usize>();
    let mut watched = Watched::new(Limits::default());
    watched.scrape((0..lines).map(|n| line(n, "")));
    let per_line = |held: usize| (held - own) as f64 / lines as f64;
    // A row of 32 bytes, since an id is eight here.
    let held = per_line(watched.parser.held_bytes());
    assert!(held < 36.0, "{held} bytes");
    // While each page differs from the one before, an index and what is left of lines that went.
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
