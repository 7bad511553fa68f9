//! Crashes and power cuts at any point.

use super::{content, expected, labels, read, recorder, reopened, step};
use crate::{
    Meta,
    sim_disk::{Change, Files, apply},
};

#[test]
fn crash_at_every_byte_keeps_every_committed_scrape() {
    let (disk, mut recorder) = recorder(6);
    // The number of changes of the disk when each step was committed.
    let mut committed = Vec::new();
    for n in 0..20 {
        step(&mut recorder, n).unwrap();
        committed.push(disk.changes().len());
        if n % 4 == 3 {
            recorder.sync().unwrap();
        }
    }
    let changes = disk.changes();
    assert!(
        changes
            .iter()
            .any(|change| matches!(change, Change::Rename(..))),
        "segments were made"
    );
    let mut files = Files::new();
    for (at, change) in changes.iter().enumerate() {
        let finished = committed.iter().take_while(|made| **made <= at).count();
        let finished = i64::try_from(finished).unwrap();
        let bytes = if let Change::Write(_, _, bytes) = change {
            bytes.len()
        } else {
            0
        };
        for cut in 0..=bytes {
            let mut files = files.clone();
            if bytes > 0 {
                apply(&mut files, change, Some(cut));
            }
            let (found, damaged, opened) = read(&files);
            assert_eq!(
                (damaged, opened.damage),
                (0, vec![]),
                "change {at} cut at {cut}"
            );
            let whole = found == expected(0..finished) || found == expected(0..=finished);
            assert!(
                whole,
                "change {at} ({change:?}) cut at {cut}: {finished} steps were finished"
            );
        }
        // Continuing takes longer, so that only a few cuts are tried.
        for cut in [0, bytes / 2, bytes] {
            let mut files = files.clone();
            if bytes > 0 {
                apply(&mut files, change, Some(cut));
            }
            continue_from(&files, finished);
        }
        apply(&mut files, change, None);
    }
}

/// A restarted recorder continues the record without a hole.
fn continue_from(files: &Files, finished: i64) {
    let (mut recorder, opened) = reopened(files);
    assert_eq!(opened.damage, []);
    let (before, _) = content(&recorder.reader());
    let next = if before == expected(0..finished) {
        finished
    } else {
        finished + 1
    };
    for n in next..next + 9 {
        step(&mut recorder, n).unwrap();
    }
    let (after, damaged) = content(&recorder.reader());
    assert_eq!(damaged, 0);
    assert_eq!(after, expected(0..next + 9));
}

#[test]
fn power_cut_loses_only_scrapes_since_the_last_sync() {
    let (disk, mut recorder) = recorder(6);
    let mut synced = 0;
    for n in 0..60 {
        step(&mut recorder, n).unwrap();
        if n % 4 == 3 {
            recorder.sync().unwrap();
            synced = n + 1;
        }
        let (found, damaged, _) = read(&disk.durable());
        assert_eq!(damaged, 0);
        assert_eq!(found, expected(0..synced), "after step {n}");
        continue_from(&disk.durable(), synced);
    }
}

#[test]
fn crash_keeps_values_and_health_of_a_scrape_or_neither() {
    let (disk, mut recorder) = recorder(6);
    let [source, health] = ["a", "health:a"].map(|name| recorder.source(name).unwrap());
    for n in 0..4 {
        let mut scrape = recorder.scrape(source, n);
        let value = scrape.series(&labels(0), &Meta::default()).unwrap();
        scrape.set(value, n as f64, None);
        let up = scrape
            .series_of(health, &labels(1), &Meta::default())
            .unwrap();
        scrape.add_source(health);
        scrape.set(up, n as f64, None);
        scrape.commit().unwrap();
    }
    let mut files = Files::new();
    for change in disk.changes() {
        if let Change::Write(_, _, bytes) = &change {
            for cut in 0..=bytes.len() {
                let mut files = files.clone();
                apply(&mut files, &change, Some(cut));
                let (found, damaged, opened) = read(&files);
                assert_eq!((damaged, opened.damage), (0, vec![]));
                let times = |series| found.keys().filter(move |(of, _)| *of == series);
                let times = [0, 1].map(|series| times(series).map(|(_, time)| *time).collect());
                let [values, health]: [Vec<i64>; 2] = times;
                assert_eq!(values, health);
            }
        }
        apply(&mut files, &change, None);
    }
}
