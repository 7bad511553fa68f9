//! A model of a record: a plain list of all scrapes.
#![allow(
    clippy::unwrap_used,
    reason = "this is test code, outside of test functions"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use steadfast_recorder::{
    Kind, Labels, Meta, NAME, Options, Reader, Recorder, Selector, SetOutcome, SourceId,
};

/// Returns options with this budget.
pub fn options(budget: u64) -> Options {
    let mut options = Options::default();
    options.budget = budget;
    options
}

/// The labels of series `n`.
pub fn labels(n: u32) -> Labels {
    let number = n.to_string();
    Labels::new([
        (
            NAME,
            if n.is_multiple_of(3) {
                "requests_total"
            } else {
                "temperature"
            },
        ),
        ("n", &number),
    ])
    .unwrap()
}

pub fn meta(n: u32) -> Meta {
    let kind = if n.is_multiple_of(3) {
        Kind::Counter
    } else {
        Kind::Gauge
    };
    Meta {
        kind,
        help: format!("Help of kind {}.", n % 3),
    }
}

/// One scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub time: i64,
    /// The bits of each series' value, `None` if the scrape failed.
    pub values: Option<BTreeMap<u32, u64>>,
}

/// All scrapes, by source.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub sources: BTreeMap<String, Vec<Reading>>,
}

/// The window of one series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    pub samples: Vec<(i64, u64)>,
    pub absences: Vec<i64>,
}

impl Model {
    pub fn push(&mut self, source: &str, reading: Reading) {
        self.sources
            .entry(source.to_owned())
            .or_default()
            .push(reading);
    }

    /// Returns the windows of a source, given the index of the oldest scrape that is kept.
    pub fn windows(
        &self,
        source: &str,
        first: usize,
        range: (i64, i64),
    ) -> BTreeMap<u32, Expected> {
        let mut windows: BTreeMap<u32, Expected> = BTreeMap::new();
        let mut before: BTreeMap<u32, u64> = BTreeMap::new();
        let inside = |time: i64| range.0 <= time && time <= range.1;
        for reading in self
            .sources
            .get(source)
            .map_or(&[][..], |all| &all[first..])
        {
            let none = BTreeMap::new();
            let now = reading.values.as_ref().unwrap_or(&none);
            if inside(reading.time) {
                for (series, bits) in now {
                    windows
                        .entry(*series)
                        .or_default()
                        .samples
                        .push((reading.time, *bits));
                }
                for series in before.keys().filter(|series| !now.contains_key(series)) {
                    windows
                        .entry(*series)
                        .or_default()
                        .absences
                        .push(reading.time);
                }
            }
            before.clone_from(now);
        }
        windows.retain(|_, expected| !expected.samples.is_empty());
        for expected in windows.values_mut() {
            expected.samples.sort_by_key(|(time, _)| *time);
            expected.absences.sort_unstable();
        }
        windows
    }
}

/// Records a scrape in the recorder and the model.
pub fn record(recorder: &mut Recorder, model: &mut Model, name: &str, reading: &Reading) {
    let source = recorder.source(name).unwrap();
    commit(recorder, source, reading);
    model.push(name, reading.clone());
}

pub fn commit(recorder: &mut Recorder, source: SourceId, reading: &Reading) {
    let Some(values) = &reading.values else {
        return recorder.missed(source, reading.time).unwrap();
    };
    let mut scrape = recorder.scrape(source, reading.time);
    for (series, bits) in values {
        let id = scrape.series(&labels(*series), &meta(*series)).unwrap();
        assert_eq!(
            scrape.set(id, f64::from_bits(*bits), None),
            SetOutcome::Stored
        );
    }
    scrape.commit().unwrap();
}

/// Reads the windows of a source.
pub fn windows(reader: &Reader, source: &str, range: (i64, i64)) -> BTreeMap<u32, Expected> {
    let mut windows = BTreeMap::new();
    for series in reader.window(&Selector::all().source(source), range.0..=range.1) {
        let series = series.unwrap();
        assert_eq!(&*series.source, source);
        let n = series.labels.value("n").unwrap().parse().unwrap();
        assert_eq!((&series.labels, &*series.meta), (&labels(n), &meta(n)));
        let samples = series
            .samples
            .iter()
            .map(|sample| (sample.time_ms, sample.value.to_bits()))
            .collect();
        let before = windows.insert(
            n,
            Expected {
                samples,
                absences: series.absences,
            },
        );
        assert_eq!(before, None, "a series comes once");
    }
    windows
}

/// Reads the newest scrapes, by source and series.
pub fn latest(reader: &Reader) -> BTreeMap<(Arc<str>, u32), (i64, u64)> {
    let latest = reader.latest(&Selector::all());
    assert_eq!(latest.damage, []);
    let series = latest.series.iter();
    series
        .map(|series| {
            let n = series.labels.value("n").unwrap().parse().unwrap();
            (
                (Arc::clone(&series.source), n),
                (series.sample.time_ms, series.sample.value.to_bits()),
            )
        })
        .collect()
}

/// Checks that the record of a source is the newest part of the model without a hole. Returns the
/// number of scrapes in it.
pub fn kept(reader: &Reader, model: &Model, source: &str) -> usize {
    let all = (i64::MIN, i64::MAX);
    let found = windows(reader, source, all);
    let samples = found.values().flat_map(|series| &series.samples);
    let Some(least) = samples.map(|(time, _)| *time).min() else {
        return 0;
    };
    let readings = &model.sources[source];
    let first = readings.iter().position(|reading| reading.time == least);
    let first = first.unwrap();
    let mut expected = model.windows(source, first, all);
    for (n, found) in &found {
        let expected = expected.remove(n).unwrap();
        assert_eq!(*found, expected, "series {n} of {source}");
    }
    assert_eq!(expected, BTreeMap::new(), "{source}");
    readings.len() - first
}

/// Returns the size of all files in a directory, in whole blocks.
pub fn on_disk(dir: &Path) -> u64 {
    let cost = |entry: std::fs::DirEntry| {
        let about = entry.metadata().unwrap();
        if about.is_dir() {
            on_disk(&entry.path())
        } else {
            about.len().next_multiple_of(4 << 10)
        }
    };
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| cost(entry.unwrap()))
        .sum()
}

/// A generator of the same numbers every time.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}
