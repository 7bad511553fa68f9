//! The recorded data set: 66 minutes of `node_exporter`, Prometheus and `VictoriaMetrics`, scraped once a
//! second on a machine under load.
//!
//! The file consists of [pco](https://docs.rs/pco) columns of changes. It has nothing in common with the
//! record's own format except that library.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by tests and benchmarks, each of which uses its own part"
)]

use pco::standalone::simple_decompress;
use steadfast_recorder::{Kind, Labels, Meta};

pub const KINDS: [Kind; 5] = [
    Kind::Unknown,
    Kind::Counter,
    Kind::Gauge,
    Kind::Histogram,
    Kind::Summary,
];

/// One exporter.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    /// The time of each scrape in Unix milliseconds, and true if it failed.
    pub scrapes: Vec<(i64, bool)>,
    pub series: Vec<Series>,
}

/// One series.
#[derive(Debug)]
pub struct Series {
    pub labels: Labels,
    pub meta: Meta,
    /// The bits at each successful scrape, `None` where the series was absent.
    pub values: Vec<Option<u64>>,
}

/// A reader of the file.
struct Pieces<'a> {
    rest: &'a [u8],
}

impl<'a> Pieces<'a> {
    fn number(&mut self) -> usize {
        let (number, rest) = self.rest.split_at(4);
        self.rest = rest;
        u32::from_le_bytes(number.try_into().unwrap()) as usize
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = self.number();
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        bytes
    }

    fn text(&mut self) -> &'a str {
        str::from_utf8(self.bytes()).unwrap()
    }

    fn column<T: pco::data_types::Number>(&mut self) -> Vec<T> {
        simple_decompress(self.bytes()).unwrap()
    }
}

/// Reads the data set.
pub fn read(bytes: &[u8]) -> Vec<Source> {
    let mut pieces = Pieces { rest: bytes };
    let sources = (0..pieces.number())
        .map(|_| read_source(&mut pieces))
        .collect();
    assert!(pieces.rest.is_empty());
    sources
}

fn read_source(pieces: &mut Pieces<'_>) -> Source {
    let name = pieces.text().to_owned();
    let times: Vec<i64> = pieces.column();
    let missed: Vec<u32> = pieces.column();
    let scrapes = times
        .iter()
        .zip(0..)
        .map(|(time, at)| (*time, missed.binary_search(&at).is_ok()));
    let scrapes: Vec<(i64, bool)> = scrapes.collect();
    let rows = scrapes.iter().filter(|(_, missed)| !missed).count();
    let series = (0..pieces.number())
        .map(|_| read_series(pieces, rows))
        .collect();
    Source {
        name,
        scrapes,
        series,
    }
}

fn read_series(pieces: &mut Pieces<'_>, rows: usize) -> Series {
    let kind = KINDS[pieces.number()];
    let help = pieces.text().to_owned();
    let pairs: Vec<(&str, &str)> = (0..pieces.number())
        .map(|_| (pieces.text(), pieces.text()))
        .collect();
    // The distances between changes, the changes that are a disappearance, and the values of others.
    let steps: Vec<u32> = pieces.column();
    let gone: Vec<u32> = pieces.column();
    let mut changes = pieces.column::<f64>().into_iter();
    let mut values = Vec::with_capacity(rows);
    let mut now = None;
    for (step, at) in steps.iter().zip(0_u32..) {
        values.resize(values.len() + *step as usize, now);
        now = if gone.binary_search(&at).is_ok() {
            None
        } else {
            Some(changes.next().unwrap().to_bits())
        };
    }
    values.resize(rows, now);
    Series {
        labels: Labels::new(pairs).unwrap(),
        meta: Meta { kind, help },
        values,
    }
}

/// The scrapes of all sources by time: source, time, and the row of a successful one.
pub fn in_order(sources: &[Source]) -> Vec<(usize, i64, Option<usize>)> {
    let mut scrapes = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let mut row = 0;
        for (time, missed) in &source.scrapes {
            scrapes.push((index, *time, (!missed).then_some(row)));
            row += usize::from(!missed);
        }
    }
    scrapes.sort_by_key(|(_, time, _)| *time);
    scrapes
}
