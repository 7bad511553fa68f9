//! Makes the data set of raw scrapes that `tests/data/record.py` took.
//!
//! `cargo run --release --example distil -- RAW_DIRECTORY OUTPUT`

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use flate2::read::GzDecoder;
use pco::{ChunkConfig, standalone::simple_compress};

const SOURCES: [&str; 3] = [
    "http://127.0.0.1:9100/metrics",
    "http://127.0.0.1:9090/metrics",
    "http://127.0.0.1:8428/metrics",
];

type Key = Vec<(String, String)>;

#[derive(Default)]
struct Source {
    times: Vec<i64>,
    missed: Vec<u32>,
    rows: usize,
    series: BTreeMap<Key, Series>,
    kinds: BTreeMap<String, u32>,
    help: BTreeMap<String, String>,
}

#[derive(Default)]
struct Series {
    order: usize,
    steps: Vec<u32>,
    gone: Vec<u32>,
    changes: Vec<f64>,
    /// The row after the last event, the row it was last seen in, its bits then.
    next: usize,
    seen: usize,
    bits: Option<u64>,
}

impl Series {
    fn set(&mut self, row: usize, value: f64) {
        if self.bits.is_some() && self.seen + 1 < row {
            self.go(self.seen + 1);
        }
        if self.bits != Some(value.to_bits()) {
            self.steps.push((row - self.next) as u32);
            self.next = row;
            self.changes.push(value);
            self.bits = Some(value.to_bits());
        }
        self.seen = row;
    }

    fn go(&mut self, row: usize) {
        self.gone.push(self.steps.len() as u32);
        self.steps.push((row - self.next) as u32);
        self.next = row;
        self.bits = None;
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (raw, output) = (
        arguments.next().expect("a directory"),
        arguments.next().expect("an output"),
    );
    let mut sources: Vec<Source> = (0..SOURCES.len()).map(|_| Source::default()).collect();
    let mut files: Vec<_> = fs::read_dir(Path::new(&raw))
        .expect("a tool for one use stops at the first fault")
        .map(|file| {
            file.expect("a tool for one use stops at the first fault")
                .path()
        })
        .collect();
    files.sort();
    for file in files {
        let mut bytes = Vec::new();
        // The minute that is being written ends in the middle.
        GzDecoder::new(fs::File::open(file).expect("a tool for one use stops at the first fault"))
            .read_to_end(&mut bytes)
            .ok();
        let mut rest = &bytes[..];
        while rest.len() >= 13 {
            let source = &mut sources[usize::from(rest[0])];
            let time = i64::from_le_bytes(
                rest[1..9]
                    .try_into()
                    .expect("a tool for one use stops at the first fault"),
            );
            let length = u32::from_le_bytes(
                rest[9..13]
                    .try_into()
                    .expect("a tool for one use stops at the first fault"),
            );
            rest = &rest[13..];
            if length == u32::MAX {
                source.missed.push(source.times.len() as u32);
                source.times.push(time);
                continue;
            }
            let Some((body, after)) = rest.split_at_checked(length as usize) else {
                break;
            };
            rest = after;
            source.times.push(time);
            take(
                source,
                str::from_utf8(body).expect("a tool for one use stops at the first fault"),
            );
            source.rows += 1;
        }
    }
    let mut out = Vec::new();
    number(&mut out, sources.len());
    for (source, name) in sources.into_iter().zip(SOURCES) {
        put_source(&mut out, source, name);
    }
    println!("{} bytes", out.len());
    fs::write(output, out).expect("a tool for one use stops at the first fault");
}

fn take(source: &mut Source, body: &str) {
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, text) = (words.next(), words.next(), words.next());
            match (what, name, text) {
                (Some("HELP"), Some(name), Some(text)) => {
                    source.help.insert(name.to_owned(), text.to_owned());
                }
                (Some("TYPE"), Some(name), Some(kind)) => {
                    let kinds = ["untyped", "counter", "gauge", "histogram", "summary"];
                    let kind = kinds.iter().position(|known| *known == kind).unwrap_or(0);
                    source.kinds.insert(name.to_owned(), kind as u32);
                }
                _ => {}
            }
            continue;
        }
        let Some((key, value)) = sample(line) else {
            continue;
        };
        let order = source.series.len();
        let series = source.series.entry(key).or_insert_with(|| Series {
            order,
            ..Series::default()
        });
        series.set(source.rows, value);
    }
}

/// Name, labels and value of a line.
fn sample(line: &str) -> Option<(Key, f64)> {
    let end = line.find(['{', ' '])?;
    let mut key = vec![("__name__".to_owned(), line[..end].to_owned())];
    let mut rest = &line[end..];
    if let Some(labels) = rest.strip_prefix('{') {
        rest = labels;
        while !rest.starts_with('}') {
            let (name, after) = rest.split_once("=\"")?;
            let (mut value, mut escaped, mut length) = (String::new(), false, 0);
            for character in after.chars() {
                length += character.len_utf8();
                match (escaped, character) {
                    (false, '\\') => escaped = true,
                    (false, '"') => break,
                    (true, 'n') => {
                        value.push('\n');
                        escaped = false;
                    }
                    (_, character) => {
                        value.push(character);
                        escaped = false;
                    }
                }
            }
            key.push((name.trim_matches([',', ' ']).to_owned(), value));
            rest = &after[length..];
        }
        rest = &rest[1..];
    }
    key.sort();
    Some((key, rest.trim().parse().ok()?))
}

fn number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&(number as u32).to_le_bytes());
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn column<T: pco::data_types::Number>(out: &mut Vec<u8>, values: &[T]) {
    put(
        out,
        &simple_compress(values, &ChunkConfig::default())
            .expect("a tool for one use stops at the first fault"),
    );
}

fn put_source(out: &mut Vec<u8>, source: Source, name: &str) {
    put(out, name.as_bytes());
    column(out, &source.times);
    column(out, &source.missed);
    number(out, source.series.len());
    let rows = source.rows;
    let mut series: Vec<(Key, Series)> = source.series.into_iter().collect();
    series.sort_by_key(|(_, series)| series.order);
    for (key, mut series) in series {
        if series.bits.is_some() && series.seen + 1 < rows {
            series.go(series.seen + 1);
        }
        let metric = &key
            .iter()
            .find(|(name, _)| name == "__name__")
            .expect("a tool for one use stops at the first fault")
            .1;
        let family = ["", "_bucket", "_sum", "_count", "_total"]
            .iter()
            .filter_map(|suffix| metric.strip_suffix(suffix))
            .find(|family| source.kinds.contains_key(*family));
        let family = family.unwrap_or(metric);
        number(out, source.kinds.get(family).copied().unwrap_or(0) as usize);
        put(
            out,
            source
                .help
                .get(family)
                .map_or("", String::as_str)
                .as_bytes(),
        );
        number(out, key.len());
        for (name, value) in &key {
            put(out, name.as_bytes());
            put(out, value.as_bytes());
        }
        column(out, &series.steps);
        column(out, &series.gone);
        column(out, &series.changes);
    }
}
