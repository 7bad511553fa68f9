//! Damaged files.

use std::{ops::Range, sync::Arc};

use super::{
    SOURCE, content, expected, labels, read, recorder, reopened, small_record, step, time,
};
use crate::{
    Meta,
    error::DamageKind,
    frame::HEADER_BYTES,
    parity::is_parity,
    recorder::read_only::read_only_on,
    sim_disk::{Files, SimDisk},
};

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

#[test]
fn swapped_frames_of_equal_length_are_reported() {
    let (disk, mut recorder) = recorder(8);
    let source = recorder.source(SOURCE).unwrap();
    let value = |n: i64| if n % 2 == 0 { 1.5 } else { 2.5 };
    for n in 0..10 {
        let mut scrape = recorder.scrape(source, time(n));
        let series = scrape.series(&labels(0), &Meta::default()).unwrap();
        scrape.set(series, value(n), None);
        scrape.commit().unwrap();
    }
    let mut files = disk.files();
    files.retain(|name, _| !is_a(name, "segment"));
    let head = files
        .keys()
        .find(|name| is_a(name, "head"))
        .unwrap()
        .clone();
    let frames = frames(&files[&head]);
    let mut swapped = 0;
    for (index, first) in frames.iter().enumerate() {
        for second in &frames[index + 1..] {
            let bytes = &files[&head];
            if first.len() != second.len() || bytes[first.clone()] == bytes[second.clone()] {
                continue;
            }
            swapped += 1;
            let mut damaged = files.clone();
            let changed = damaged.get_mut(&head).unwrap();
            changed[first.clone()].copy_from_slice(&bytes[second.clone()]);
            changed[second.clone()].copy_from_slice(&bytes[first.clone()]);
            let (found, unread, opened) = read(&damaged);
            assert!(
                unread > 0 || !opened.damage.is_empty(),
                "{first:?} and {second:?}"
            );
            for ((_, at), bits) in found {
                let n = (at - time(0)) / 1_000;
                assert_eq!(bits, value(n).to_bits(), "{first:?} and {second:?}");
            }
        }
    }
    assert!(swapped > 3, "{swapped} pairs");
}

/// Returns the bytes of each frame of a log.
fn frames(log: &[u8]) -> Vec<Range<usize>> {
    let (mut frames, mut start) = (Vec::new(), HEADER_BYTES);
    while let Some(length) = log.get(start..start + 4) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        let end = start + 8 + length;
        frames.push(start..end);
        start = end;
    }
    frames
}

/// A record with one long head. Returns the files, the head's name and the number of steps.
fn one_head() -> (Files, String, i64) {
    let (disk, mut recorder) = recorder(1_000);
    let steps = 100;
    for n in 0..steps {
        step(&mut recorder, n).unwrap();
    }
    let files = disk.files();
    let head = files
        .keys()
        .find(|name| is_a(name, "head"))
        .unwrap()
        .clone();
    (files, head, steps)
}

#[test]
fn damaged_place_in_a_head_costs_at_most_its_scrape() {
    let (files, head, steps) = one_head();
    let (bytes, whole) = (&files[&head], expected(0..steps));
    // The places of frames between two parity frames, and those of parity frames.
    let (mut places, mut start) = (Vec::new(), 0);
    for frame in frames(bytes) {
        if is_parity(&bytes[frame.start + 8..]) {
            places.extend([start..frame.start, frame.clone()]);
            start = frame.end;
        }
    }
    assert!(
        places.len() > 8 && start > bytes.len() * 3 / 4,
        "{places:?}"
    );
    for place in places {
        for length in [1, 8, 44, 63] {
            for at in place.clone().step_by(7) {
                let damaged_place = at..(at + length).min(place.end);
                let mut damaged = files.clone();
                for byte in &mut damaged.get_mut(&head).unwrap()[damaged_place.clone()] {
                    *byte = !*byte;
                }
                let (found, unread, opened) = read(&damaged);
                assert_eq!((found.len(), unread), (whole.len(), 1), "{damaged_place:?}");
                assert_eq!(found, whole);
                let [damage] = &opened.damage[..] else {
                    panic!("{damaged_place:?}: {opened:?}")
                };
                assert!(matches!(damage.kind, DamageKind::Restored(_)), "{damage}");
                assert!(damage.offset <= damaged_place.start as u64, "{damage}");
            }
        }
    }
    // What has no parity yet is at most as long as a region.
    for at in start..bytes.len() {
        let mut damaged = files.clone();
        damaged.get_mut(&head).unwrap()[at] ^= 0x10;
        let (found, ..) = read(&damaged);
        let lost = whole.keys().filter(|key| !found.contains_key(key));
        let first = lost.map(|(_, time)| *time).min();
        assert!(first.is_none_or(|first| first >= time(steps - 16)), "{at}");
    }
}

#[test]
fn record_with_a_restored_head_is_continued() {
    let (mut files, head, steps) = one_head();
    // The beginning, where a crash of a file system leaves zeros.
    files.get_mut(&head).unwrap()[..8].fill(0);
    let (mut recorder, opened) = reopened(&files);
    assert_eq!(opened.damage.len(), 1, "{opened:?}");
    for n in steps..steps + 5 {
        step(&mut recorder, n).unwrap();
    }
    assert_eq!(content(&recorder.reader()), (expected(0..steps + 5), 0));
}

#[test]
fn damaged_header_of_a_catalog_costs_nothing() {
    let (disk, steps) = small_record();
    for name in disk.files().keys().filter(|name| is_a(name, "names")) {
        let mut files = disk.files();
        files.get_mut(name).unwrap()[..HEADER_BYTES].fill(0);
        let (found, _, _) = read(&files);
        assert_eq!(found, expected(0..steps), "{name}");
        let (reader, _) = read_only_on(&(Arc::new(SimDisk::with(&files)) as _)).unwrap();
        let damage = reader.check();
        assert!(matches!(damage[..], [ref one] if matches!(one.kind, DamageKind::Restored(_))));
    }
}
