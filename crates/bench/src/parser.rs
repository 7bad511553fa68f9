//! The speed of parsing pages.

use std::{hint::black_box, time::Duration};

use anyhow::Result;
use steadfast_bench::{
    figure::Figures,
    measure::{Comparison, compare},
    pages::Exporter,
};
use steadfast_exposition::{
    FamilyRef, Format, Limits, LineFault, Parser, Refused, SeriesRef, Sink,
};

/// The number of scrapes of each exporter that are parsed in turn. They exceed the caches of a core.
const SCRAPES: usize = 16;

/// The share of new lines per scrape of a changing page is one in this number.
const RENEWED: usize = 10;

const PAIRS: usize = 31;

/// A sink of nearly no cost.
#[derive(Default)]
struct Sum {
    series: u32,
    sum: f64,
}

impl Sink for Sum {
    type Id = u32;

    fn series(&mut self, series: &SeriesRef<'_>) -> Result<u32, Refused> {
        self.series += series.labels.len() as u32;
        Ok(self.series)
    }

    fn sample(&mut self, id: u32, value: f64, _: Option<i64>) {
        self.sum += value + f64::from(id);
    }

    fn rejected(&mut self, fault: &LineFault<'_>) {
        // A rejected line costs less than a parsed one, so that the figures would be wrong.
        panic!("the page has a fault: {fault}");
    }

