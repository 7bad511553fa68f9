//! Crashes, power cuts, damage, full disks and other formats.

mod crash;
mod damage;
mod formats;
mod full;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Kind, Labels, Meta, NAME, Options, Reader, Recorder, Selector, WriteError,
    recorder::{OpenReport, read_only::read_only_on},
    sim_disk::{Files, SimDisk},
};

const SOURCE: &str = "http://127.0.0.1:9100/metrics";

/// The value of each series at each time.
type Content = BTreeMap<(u32, i64), u64>;

fn options(budget: u64, head_scrapes: u32) -> Options {
    Options {
        budget,
        head_scrapes,
        ..Options::default()
    }
}

/// Creates a recorder on a simulated disk.
fn recorder(head_scrapes: u32) -> (SimDisk, Recorder) {
    let disk = SimDisk::default();
    let (recorder, _) =
        Recorder::open_on(Arc::new(disk.clone()), options(1 << 20, head_scrapes)).unwrap();
    (disk, recorder)
}

/// Checks that a recorder and its files have these steps, without damage.
fn assert_steps(recorder: &Recorder, disk: &SimDisk, steps: &[i64], what: &str) {
    let steps = expected(steps.iter().copied());
    let found = content(&recorder.reader());
    assert_eq!(found, (steps.clone(), 0), "{what}");
    let (found, damaged, opened) = read(&disk.files());
    assert_eq!((damaged, opened.damage), (0, vec![]), "{what}");
    assert_eq!(found, steps, "{what}");
}

fn labels(series: u32) -> Labels {
    Labels::new([(NAME, "m"), ("series", &series.to_string())]).unwrap()
}

/// The values of step `n`: a few series, some of which come, go and change.
fn values(n: i64) -> BTreeMap<u32, f64> {
    let mut values: BTreeMap<u32, f64> = (0..4)
        .map(|series| (series, (n * i64::from(series)) as f64))
        .collect();
    values.insert(4, (n as f64).sqrt());
    if n % 5 == 0 {
        values.remove(&2);
    }
    if n % 7 < 3 {
        values.insert(100 + (n / 7) as u32, f64::NAN);
    }
    values
}

fn time(n: i64) -> i64 {
    1_000_000 + n * 1_000
}

fn step(recorder: &mut Recorder, n: i64) -> Result<(), WriteError> {
    let source = recorder.source(SOURCE).unwrap();
    if n % 11 == 10 {
        return recorder.missed(source, time(n));
    }
    let mut scrape = recorder.scrape(source, time(n));
    for (series, value) in values(n) {
        let meta = Meta {
            kind: Kind::Gauge,
            help: "A value.".to_owned(),
        };
        let id = scrape.series(&labels(series), &meta).unwrap();
        scrape.set(id, value, None);
    }
    scrape.commit().map(|_| ())
}

/// The content of a record after these steps.
fn expected(steps: impl IntoIterator<Item = i64>) -> Content {
    let scraped = steps.into_iter().filter(|n| n % 11 != 10);
    scraped
        .flat_map(|n| {
            values(n)
                .into_iter()
                .map(move |(series, value)| ((series, time(n)), value.to_bits()))
        })
        .collect()
}

fn content(reader: &Reader) -> (Content, usize) {
    let (mut content, mut damaged) = (Content::new(), 0);
    for series in reader.window(&Selector::all(), i64::MIN..=i64::MAX) {
        let Ok(series) = series else {
            damaged += 1;
            continue;
        };
        let number = series.labels.value("series").unwrap().parse().unwrap();
        assert_eq!(series.labels, labels(number));
        for sample in series.samples {
            content.insert((number, sample.time_ms), sample.value.to_bits());
        }
    }
    (content, damaged)
}

/// A record with segments, a closed head and a current one.
fn small_record() -> (SimDisk, i64) {
    let (disk, mut recorder) = recorder(8);
    let steps = 22;
    for n in 0..steps {
        step(&mut recorder, n).unwrap();
        if n % 3 == 0 && n < 15 {
            recorder.sync().unwrap();
        }
    }
    (disk, steps)
}

fn reopened(files: &Files) -> (Recorder, OpenReport) {
    Recorder::open_on(Arc::new(SimDisk::with(files)), options(1 << 20, 8)).unwrap()
}

fn read(files: &Files) -> (Content, usize, OpenReport) {
    let disk: Arc<dyn crate::disk::Disk> = Arc::new(SimDisk::with(files));
    let (reader, opened) = read_only_on(&disk).unwrap();
    let (content, damaged) = content(&reader);
    (content, damaged, opened)
}
