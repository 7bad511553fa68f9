//! Series and sources that come, go and misbehave.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use steadfast_recorder::{
    Kind, Labels, LimitError, Meta, NAME, OpenError, Options, Recorder, Selector, SetOutcome,
    SourceId,
};
use support::{labels, latest, meta, windows};

/// Commits a scrape with these values.
fn scrape(
    recorder: &mut Recorder,
    source: SourceId,
    time: i64,
    values: impl IntoIterator<Item = (u32, f64)>,
) {
    let mut scrape = recorder.scrape(source, time);
    for (n, value) in values {
        let id = scrape.series(&labels(n), &meta(n)).unwrap();
        scrape.set(id, value, None);
    }
    scrape.commit().unwrap();
}

fn recorder() -> Recorder {
    Recorder::in_memory(Options::default()).unwrap()
}

#[test]
fn first_value_in_a_scrape_wins_and_others_are_counted() {
    let mut recorder = recorder();
    let source = recorder.source("a").unwrap();
    let id = recorder.series(source, &labels(1), &meta(1)).unwrap();
    let mut scrape = recorder.scrape(source, 1_000);
    assert_eq!(
        scrape.series(&labels(1), &meta(1)),
        Ok(id),
        "the same series has the same id"
    );
    assert_eq!(scrape.set(id, 1.0, None), SetOutcome::Stored);
    assert_eq!(scrape.set(id, 2.0, None), SetOutcome::Duplicate);
    assert_eq!(scrape.set(id, 1.0, None), SetOutcome::Duplicate);
    let committed = scrape.commit().unwrap();
    assert_eq!((committed.samples, committed.duplicates), (1, 2));
    assert_eq!(
        windows(&recorder.reader(), "a", (0, 9_000))[&1].samples,
        [(1_000, 1.0_f64.to_bits())]
    );
}

#[test]
fn dropped_scrape_leaves_no_trace() {
    let mut recorder = recorder();
    let source = recorder.source("a").unwrap();
    let mut scrape = recorder.scrape(source, 1_000);
    let id = scrape.series(&labels(1), &meta(1)).unwrap();
    scrape.set(id, 1.0, Some(5));
    drop(scrape);
    assert_eq!(recorder.reader().span(), None);
    let mut scrape = recorder.scrape(source, 2_000);
    assert_eq!(
        scrape.set(id, 2.0, None),
        SetOutcome::Stored,
        "the id is as good as before"
    );
    scrape.commit().unwrap();
    assert_eq!(
        windows(&recorder.reader(), "a", (0, 9_000))[&1].samples,
        [(2_000, 2.0_f64.to_bits())]
    );
}

#[test]
fn staged_values_wait_for_the_time_of_their_scrape() {
    let mut options = Options::default();
    options.honor_timestamps = true;
    let mut recorder = Recorder::in_memory(options).unwrap();
    let source = recorder.source("a").unwrap();
    let ids = [1, 2].map(|n| recorder.series(source, &labels(n), &meta(n)).unwrap());
    assert_eq!(recorder.stage(ids[0], 1.0, Some(700)), SetOutcome::Stored);
    recorder.discard(source);
    assert_eq!(recorder.stage(ids[0], 2.0, Some(800)), SetOutcome::Stored);
    assert_eq!(recorder.stage(ids[0], 3.0, None), SetOutcome::Duplicate);
    // A tick that was skipped is recorded first, and leaves the staged page alone.
    recorder.missed(source, 900).unwrap();
    let mut scrape = recorder.scrape(source, 1_000);
    assert_eq!(scrape.set(ids[1], 4.0, None), SetOutcome::Stored);
    let staged = scrape.staged();
    assert_eq!((staged.samples, staged.duplicates), (2, 1));
    assert_eq!(scrape.commit().unwrap(), staged);
    let windows = windows(&recorder.reader(), "a", (0, 9_000));
    assert_eq!(windows[&1].samples, [(800, 2.0_f64.to_bits())]);
    assert_eq!(windows[&2].samples, [(1_000, 4.0_f64.to_bits())]);
}

#[test]
fn failed_scrape_is_committed_with_its_health() {
    let mut recorder = recorder();
    let source = recorder.source("a").unwrap();
    let health = recorder.source("health:a").unwrap();
    for (time, fails) in [(1_000, false), (2_000, true)] {
        let mut scrape = recorder.scrape(source, time);
        let value = scrape.series(&labels(1), &meta(1)).unwrap();
        let up = scrape.series_of(health, &labels(2), &meta(2)).unwrap();
        assert_eq!(scrape.set(up, 1.0, None), SetOutcome::Stale, "not added");
        scrape.set(value, 1.0, None);
        if fails {
            scrape.fail();
            assert_eq!(scrape.set(value, 1.0, None), SetOutcome::Stale);
        }
        scrape.add_source(health);
        let is_up = f64::from(u8::from(!fails));
        assert_eq!(scrape.set(up, is_up, None), SetOutcome::Stored);
        scrape.commit().unwrap();
    }
    let reader = recorder.reader();
    let newest = reader.latest(&Selector::all());
    assert_eq!(newest.scrapes["a"], (2_000, true));
    assert_eq!(newest.scrapes["health:a"], (2_000, false));
    assert_eq!(windows(&reader, "a", (0, 9_000))[&1].absences, [2_000]);
    let health = &windows(&reader, "health:a", (0, 9_000))[&2];
    let expected = [(1_000, 1.0_f64.to_bits()), (2_000, 0.0_f64.to_bits())];
    assert_eq!(health.samples, expected);
    let counters = recorder.stats().counters;
    assert_eq!((counters.scrapes, counters.missed), (3, 1));
}

