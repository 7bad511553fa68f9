//! Files of a record that are exchanged with another's, or replaced by something that is no file.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use steadfast_recorder::{DamageKind, Labels, Meta, NAME, Options, Reader, Recorders, Selector};

const ENDPOINTS: [&str; 2] = ["a", "b"];
const SERIES: u32 = 10;
const STEPS: i64 = 70;
const ALL: usize = STEPS as usize * SERIES as usize;

fn options() -> Options {
    let mut options = Options::default();
    options.head_scrapes = 16;
    options
}

fn value(endpoint: u32, step: i64, series: u32) -> f64 {
    (1_000_000 * i64::from(endpoint) + step * i64::from(series)) as f64
}

fn record(recorders: &mut Recorders, steps: std::ops::Range<i64>) {
    for step in steps {
        for (endpoint, name) in (0..).zip(ENDPOINTS) {
            let id = recorders.recorder(name).unwrap();
            let mut guard = recorders.reserve(id, SERIES as usize);
            let source = guard.source(name).unwrap();
            let mut scrape = guard.scrape(source, step);
            for series in 0..SERIES {
                // The same slots have other labels in each record.
                let n = (endpoint * 7 + series).to_string();
                let labels = Labels::new([(NAME, "m"), ("n", n.as_str())]).unwrap();
                let id = scrape.series(&labels, &Meta::default()).unwrap();
                scrape.set(id, value(endpoint, step, series), None);
            }
            scrape.commit().unwrap();
        }
        recorders.sync().unwrap();
    }
}

/// Writes two records with definitions, segments and a head each, in files of the same names. Returns the
/// names.
fn write(dir: &Path) -> Vec<PathBuf> {
    let (mut recorders, _) = Recorders::open(dir, options()).unwrap();
    record(&mut recorders, 0..STEPS);
    // The last sync has made segments durable, and the next one removes the heads that they replace.
    recorders.sync().unwrap();
    let names = |record: &str| {
        let files = fs::read_dir(dir.join(record)).unwrap();
        let names = files.map(|file| PathBuf::from(file.unwrap().file_name()));
        let mut names: Vec<_> = names
            .filter(|name| name.as_path() != Path::new("lock"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("a.record"), names("b.record"));
    for extension in ["names", "segment", "head"] {
        let is_there = |name: &PathBuf| name.extension().unwrap() == extension;
        assert!(names("a.record").iter().any(is_there), "{extension}");
    }
    names("a.record")
}

/// Returns the number of samples of each endpoint, all of which must be right.
fn samples(reader: &Reader, what: &str) -> [usize; 2] {
    [0, 1].map(|endpoint: u32| {
        let of = Selector::all().source(ENDPOINTS[endpoint as usize]);
        let windows = reader.window(&of, i64::MIN..=i64::MAX);
        let series = windows.filter_map(Result::ok).map(|series| {
            let n: u32 = series.labels.value("n").unwrap().parse().unwrap();
            for sample in &series.samples {
                let expected = value(endpoint, sample.time_ms, n - endpoint * 7);
                let at = sample.time_ms;
                assert_eq!(
                    sample.value.to_bits(),
                    expected.to_bits(),
                    "{what}: {n} at {at}"
                );
            }
            series.samples.len()
        });
        series.sum()
    })
}

#[test]
fn file_of_another_record_gives_no_wrong_value() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    for name in write(dir) {
        let [a, b] = ["a.record", "b.record"].map(|record| dir.join(record).join(&name));
        let exchange = || {
            fs::rename(&a, dir.join("kept")).unwrap();
            fs::rename(&b, &a).unwrap();
            fs::rename(dir.join("kept"), &b).unwrap();
        };
        exchange();
        let what = name.display().to_string();
        let (reader, _) = Recorders::open_read_only(dir).unwrap();
        let found = samples(&reader, &what);
        assert!(found[0] < ALL && found[1] < ALL, "{what}: {found:?}");
        let damage = reader.check();
        for record in ["a", "b"] {
            let file = format!("{record}.record/{what}");
            let mut of_file = damage.iter().filter(|damage| damage.file == file);
            let is_misplaced = of_file.any(|damage| damage.kind == DamageKind::Misplaced);
            assert!(is_misplaced, "{file}: {damage:?}");
        }
        exchange();
    }
    let (reader, opened) = Recorders::open_read_only(dir).unwrap();
    assert_eq!(opened.damage, []);
    assert_eq!(samples(&reader, "exchanged back"), [ALL, ALL]);
}

#[test]
fn links_and_pipes_in_place_of_files_are_damage() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let kept = dir.join("kept");
    for name in write(dir) {
        let file = dir.join("a.record").join(&name);
        for way in ["link", "dangling link", "pipe"] {
            fs::rename(&file, &kept).unwrap();
            match way {
                "link" => symlink(&kept, &file).unwrap(),
                "dangling link" => symlink("nowhere", &file).unwrap(),
                _ => make_pipe(&file),
            }
            let what = format!("{way} {}", name.display());
            let (reader, _) = Recorders::open_read_only(dir).unwrap();
            let found = samples(&reader, &what);
            assert!(found[0] < ALL && found[1] == ALL, "{what}: {found:?}");
            let told = format!("a.record/{}", name.display());
            let damage = reader.check();
            let is_told = damage.iter().any(|damage| damage.file == told);
            assert!(is_told, "{what}: {damage:?}");
            fs::remove_file(&file).unwrap();
            fs::rename(&kept, &file).unwrap();
        }
    }
}

#[test]
fn recorder_goes_on_beside_replaced_files() {
    let sound = tempfile::tempdir().unwrap();
    for name in write(sound.path()) {
        for way in ["foreign", "link", "pipe"] {
            let temp = tempfile::tempdir().unwrap();
            let dir = temp.path();
            for record in ["a.record", "b.record"] {
                fs::create_dir(dir.join(record)).unwrap();
                for file in fs::read_dir(sound.path().join(record)).unwrap() {
                    let file = file.unwrap();
                    fs::copy(file.path(), dir.join(record).join(file.file_name())).unwrap();
                }
            }
            let (file, kept) = (dir.join("a.record").join(&name), dir.join("kept"));
            fs::rename(&file, &kept).unwrap();
            match way {
                "foreign" => drop(fs::copy(dir.join("b.record").join(&name), &file).unwrap()),
                "link" => symlink(&kept, &file).unwrap(),
                _ => make_pipe(&file),
            }
            let before = fs::read(&kept).unwrap();
            let what = format!("{way} {}", name.display());
            let (mut recorders, _) = Recorders::open(dir, options()).unwrap();
            record(&mut recorders, STEPS..STEPS + 40);
            let found = samples(&recorders.reader(), &what);
            let added = 40 * SERIES as usize;
            assert!(
                found[0] >= added && found[0] < ALL + added,
                "{what}: {found:?}"
            );
            assert_eq!(found[1], ALL + added, "{what}");
            assert_eq!(fs::read(&kept).unwrap(), before, "{what}");
        }
    }
}

fn make_pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}
