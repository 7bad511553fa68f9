//! Damaged files.

use super::{content, expected, read, reopened, small_record, step};
use crate::sim_disk::Files;

fn is_a(name: &str, extension: &str) -> bool {
    name.split_once('.')
        .is_some_and(|(_, found)| found == extension)
}

/// No wrong value is read, and missing values are reported, unless they are at the unfinished end.
fn check(files: &Files, steps: i64, what: &str, may_be_unfinished: bool) {
    let whole = expected(0..steps);
    let (found, damaged, opened) = read(files);
    for (at, bits) in &found {
        assert_eq!(
            whole.get(at),
            Some(bits),
            "{what}: a value that was not scraped"
        );
    }
    if found != whole {
        let reported = damaged > 0 || !opened.damage.is_empty() || may_be_unfinished;
        assert!(
            reported,
            "{what}: {} of {} samples are missing without a report",
            whole.len() - found.len(),
            whole.len()
        );
    }
}

#[test]
fn every_flipped_byte_is_reported_or_harmless() {
    let (disk, steps) = small_record();
    let files = disk.files();
    let newest = files.keys().rfind(|name| is_a(name, "head")).unwrap();
    for (name, bytes) in &files {
        for at in 0..bytes.len() {
            for mask in [1, 0x80, 0xff] {
                let mut damaged = files.clone();
                damaged.get_mut(name).unwrap()[at] ^= mask;
                let what = format!("{name} flipped at {at} by {mask:#x}");
                // A length that points past the end looks like an unfinished frame.
                let may = name == newest;
                check(&damaged, steps, &what, may);
            }
        }
    }
}

#[test]
fn every_truncated_file_is_reported_or_harmless() {
    let (disk, steps) = small_record();
    let files = disk.files();
    let newest = files.keys().rfind(|name| is_a(name, "head")).unwrap();
    for (name, bytes) in &files {
        for at in 0..bytes.len() {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap().truncate(at);
            check(
                &damaged,
                steps,
                &format!("{name} cut at {at}"),
                name == newest,
            );
        }
        let mut damaged = files.clone();
        damaged.remove(name);
        // A part that is missing may have been evicted.
        check(
            &damaged,
            steps,
            &format!("{name} removed"),
            !is_a(name, "names"),
        );
    }
}

#[test]
fn recorder_continues_after_any_damage() {
    let (disk, steps) = small_record();
    let files = disk.files();
    let later = steps..steps + 20;
    for (name, bytes) in &files {
        for at in (0..bytes.len()).step_by(7) {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[at] ^= 0x10;
            let (mut recorder, _) = reopened(&damaged);
            for n in later.clone() {
                step(&mut recorder, n).unwrap();
            }
            let (found, _) = content(&recorder.reader());
            let whole = expected(0..later.end);
            for (at, bits) in &found {
                assert_eq!(whole.get(at), Some(bits), "{name} flipped at {at:?}");
            }
            for (at, bits) in expected(later.clone()) {
                assert_eq!(found.get(&at), Some(&bits), "{name} flipped at {at:?}");
            }
        }
    }
}
