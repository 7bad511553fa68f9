//! `fodc replay` of a record of two endpoints, in which one file is damaged.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use steadfast_recorder::{Labels, Meta, NAME, Options, Recorders};

use crate::process::run;

/// The scrapes of each endpoint.
const SCRAPES: i64 = 150;

/// The series of each endpoint.
const SERIES: u32 = 40;

/// The endpoint of which a file is damaged, and the sound one.
const ENDPOINTS: [&str; 2] = ["http://damaged/metrics", "http://sound/metrics"];

type Damage = fn(&Path);

/// Ways to damage a file.
const WAYS: [(&str, Damage); 6] = [
    ("emptied", |file| fs::write(file, []).unwrap()),
    ("cut", |file| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..1_000.min(bytes.len() / 2)]).unwrap();
    }),
    ("without its first bytes", |file| zero(file, 0..8)),
    ("zeroed", |file| {
        let len = fs::metadata(file).unwrap().len() as usize;
        zero(file, 0..len);
    }),
    ("with a flipped byte", |file| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        fs::write(file, bytes).unwrap();
    }),
    ("removed", |file| fs::remove_file(file).unwrap()),
];

fn zero(file: &Path, range: std::ops::Range<usize>) {
    let mut bytes = fs::read(file).unwrap();
    bytes[range].fill(0);
    fs::write(file, bytes).unwrap();
}

/// Writes a record with definitions, two segments and a head for each endpoint.
fn write_record(folder: &Path) {
    let mut options = Options::default();
    options.head_scrapes = 64;
    let (mut recorders, _) = Recorders::open(folder, options).unwrap();
    for endpoint in ENDPOINTS {
        let recorder = recorders.recorder(endpoint).unwrap();
        for n in 0..SCRAPES {
            let mut guard = recorders.reserve(recorder, SERIES as usize);
            let source = guard.source(endpoint).unwrap();
            let mut scrape = guard.scrape(source, 1_767_225_600_000 + n * 1_000);
            for series in 0..SERIES {
                let labels = [(NAME, "m"), ("series", &series.to_string())];
                let labels = Labels::new(labels).unwrap();
                let id = scrape.series(&labels, &Meta::default()).unwrap();
                scrape.set(id, (n * i64::from(series)) as f64, None);
            }
            scrape.commit().unwrap();
            drop(guard);
            recorders.sync().unwrap();
        }
    }
}

/// Returns the files of the endpoint that is damaged, with their extensions.
fn files_of(folder: &Path) -> Vec<(PathBuf, String)> {
    let records = fs::read_dir(folder).unwrap();
    let mut records = records.map(|entry| entry.unwrap().path());
    let record = records.find(|path| path.to_string_lossy().contains("damaged"));
    let files = fs::read_dir(record.unwrap()).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter_map(|path| {
            let extension = path.extension()?.to_str()?.to_owned();
            Some((path, extension))
        })
        .collect();
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Returns the number of samples of each endpoint, and the exit status and the notes of a replay.
async fn replayed(folder: &Path) -> ([usize; 2], Option<i32>, String) {
    let folder = folder.to_str().unwrap();
    let window = [
        "fodc",
        "replay",
        folder,
        "--from",
        "2000-01-01T00:00:00Z",
        "--json",
    ];
    let ended = run(&window, None).await;
    let overview = run(&["fodc", "replay", folder, "--json"], None).await;
    assert_eq!(overview.code, ended.code, "{overview:?}");
    let overview: Value = serde_json::from_str(&overview.stdout).unwrap();
    let named = overview["damage"].as_array().unwrap().len();
    assert_eq!(named > 0, ended.code == Some(3), "{overview}");
    let series: Value = serde_json::from_str(&ended.stdout).unwrap();
    let of = |endpoint: &str| {
        let all = series.as_array().unwrap().iter();
        let of_it = all.filter(|series| series["source"] == endpoint);
        of_it
            .map(|series| series["data"].as_array().unwrap().len())
            .sum()
    };
    (ENDPOINTS.map(of), ended.code, ended.stderr)
}

#[tokio::test]
async fn replay_shows_what_is_sound_beside_one_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound");
    write_record(&sound);
    let all = SCRAPES as usize * SERIES as usize;
    assert_eq!(replayed(&sound).await, ([all, all], Some(0), String::new()));
    let files = files_of(&sound);
    let newest = files
        .iter()
        .rfind(|(_, extension)| extension == "head")
        .unwrap();
    for extension in ["names", "head", "segment"] {
        assert!(
            files.iter().any(|(_, found)| found == extension),
            "{files:?}"
        );
    }
    for (file, extension) in &files {
        for (way, damage) in WAYS {
            let damaged = folder.path().join("damaged");
            copy(&sound, &damaged);
            damage(&damaged.join(file.strip_prefix(&sound).unwrap()));
            let (samples, status, notes) = replayed(&damaged).await;
            let what = format!("{} {way}: {samples:?} {status:?} {notes}", file.display());
            assert_eq!(samples[1], all, "{what}");
            let name = file.file_name().unwrap().to_str().unwrap();
            // The end of the newest head belongs to a scrape that was not finished, and a part that is
            // gone may have been evicted.
            let is_end = file == &newest.0 && ["emptied", "cut"].contains(&way);
            let is_gone = way == "removed" && extension != "names";
            if !is_end && !is_gone {
                assert_eq!(status, Some(3), "{what}");
                assert!(notes.contains(name), "{what}");
                let is_restored = notes.contains("nothing is lost");
                assert_eq!(notes.contains("left out"), !is_restored, "{what}");
            }
            match (extension.as_str(), way) {
                // Restored from the rest of the file.
                ("names" | "head", "without its first bytes") | ("head", "with a flipped byte") => {
                    assert_eq!(samples[0], all, "{what}");
                }
                // A segment has 64 scrapes.
                ("segment" | "head", _) => {
                    assert!(samples[0] >= all - 64 * SERIES as usize, "{what}");
                }
                _ => {}
            }
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
}
