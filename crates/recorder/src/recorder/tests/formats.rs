//! Records of other versions.

use std::sync::Arc;

use super::{assert_steps, content, expected, options, read, reopened, small_record, step};
use crate::{
    Recorder,
    error::OpenError,
    frame::{FileKind, HEADER_BYTES},
    recorder::read_only::read_only_on,
    sim_disk::{Files, SimDisk},
};

/// The number of steps in the record of format 1.
const STEPS: i64 = 22;

/// A record that the first version wrote: a segment, a closed head and a current one.
fn format_1() -> Files {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/format-1");
    let files = std::fs::read_dir(dir).unwrap();
    let files: Files = files
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect();
    assert_eq!(files.len(), 4);
    assert!(files.values().all(|bytes| bytes[5] == 1));
    files
}

#[test]
fn record_of_format_1_is_read() {
    let (found, damaged, opened) = read(&format_1());
    assert_eq!((damaged, opened.damage), (0, vec![]));
    assert_eq!(found, expected(0..STEPS));
}

#[test]
fn record_of_format_1_is_continued_in_new_files() {
    let before = format_1();
    let disk = SimDisk::with(&before);
    let (mut recorder, report) =
        Recorder::open_on(Arc::new(disk.clone()), options(1 << 20, 8)).unwrap();
    assert_eq!(report.damage, []);
    for n in STEPS..STEPS + 20 {
        step(&mut recorder, n).unwrap();
    }
    for (name, bytes) in &disk.files() {
        // An older program would take what is appended for damage.
        let is_unchanged = before.get(name) == Some(bytes);
        assert!(is_unchanged || bytes[5] == 2, "{name} has both formats");
    }
    let all: Vec<i64> = (0..STEPS + 20).collect();
    assert_steps(&recorder, &disk, &all, "continued");
    drop(recorder);
    let (recorder, _) = reopened(&disk.files());
    assert_eq!(content(&recorder.reader()), (expected(all), 0));
}

/// Heads of format 1 have no parity, and any bytes might pass for it.
#[test]
fn damaged_head_of_format_1_gives_no_wrong_value() {
    let (files, whole) = (format_1(), expected(0..STEPS));
    for name in files.keys().filter(|name| name.contains(".head")) {
        for at in 0..files[name].len() {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[at] ^= 0x11;
            for (at, bits) in read(&damaged).0 {
                assert_eq!(whole.get(&at), Some(&bits), "{name} {at:?}");
            }
        }
    }
}

#[test]
fn newer_format_is_refused_and_left_alone() {
    let (disk, _) = small_record();
    for name in disk.files().keys() {
        if FileKind::parse(name).is_none() {
            continue;
        }
        let mut files = disk.files();
        let bytes = files.get_mut(name).unwrap();
        bytes[5] = 3;
        let sum = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        let disk = SimDisk::with(&files);
        let opened = Recorder::open_on(Arc::new(disk.clone()), options(1 << 20, 8));
        let read = read_only_on(&(Arc::new(disk.clone()) as _));
        for error in [
            opened.map(|_| ()).unwrap_err(),
            read.map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, OpenError::Version { version: 3, .. }));
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("format 3"), "{text}");
        }
        assert_eq!(disk.files(), files);
    }
}
