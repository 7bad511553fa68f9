//! Bytes that are not as they were written.

use super::{content, expected, read, reopened, small_record, step};
use crate::sim_disk::Files;

fn is_a(name: &str, extension: &str) -> bool {
    name.split_once('.')
        .is_some_and(|(_, found)| found == extension)
}

/// Nothing wrong is ever read, and what is missing is told, unless it is the unfinished end.
fn check(files: &Files, steps: i64, what: &str, may_be_unfinished: bool) {
    let whole = expected(0..steps);
    let (found, damaged, opened) = read(files);
    for (at, bits) in &found {
        assert_eq!(whole.get(at), Some(bits), "{what}: a value nobody scraped");
    }
    if found != whole {
        let told = damaged > 0 || !opened.damage.is_empty() || may_be_unfinished;
        assert!(
            told,
            "{what}: {} of {} samples are missing and nobody says so",
            whole.len() - found.len(),
            whole.len()
        );
    }
}

#[test]
fn req_x9_every_byte_flipped_is_noticed_or_harmless() {
    let (disk, steps) = small_record();
    let files = disk.files();
    let newest = files.keys().rfind(|name| is_a(name, "head")).unwrap();
    for (name, bytes) in &files {
        for at in 0..bytes.len() {
            for mask in [1, 0x80, 0xff] {
                let mut damaged = files.clone();
                damaged.get_mut(name).unwrap()[at] ^= mask;
                let what = format!("{name} flipped at {at} by {mask:#x}");
                // A length that points past the end looks like an end that was never written.
                let may = name == newest;
                check(&damaged, steps, &what, may);
            }
        }
    }
}

#[test]
fn req_x9_every_file_cut_at_every_byte_is_noticed_or_harmless() {
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
        // A part that is not there may have left to make room.
        check(
            &damaged,
            steps,
            &format!("{name} removed"),
            !is_a(name, "names"),
        );
    }
}

#[test]
fn a_recorder_goes_on_after_any_damage_and_what_it_records_then_is_whole() {
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
