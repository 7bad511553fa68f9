//! The record under `kill -9`: a process records and says what it finished, is killed at any instant,
//! and the record must have all of it.
//!
//! `STEADFAST_KILLS` says how often; 25 without it.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use steadfast_recorder::{Labels, Meta, NAME, Options, Recorder, Selector, open_read_only};

const DIR: &str = "STEADFAST_TEST_RECORD_DIR";
const SOURCE: &str = "http://127.0.0.1:9100/metrics";
/// Scrapes after which the child ends by itself, in case nobody kills it.
const SCRAPES: i64 = 20_000;

fn options() -> Options {
    let mut options = Options::default();
    options.budget = 1 << 20;
    options.head_scrapes = 24;
    options
}

fn labels(series: i64) -> Labels {
    Labels::new([(NAME, "m"), ("series", &series.to_string())]).unwrap()
}

/// What the scrape of millisecond `n` has: counters, noise, and series that come and go.
fn values(n: i64) -> BTreeMap<i64, u64> {
    let mut values = BTreeMap::new();
    for series in 0..40 {
        values.insert(series, ((n / (series + 1)) as f64).to_bits());
    }
    for series in 40..50 {
        values.insert(series, (n as f64 * 0.1 + series as f64).sin().to_bits());
    }
    for series in 0..n % 4 {
        values.insert(1_000 + n / 50 + series, f64::NAN.to_bits());
    }
    values
}

/// The process that is killed.
#[test]
#[ignore = "started by the other test"]
fn record_until_killed() {
    let dir = std::env::var_os(DIR).unwrap();
    let (mut recorder, opened) = Recorder::open(Path::new(&dir), options()).unwrap();
    assert_eq!(opened.damage, []);
    let first = opened.newest.map_or(0, |newest| newest + 1);
    let source = recorder.source(SOURCE).unwrap();
    let mut out = std::io::stdout().lock();
    for n in first..first + SCRAPES {
        let mut scrape = recorder.scrape(source, n);
        for (series, bits) in values(n) {
            let id = scrape.series(&labels(series), &Meta::default()).unwrap();
            scrape.set(id, f64::from_bits(bits), None);
        }
        scrape.commit().unwrap();
        if n % 7 == 0 {
            recorder.sync(Instant::now()).unwrap();
        }
        // The dot tells a whole line from one that was cut off.
        writeln!(out, "recorded {n} .").unwrap();
        out.flush().unwrap();
    }
}

/// Starts the process, kills it after so many scrapes, and tells the last it said was finished.
fn record_and_kill(dir: &Path, after: u64) -> Option<i64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "record_until_killed", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut last, mut heard) = (None, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let ["recorded", n, "."] = line.split(' ').collect::<Vec<_>>()[..] {
            last = Some(n.parse().unwrap());
            heard += 1;
            if heard == after {
                child.kill().unwrap();
            }
        }
    }
    assert!(!child.wait().unwrap().success(), "it was killed");
    last
}

#[test]
fn req_x9_killed_at_any_instant_the_record_has_every_scrape_that_was_finished() {
    let dir = tempfile::tempdir().unwrap();
    let kills = std::env::var("STEADFAST_KILLS").map_or(25, |kills| kills.parse().unwrap());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut before = None;
    for kill in 0..kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let finished = record_and_kill(dir.path(), 1 + random % 150).or(before);
        let (reader, opened) = open_read_only(dir.path()).unwrap();
        assert_eq!(opened.damage, [], "kill {kill}");
        assert_eq!(reader.check(), [], "kill {kill}");
        let (least, most) = reader.span().unwrap();
        let finished = finished.unwrap();
        assert!(
            (finished..=finished + 1).contains(&most),
            "kill {kill}: {most}, {finished} was finished"
        );
        let mut found: BTreeMap<i64, BTreeMap<i64, u64>> = BTreeMap::new();
        for window in reader.window(&Selector::all(), i64::MIN..=i64::MAX) {
            let window = window.unwrap();
            let series = window.labels.value("series").unwrap().parse().unwrap();
            for sample in window.samples {
                found
                    .entry(sample.time_ms)
                    .or_default()
                    .insert(series, sample.value.to_bits());
            }
        }
        for n in least..=most {
            assert_eq!(
                found.remove(&n),
                Some(values(n)),
                "kill {kill}: scrape {n} of {least} to {most}"
            );
        }
        assert_eq!(found, BTreeMap::new());
        before = Some(most);
    }
    let used: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(used <= options().budget);
}
