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

/// The number of steps in the records of earlier formats.
const STEPS: i64 = 22;

const EARLIER: [u8; 2] = [1, 2];

/// A record that an earlier version wrote: a segment, a closed head and a current one.
fn earlier(format: u8) -> Files {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/format-");
    let files = std::fs::read_dir(format!("{dir}{format}")).unwrap();
    let files: Files = files
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        })
        .collect();
    assert_eq!(files.len(), 4);
    assert!(files.values().all(|bytes| bytes[5] == format));
    files
}

#[test]
fn records_of_earlier_formats_are_read() {
    for format in EARLIER {
        let (found, damaged, opened) = read(&earlier(format));
        assert_eq!((damaged, opened.damage), (0, vec![]));
        assert_eq!(found, expected(0..STEPS));
    }
}

#[test]
fn records_of_earlier_formats_are_continued_in_new_files() {
    for format in EARLIER {
        let before = earlier(format);
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
            assert!(is_unchanged || bytes[5] == 3, "{name} has both formats");
        }
        let all: Vec<i64> = (0..STEPS + 20).collect();
        assert_steps(&recorder, &disk, &all, "continued");
        drop(recorder);
        let (recorder, _) = reopened(&disk.files());
        assert_eq!(content(&recorder.reader()), (expected(all), 0));
    }
}

/// Heads of format 1 have no parity, and any bytes might pass for it. In format 2 its place is another.
#[test]
fn damaged_head_of_an_earlier_format_gives_no_wrong_value() {
    EARLIER.map(earlier).iter().for_each(check_damaged_heads);
}

fn check_damaged_heads(files: &Files) {
    let whole = expected(0..STEPS);
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
        bytes[5] = 4;
        let sum = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        let disk = SimDisk::with(&files);
        let opened = Recorder::open_on(Arc::new(disk.clone()), options(1 << 20, 8));
        let read = read_only_on(&(Arc::new(disk.clone()) as _));
        for error in [
            opened.map(|_| ()).unwrap_err(),
            read.map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, OpenError::Version { version: 4, .. }));
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("format 4"), "{text}");
        }
        assert_eq!(disk.files(), files);
    }
}
