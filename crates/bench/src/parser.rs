//! How fast pages are read.

use std::{hint::black_box, time::Duration};

use anyhow::Result;
use steadfast_bench::{
    figure::{Figure, Figures},
    measure::{Comparison, compare},
    pages::Exporter,
};
use steadfast_exposition::{
    FamilyRef, Format, Limits, LineFault, Parser, Refused, SeriesRef, Sink,
};

/// Scrapes of each exporter that are read in turn, more than a core's own caches hold.
const SCRAPES: usize = 16;

const PAIRS: usize = 31;

/// A sink that costs nearly nothing.
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
        panic!("the pages are in order: {fault}");
    }

    fn family(&mut self, _: &FamilyRef<'_>) {}
}

/// Measures everything there is to measure about reading.
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
    figures.insert(
        format!("{name}/series"),
        Figure::alone(series as f64, "series"),
    );
    figures.insert(
        format!("{name}/page"),
        Figure::alone(bytes / SCRAPES as f64, "bytes"),
    );

    let mut next = turns();
    let mut theirs = turns();
    let prometheus_parse = |theirs: &mut dyn FnMut() -> usize| {
        let lines = pages[theirs()].lines().map(|line| Ok(line.to_owned()));
        let scrape = prometheus_parse::Scrape::parse(lines).expect("the pages are in order");
        black_box(scrape.samples.len());
    };

    let mut parser = Parser::new(Limits::default());
    let mut warm = || read(&mut parser, &pages[next()]);
    let mut floor = turns();
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
    figures.insert(
        format!("{name}/warm time"),
        Figure::alone(per_sample, "ns/sample"),
    );

    let held = parser.held_bytes() as f64 / series as f64;
    figures.insert(
        format!("{name}/remembered"),
        Figure::alone(held, "bytes/series"),
    );

    let fresh = || {
        let mut parser = Parser::new(Limits::default());
        read(&mut parser, &pages[next()]);
    };
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
    let mut next = turns();
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
}

fn add(figures: &mut Figures, name: &str, bytes: f64, compared: Comparison) {
    let speed = |time: Duration| bytes / SCRAPES as f64 / time.as_secs_f64() / 1e6;
    let (low, high) = compared.quartiles;
    eprintln!(
        "{name}: ratio {:.2} (quartiles {low:.2} and {high:.2}), {} of {PAIRS} pairs discarded",
        compared.ratio, compared.discarded
    );
    figures.insert(
        name.to_owned(),
        Figure {
            value: speed(compared.ours),
            unit: "MB/s",
            baseline: Some(speed(compared.baseline)),
            ratio: Some(compared.ratio),
        },
    );
}

/// Reads one scrape as it would come from a socket.
fn read(parser: &mut Parser<u32>, page: &str) {
    let mut sum = Sum::default();
    parser.begin(Format::Prometheus);
    for piece in page.as_bytes().chunks(16 << 10) {
        parser.push(piece, &mut sum);
    }
    let summary = parser.finish(&mut sum);
    black_box((summary.samples, sum.sum));
}

/// 0, 1, … and again from 0.
fn turns() -> impl FnMut() -> usize {
    let mut turn = 0;
    move || {
        turn = (turn + 1) % SCRAPES;
        turn
    }
}

/// The same lines, samples in another order: every second line of a part moved to the end.
fn rotated(page: &str, by: usize) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let step = 7 + 2 * by;
    let mut order: Vec<&str> = Vec::with_capacity(lines.len());
    for start in 0..step {
        order.extend(lines.iter().skip(start).step_by(step));
    }
    order.join("\n") + "\n"
}
