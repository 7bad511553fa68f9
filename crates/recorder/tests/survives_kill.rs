//! A process records and prints what it has committed, until it is killed with SIGKILL at a random
//! instant. The record must have everything printed.
//!
//! `STEADFAST_KILLS` sets the number of kills, by default 25.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use steadfast_recorder::{Labels, Meta, NAME, Options, Reader, RecorderId, Recorders, Selector};

const DIR: &str = "STEADFAST_TEST_RECORD_DIR";
/// Scraped each time.
const ALWAYS: &str = "http://127.0.0.1:9100/metrics";
/// Scraped every third time.
const SOMETIMES: &str = "http://127.0.0.1:9101/metrics";
/// The number of scrapes after which the child ends by itself.
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

/// The values at millisecond `n`: counters, noise, and series that come and go.
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

fn record(recorders: &mut Recorders, (member, name): (RecorderId, &str), n: i64) {
    let mut turn = recorders.reserve(member, 60);
    let source = turn.source(name).unwrap();
    let mut scrape = turn.scrape(source, n);
    for (series, bits) in values(n) {
        let id = scrape.series(&labels(series), &Meta::default()).unwrap();
        scrape.set(id, f64::from_bits(bits), None);
    }
    scrape.commit().unwrap();
}

/// The process that is killed. Each has one source of its own, so that records are created and
/// removed.
#[test]
#[ignore = "started by the other test"]
fn record_until_killed() {
    let dir = std::env::var_os(DIR).unwrap();
    let (mut recorders, opened) = Recorders::open(Path::new(&dir), options()).unwrap();
    assert_eq!(opened.damage, []);
    // The last process may have committed only some of its sources: the others are completed.
    let first = opened.newest.unwrap_or(0);
    let latest = recorders.reader().latest(&Selector::all());
    let mut last = BTreeMap::new();
    for (source, (time, _)) in latest.scrapes {
        last.insert(source.to_string(), time);
    }
    let once = format!("once at {first}");
    let [always, sometimes, once] =
        [ALWAYS, SOMETIMES, &once].map(|name| (recorders.recorder(name).unwrap(), name));
    let mut out = std::io::stdout().lock();
    for n in first..first + SCRAPES {
        for (source, due) in [(once, n == first), (sometimes, n % 3 == 0), (always, true)] {
            if due && last.get(source.1).is_none_or(|last| *last < n) {
                record(&mut recorders, source, n);
            }
        }
        if n % 7 == 0 {
            recorders.sync().unwrap();
        }
        // The dot tells a whole line from one that was cut off.
        writeln!(out, "recorded {n} .").unwrap();
        out.flush().unwrap();
    }
}

/// Starts the process and kills it after some scrapes. Returns the last scrape it printed.
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
fn kill_at_any_instant_keeps_every_committed_scrape() {
    let dir = tempfile::tempdir().unwrap();
    let kills = std::env::var("STEADFAST_KILLS").map_or(25, |kills| kills.parse().unwrap());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut before = None;
    for kill in 0..kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let finished = record_and_kill(dir.path(), 1 + random % 150).or(before);
        let (reader, opened) = Recorders::open_read_only(dir.path()).unwrap();
        assert_eq!(opened.damage, [], "kill {kill}");
        assert_eq!(reader.check(), [], "kill {kill}");
        let (_, most) = reader.span().unwrap();
        let finished = finished.unwrap();
        assert!(
            (finished..=finished + 1).contains(&most),
            "kill {kill}: {most}, {finished} was finished"
        );
        for source in reader.sources() {
            let found = scrapes(&reader, &source);
            let (least, newest) = (found.keys().min().unwrap(), found.keys().max().unwrap());
            let step = match &*source {
                ALWAYS => 1,
                SOMETIMES => 3,
                _ => i64::MAX,
            };
            assert!(
                newest + step.min(1_000_000) > finished,
                "kill {kill}: {source} ends at {newest}"
            );
            let expected: BTreeMap<_, _> = (*least..=*newest)
                .step_by(usize::try_from(step).unwrap())
                .map(|n| (n, values(n)))
                .collect();
            assert!(
                found == expected,
                "kill {kill}: {source} from {least} to {newest}"
            );
        }
        before = Some(most);
    }
    assert!(support::on_disk(dir.path()) <= options().budget);
}

/// Returns the values of each scrape of a source.
fn scrapes(reader: &Reader, source: &str) -> BTreeMap<i64, BTreeMap<i64, u64>> {
    let mut found: BTreeMap<i64, BTreeMap<i64, u64>> = BTreeMap::new();
    for window in reader.window(&Selector::all().source(source), i64::MIN..=i64::MAX) {
        let window = window.unwrap();
        let series = window.labels.value("series").unwrap().parse().unwrap();
        for sample in window.samples {
            let scrape = found.entry(sample.time_ms).or_default();
            scrape.insert(series, sample.value.to_bits());
        }
    }
    found
}