#[test]
fn id_of_a_vanished_series_never_denotes_another() {
    let mut options = Options::default();
    options.budget = 256 << 10;
    let mut recorder = Recorder::in_memory(options).unwrap();
    let source = recorder.source("a").unwrap();
    let other = recorder.source("b").unwrap();
    let lasting = recorder.series(source, &labels(0), &meta(0)).unwrap();
    let mut old = Vec::new();
    for n in 1..3_000 {
        let mut scrape = recorder.scrape(source, i64::from(n) * 1_000);
        assert_eq!(
            scrape.set(lasting, 0.0, None),
            SetOutcome::Stored,
            "it was in every scrape"
        );
        let id = scrape.series(&labels(n), &meta(n)).unwrap();
        assert_eq!(scrape.set(id, f64::from(n), None), SetOutcome::Stored);
        scrape.commit().unwrap();
        old.push(id);
    }
    assert!(
        recorder.stats().counters.catalogs > 0,
        "slots were taken again"
    );
    let mut scrape = recorder.scrape(source, 4_000_000);
    let stale = old
        .iter()
        .map(|id| scrape.set(*id, -1.0, None))
        .filter(|set| *set == SetOutcome::Stale)
        .count();
    assert!(stale > 1_000, "{stale}");
    scrape.commit().unwrap();
    for window in recorder
        .reader()
        .window(&Selector::all(), 4_000_000..=4_000_000)
    {
        let n: usize = window.unwrap().labels.value("n").unwrap().parse().unwrap();
        assert!(n > stale, "only ids that are still good took a value: {n}");
    }
    let mut scrape = recorder.scrape(other, 5_000_000);
    assert_eq!(
        scrape.set(lasting, 1.0, None),
        SetOutcome::Stale,
        "an id of another source"
    );
}

#[test]
fn line_timestamps_are_stored_only_if_honored() {
    for honored in [false, true] {
        let mut options = Options::default();
        options.honor_timestamps = honored;
        options.head_scrapes = 3;
        let mut recorder = Recorder::in_memory(options).unwrap();
        let source = recorder.source("a").unwrap();
        for n in 0..9_i64 {
            let mut scrape = recorder.scrape(source, 10_000 + n * 1_000);
            let stamped = scrape.series(&labels(1), &meta(1)).unwrap();
            let plain = scrape.series(&labels(2), &meta(2)).unwrap();
            // A line that brings the same time and value three times over.
            scrape.set(stamped, (n / 3) as f64, Some(n / 3 * 3_000));
            scrape.set(plain, n as f64, None);
            scrape.commit().unwrap();
        }
        let reader = recorder.reader();
        let windows = windows(&reader, "a", (0, 99_000));
        let stamped: Vec<_> = windows[&1]
            .samples
            .iter()
            .map(|(time, bits)| (*time, f64::from_bits(*bits)))
            .collect();
        if honored {
            assert_eq!(stamped, [(0, 0.0), (3_000, 1.0), (6_000, 2.0)]);
            assert_eq!(latest(&reader)[&("a".into(), 1)].0, 6_000);
        } else {
            assert_eq!(stamped.len(), 9);
            assert_eq!(stamped[8], (18_000, 2.0));
        }
        assert_eq!(windows[&2].samples.len(), 9);
    }
}

#[test]
fn changed_meta_becomes_visible() {
    let mut recorder = recorder();
    let source = recorder.source("a").unwrap();
    let before = Meta {
        kind: Kind::Gauge,
        help: "Before.".to_owned(),
    };
    let after = Meta {
        kind: Kind::Counter,
        help: "After.".to_owned(),
    };
    for n in 0..200 {
        let mut scrape = recorder.scrape(source, n * 1_000);
        let id = scrape
            .series(&labels(1), if n < 10 { &before } else { &after })
            .unwrap();
        scrape.set(id, 1.0, None);
        scrape.commit().unwrap();
    }
    let reader = recorder.reader();
    let series = reader.latest(&Selector::all()).series;
    assert_eq!(*series[0].meta, after);
    let windows: Vec<_> = reader
        .window(&Selector::all(), 0..=i64::MAX)
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        (windows.len(), windows[0].samples.len(), &*windows[0].meta),
        (1, 200, &after)
    );
}

