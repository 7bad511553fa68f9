//! Full and failing disks.

use std::time::Instant;

use super::{assert_steps, expected, read, recorder, step};
use crate::WriteError;

#[test]
fn full_disk_costs_only_the_scrapes_that_fail() {
    for room in (0..2_000).step_by(13) {
        let (disk, mut recorder) = recorder(6);
        let mut kept = Vec::new();
        for n in 0..40 {
            match n {
                10 => disk.set_free(Some(room)),
                30 => disk.set_free(None),
                _ => {}
            }
            match step(&mut recorder, n) {
                Ok(()) => kept.push(n),
                Err(WriteError::Io { .. }) => {
                    assert!((10..30).contains(&n), "step {n} with room for {room}");
                }
                Err(error) => panic!("{error}"),
            }
            recorder.sync(Instant::now()).ok();
        }
        assert!(kept.contains(&39));
        assert_eq!(
            recorder.stats().counters.write_errors,
            40 - kept.len() as u64
        );
        assert_steps(&recorder, &disk, &kept, &format!("room for {room}"));
    }
}

#[test]
fn no_failed_operation_loses_a_committed_scrape() {
    for fail in 0..150 {
        let (disk, mut recorder) = recorder(6);
        disk.fail_in(Some(fail));
        let mut kept = Vec::new();
        for n in 0..30 {
            if step(&mut recorder, n).is_ok() {
                kept.push(n);
            }
            recorder.sync(Instant::now()).ok();
        }
        assert!(kept.len() >= 29, "one failure costs one scrape");
        assert_steps(&recorder, &disk, &kept, &format!("operation {fail} failed"));
    }
}

#[test]
fn failed_sync_rewrites_files_in_doubt() {
    let (disk, mut recorder) = recorder(100);
    for n in 0..5 {
        step(&mut recorder, n).unwrap();
    }
    disk.fail_sync(true);
    recorder.sync(Instant::now()).unwrap_err();
    disk.fail_sync(false);
    for n in 5..8 {
        step(&mut recorder, n).unwrap();
        recorder.sync(Instant::now()).unwrap();
    }
    assert_eq!(recorder.stats().counters.catalogs, 1);
    let (found, damaged, _) = read(&disk.durable());
    assert_eq!((found, damaged), (expected(0..8), 0));
}
