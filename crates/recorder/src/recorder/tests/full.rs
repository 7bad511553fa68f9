//! Full and failing disks.

use super::{SOURCE, assert_steps, expected, labels, read, recorder, step, time, values};
use crate::{Meta, Recorder, Selector, WriteError, recorder::storage::file_cost};

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
            recorder.sync().ok();
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
fn latest_values_go_on_while_the_disk_is_full() {
    let (disk, mut recorder) = recorder(6);
    let latest = |recorder: &Recorder| {
        let latest = recorder.reader().latest(&Selector::all());
        let times: Vec<_> = latest.series.iter().map(|one| one.sample.time_ms).collect();
        assert_eq!(times, vec![times[0]; times.len()]);
        (times[0], times.len())
    };
    step(&mut recorder, 3).unwrap();
    disk.set_free(Some(0));
    for n in 4..9 {
        step(&mut recorder, n).unwrap_err();
        assert_eq!(latest(&recorder), (time(n), values(n).len()));
    }
    disk.set_free(None);
    step(&mut recorder, 9).unwrap();
    assert_eq!(latest(&recorder), (time(9), values(9).len()));
    assert_steps(
        &recorder,
        &disk,
        &[3, 9],
        "only what was written is recorded",
    );
}

#[test]
fn eviction_before_a_segment_is_durable_keeps_the_account() {
    for (evict_first, evictions) in (0..6).flat_map(|n| [(true, n), (false, n)]) {
        let (disk, mut recorder) = recorder(4);
        for n in 0..40 {
            step(&mut recorder, n).unwrap();
        }
        let evict = |recorder: &mut Recorder, is_now: bool| {
            let evicted = (0..evictions).filter(|_| is_now && recorder.evict());
            assert_eq!(evicted.count(), if is_now { evictions } else { 0 });
        };
        evict(&mut recorder, evict_first);
        let job = recorder.begin_sync().unwrap();
        evict(&mut recorder, !evict_first);
        recorder.finish_sync(job.run()).unwrap();
        // A removal waits for the next sync.
        recorder.sync().unwrap();
        let files = disk.files();
        let cost = files.values().map(|file| file_cost(file.len() as u64));
        let used = recorder.used();
        assert_eq!(
            used,
            cost.sum::<u64>(),
            "{evictions} evictions, {evict_first}"
        );
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
            recorder.sync().ok();
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
    recorder.sync().unwrap_err();
    disk.fail_sync(false);
    for n in 5..8 {
        step(&mut recorder, n).unwrap();
        recorder.sync().unwrap();
    }
    assert_eq!(recorder.stats().counters.catalogs, 1);
    let (found, damaged, _) = read(&disk.durable());
    assert_eq!((found, damaged), (expected(0..8), 0));
}

/// The sync that fails has taken the file of a catalog that is no longer the current one.
#[test]
fn catalog_replaced_before_a_failed_sync_is_durable_later() {
    let (disk, mut recorder) = recorder(4);
    let source = recorder.source(SOURCE).unwrap();
    let help = |n: i64| if n < 8 { "one" } else { "other" };
    let mut scrape = |n: i64| {
        let meta = Meta {
            help: help(n).to_owned(),
            ..Meta::default()
        };
        let mut scrape = recorder.scrape(source, time(n));
        let id = scrape.series(&labels(0), &meta).unwrap();
        scrape.set(id, n as f64, None);
        scrape.commit().unwrap();
        if n == 14 {
            assert_eq!(recorder.stats().counters.catalogs, 1, "one is replaced");
            disk.fail_sync(true);
            recorder.sync().unwrap_err();
            disk.fail_sync(false);
        } else if n > 14 {
            recorder.sync().unwrap();
        }
    };
    (0..40).for_each(&mut scrape);
    let (found, damaged, opened) = read(&disk.durable());
    assert_eq!((damaged, opened.damage), (0, vec![]));
    let times: Vec<i64> = found.keys().map(|(_, time)| *time).collect();
    assert_eq!(times, (0..40).map(time).collect::<Vec<_>>());
}