#[test]
fn selector_matches_like_prometheus() {
    let mut recorder = recorder();
    for name in ["a", "b"] {
        let source = recorder.source(name).unwrap();
        let mut scrape = recorder.scrape(source, 1_000);
        for (metric, zone) in [("up", Some("east")), ("up", None), ("down", Some("west"))] {
            let labels = Labels::new(
                [(NAME, metric)]
                    .into_iter()
                    .chain(zone.map(|zone| ("zone", zone))),
            )
            .unwrap();
            let id = scrape.series(&labels, &Meta::default()).unwrap();
            scrape.set(id, 1.0, None);
        }
        scrape.commit().unwrap();
    }
    let reader = recorder.reader();
    let count = |selector: Selector| {
        let (window, latest) = (
            reader.window(&selector, 0..=2_000).count(),
            reader.latest(&selector).series.len(),
        );
        assert_eq!((window, window), (latest, reader.series(&selector).len()));
        window
    };
    assert_eq!(count(Selector::all()), 6);
    assert_eq!(count(Selector::all().source("a")), 3);
    assert_eq!(count(Selector::all().name("up")), 4);
    assert_eq!(count(Selector::all().name("up").label("zone", "")), 2);
    let filter = |selector: Selector| {
        selector.filter(|labels| {
            labels
                .value("zone")
                .is_some_and(|zone| zone.starts_with('w'))
        })
    };
    assert_eq!(count(filter(Selector::all())), 2);
    assert_eq!(count(filter(Selector::all().name("up"))), 0);
    assert_eq!(
        reader
            .sources()
            .iter()
            .map(|name| &**name)
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn reader_sees_the_state_of_its_creation() {
    let mut recorder = recorder();
    let source = recorder.source("a").unwrap();
    let mut readers = Vec::new();
    for n in 0..50 {
        let values = [1, 100 + n as u32]
            .into_iter()
            .map(|series| (series, n as f64));
        scrape(&mut recorder, source, n * 1_000, values);
        readers.push(recorder.reader());
    }
    let seen = std::thread::scope(|scope| {
        let seen = |reader: &steadfast_recorder::Reader| {
            (
                windows(reader, "a", (0, 99_000))[&1].samples.len(),
                latest(reader).values().next().unwrap().0,
            )
        };
        let threads: Vec<_> = readers
            .iter()
            .map(|reader| scope.spawn(move || seen(reader)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    for (n, seen) in (0..).zip(seen) {
        assert_eq!(seen, (n as usize + 1, n * 1_000));
    }
}

#[test]
fn directory_has_one_recorder_and_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recorder, _) = Recorder::open(dir.path(), Options::default()).unwrap();
    let again = Recorder::open(dir.path(), Options::default());
    assert!(matches!(again, Err(OpenError::Locked { .. })));
    let source = recorder.source("a").unwrap();
    for n in 0..5 {
        scrape(&mut recorder, source, n * 1_000, [(1, n as f64)]);
        let (reader, opened) = Recorder::open_read_only(dir.path()).unwrap();
        assert_eq!(
            (opened.newest, &opened.damage),
            (Some(n * 1_000), &Vec::new())
        );
        assert_eq!(
            windows(&reader, "a", (0, 99_000))[&1]
                .samples
                .len()
                .try_into(),
            Ok(n + 1)
        );
        assert_eq!(latest(&reader)[&("a".into(), 1)].0, n * 1_000);
    }
    drop(recorder);
    Recorder::open(dir.path(), Options::default()).unwrap();
}

#[test]
fn heads_are_sealed_while_syncs_run_on_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.head_scrapes = 20;
    let (mut recorder, _) = Recorder::open(dir.path(), options).unwrap();
    let source = recorder.source("a").unwrap();
    for n in 0..200 {
        let values = (0..300).map(|series| (series, n as f64));
        scrape(&mut recorder, source, n * 1_000, values);
        if let Some(job) = recorder.begin_sync() {
            recorder
                .finish_sync(std::thread::spawn(move || job.run()).join().unwrap())
                .unwrap();
        }
    }
    assert!(recorder.stats().counters.sealed >= 4);
    let (reader, opened) = Recorder::open_read_only(dir.path()).unwrap();
    assert_eq!((&opened.damage, reader.check()), (&Vec::new(), Vec::new()));
    for reader in [reader, recorder.reader()] {
        let windows = windows(&reader, "a", (0, i64::MAX));
        assert_eq!(windows.len(), 300);
        assert!(
            windows
                .values()
                .all(|window| window.samples.len() == 200 && window.absences.is_empty())
        );
    }
}

#[test]
fn limits_are_reported_by_name() {
    let mut options = Options::default();
    options.budget = 1_000;
    assert!(matches!(
        Recorder::in_memory(options.clone()),
        Err(OpenError::Budget { budget: 1_000, .. })
    ));
    options.budget = steadfast_recorder::BUDGET_MIN;
    let mut recorder = Recorder::in_memory(options).unwrap();
    let source = recorder.source("a").unwrap();
    let refused = (0..10_000).find_map(|n| recorder.series(source, &labels(n), &meta(n)).err());
    assert_eq!(refused, Some(LimitError::Budget));
    assert_eq!(recorder.stats().counters.series_refused, 1);
    let refused = (0..2_000).find_map(|n| recorder.source(&n.to_string()).err());
    assert_eq!(refused, Some(LimitError::Sources));
}