    fn family(&mut self, _: &FamilyRef<'_>) {}
}

/// Measures parsing.
pub(crate) fn run() -> Figures {
    let mut figures = Figures::new();
    for (name, exporter) in [
        ("machine", Exporter::of_machine()),
        ("service", Exporter::of_service()),
    ] {
        measure(name, exporter, &mut figures);
    }
    figures
}

fn measure(name: &str, mut exporter: Exporter, figures: &mut Figures) {
    let series = exporter.series();
    let pages: Vec<String> = (0..SCRAPES).map(|_| exporter.scrape()).collect();
    let bytes = pages.iter().map(String::len).sum::<usize>() as f64;
    figures.put(format!("{name}/series"), "series", series as f64);
    let bytes = bytes / SCRAPES as f64;
    figures.put(format!("{name}/page"), "bytes", bytes);

    let mut next = turns(SCRAPES);
    let mut theirs = turns(SCRAPES);
    let prometheus_parse = |theirs: &mut dyn FnMut() -> usize| {
        let lines = pages[theirs()].lines().map(|line| Ok(line.to_owned()));
        let scrape = prometheus_parse::Scrape::parse(lines).expect("the page is valid");
        black_box(scrape.samples.len());
    };

    let mut parser = Parser::new(Limits::default());
    let mut warm = || read(&mut parser, &pages[next()]);
    let mut floor = turns(SCRAPES);
    let scan = || {
        let page = pages[floor()].as_bytes();
        black_box(memchr::memchr_iter(b'\n', page).count());
    };
    let against_floor = compare(PAIRS, &mut warm, scan);
    add(
        figures,
        &format!("{name}/warm vs newline scan"),
        bytes,
        against_floor,
    );
    let against_parse = compare(PAIRS, &mut warm, || prometheus_parse(&mut theirs));
    add(
        figures,
        &format!("{name}/warm vs prometheus-parse"),
        bytes,
        against_parse,
    );
    let per_sample = against_parse.ours.as_secs_f64() * 1e9 / series as f64;
    figures.put(format!("{name}/warm time"), "ns/sample", per_sample);
    memory(&format!("{name}/remembered"), &parser, &pages[0], figures);

    let fresh = || read_first(&pages[next()]);
    let first = compare(PAIRS, fresh, || prometheus_parse(&mut theirs));
    add(
        figures,
        &format!("{name}/first scrape vs prometheus-parse"),
        bytes,
        first,
    );

    let shuffled: Vec<String> = pages
        .iter()
        .enumerate()
        .map(|(n, page)| rotated(page, n))
        .collect();
    let mut parser = Parser::new(Limits::default());
    let mut next = turns(SCRAPES);
    let reordered = compare(
        PAIRS,
        || read(&mut parser, &shuffled[next()]),
        || prometheus_parse(&mut theirs),
    );
    add(
        figures,
        &format!("{name}/other order each time vs prometheus-parse"),
        bytes,
        reordered,
    );
    renewed_in_part(name, &pages, figures);
}

/// Compares pages with a tenth of new lines each time with a mix of nine repeated pages and one first
/// page.
fn renewed_in_part(name: &str, pages: &[String], figures: &mut Figures) {
    let changing: Vec<String> = (0..2 * RENEWED)
        .map(|n| renewed(&pages[n % SCRAPES], n))
        .collect();
    let alike: Vec<String> = pages.iter().map(|page| renewed(page, 0)).collect();
    let bytes = changing.iter().map(String::len).sum::<usize>() as f64 / changing.len() as f64;
    let (mut changes, mut remains) = (
        Parser::new(Limits::default()),
        Parser::new(Limits::default()),
    );
    let (mut next, mut theirs, mut turn) = (turns(2 * RENEWED), turns(SCRAPES), turns(RENEWED));
    let against_mix = compare(
        PAIRS,
        || read(&mut changes, &changing[next()]),
        || match turn() {
            0 => read_first(&alike[theirs()]),
            _ => read(&mut remains, &alike[theirs()]),
        },
    );
    add(
        figures,
        &format!("{name}/a tenth of the lines new vs the mix of warm and first"),
        bytes,
        against_mix,
    );
    memory(
        &format!("{name}/remembered of changing pages"),
        &changes,
        &changing[0],
        figures,
    );
}

/// Adds the bytes that a parser holds per series, and per line besides the line's own bytes.
fn memory(name: &str, parser: &Parser<u32>, page: &str, figures: &mut Figures) {
    let held = parser.held_bytes() as f64;
    let lines: Vec<&str> = page.lines().collect();
    let samples = lines.iter().filter(|line| !line.starts_with('#')).count();
    let own = lines.iter().map(|line| match line.rfind(' ') {
        Some(blank) if !line.starts_with('#') => blank + 1,
        _ => line.len(),
    });
    let beyond = held - own.sum::<usize>() as f64;
    figures.put(name, "bytes/series", held / samples as f64);
    figures.put(
        format!("{name}, beyond its lines"),
        "bytes/line",
        beyond / lines.len() as f64,
    );
}

fn add(figures: &mut Figures, name: &str, bytes: f64, compared: Comparison) {
    let speed = |time: Duration| bytes / time.as_secs_f64() / 1e6;
    let (low, high) = compared.quartiles;
    eprintln!(
        "{name}: ratio {:.2} (quartiles {low:.2} and {high:.2}), {} of {PAIRS} pairs discarded",
        compared.ratio, compared.discarded
    );
    let against = (speed(compared.baseline), compared.ratio);
    figures.put_against(name, "MB/s", speed(compared.ours), against);
}

/// Parses one scrape in pieces, as from a socket.
fn read(parser: &mut Parser<u32>, page: &str) {
    let mut sum = Sum::default();
    parser.begin(Format::Prometheus);
    for piece in page.as_bytes().chunks(16 << 10) {
        parser.push(piece, &mut sum);
    }
    let summary = parser.finish(&mut sum);
    black_box((summary.samples, sum.sum));
}

/// Parses a page with a new parser.
fn read_first(page: &str) {
    read(&mut Parser::new(Limits::default()), page);
}

/// Counts 0, 1, … below `count`, and starts again.
fn turns(count: usize) -> impl FnMut() -> usize {
    let mut turn = 0;
    move || {
        turn = (turn + 1) % count;
        turn
    }
}

/// Returns the page with one more label per sample. For one sample in ten, the label's value differs
/// from the page before. The sequence of pages is periodic.
fn renewed(page: &str, turn: usize) -> String {
    let mut renewed = String::new();
    let mut samples = 0;
    for line in page.lines() {
        match line.split_once(['{', ' ']) {
            Some((name, rest)) if !line.starts_with('#') => {
                let since = (turn + 2 * RENEWED - samples % RENEWED) / RENEWED;
                let pod = if since.is_multiple_of(2) { "a" } else { "b" };
                renewed.push_str(name);
                renewed.push_str("{pod=\"");
                renewed.push_str(pod);
                let labels = line.as_bytes()[name.len()] == b'{';
                renewed.push_str(if labels { "\"," } else { "\"} " });
                renewed.push_str(rest);
                samples += 1;
            }
            _ => renewed.push_str(line),
        }
        renewed.push('\n');
    }
    renewed
}

/// Returns the same lines in another order: every n-th line from each start.
fn rotated(page: &str, by: usize) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let step = 7 + 2 * by;
    let mut order: Vec<&str> = Vec::with_capacity(lines.len());
    for start in 0..step {
        order.extend(lines.iter().skip(start).step_by(step));
    }
    order.join("\n") + "\n"
}
