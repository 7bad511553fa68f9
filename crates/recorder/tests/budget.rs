//! The budget holds at every moment, and the newest data is complete.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use steadfast_recorder::{Labels, Meta, NAME, Recorder, Selector};
use support::{Model, Random, Reading, kept, on_disk, options, record, windows};

/// Records scrapes with churn: at each step some percent of the series are replaced by new ones.
fn churn(
    recorder: &mut Recorder,
    steps: i64,
    series: u32,
    replaced: u64,
    mut check: impl FnMut(&mut Recorder),
) -> Model {
    let mut random = Random(7);
    let mut model = Model::default();
    let mut alive: Vec<u32> = (0..series).collect();
    let mut next = series;
    for step in 0..steps {
        for slot in &mut alive {
            if random.below(100) < replaced {
                *slot = next;
                next += 1;
            }
        }
        let values = alive
            .iter()
            .map(|n| (*n, (random.below(1 << 20) as f64 / 7.0).to_bits()));
        let reading = Reading {
            time: step * 1_000,
            values: Some(values.collect()),
        };
        record(recorder, &mut model, "a", &reading);
        check(recorder);
    }
    model
}

/// Checks that the record is the newest part of the model without a hole.
fn check_newest(recorder: &Recorder, model: &Model) {
    let reader = recorder.reader();
    assert_eq!(reader.check(), []);
    let readings = &model.sources["a"];
    let oldest = readings.len() - kept(&reader, model, "a");
    let span = (readings[oldest].time, readings[readings.len() - 1].time);
    assert_eq!(reader.span(), Some(span));
}

#[test]
fn budget_holds_in_files_while_series_churn() {
    for (replaced, series) in [(0, 200), (2, 200), (30, 100), (100, 60)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut recorder, _) = Recorder::open(dir.path(), options(200 << 10)).unwrap();
        let model = churn(&mut recorder, 300, series, replaced, |recorder| {
            let (used, on_disk) = (recorder.stats().used, on_disk(dir.path()));
            assert!(
                on_disk <= 200 << 10 && on_disk <= used && used <= 200 << 10,
                "{on_disk} of {used}"
            );
            if recorder.stats().counters.scrapes % 5 == 0 {
                recorder.sync().unwrap();
            }
        });
        assert!(recorder.stats().evicted_parts > 0, "{replaced} % replaced");
        check_newest(&recorder, &model);
        drop(recorder);
        let (recorder, opened) = Recorder::open(dir.path(), options(200 << 10)).unwrap();
        assert_eq!(opened.damage, []);
        check_newest(&recorder, &model);
    }
}

#[test]
fn budget_holds_in_memory_while_series_churn() {
    for (replaced, series) in [(0, 200), (2, 200), (30, 100), (100, 60)] {
        let mut recorder = Recorder::in_memory(options(200 << 10)).unwrap();
        let model = churn(&mut recorder, 300, series, replaced, |recorder| {
            assert!(recorder.stats().used <= 200 << 10, "{:?}", recorder.stats());
        });
        assert!(recorder.stats().evicted_parts > 0, "{replaced} % replaced");
        check_newest(&recorder, &model);
    }
}

#[test]
fn definition_of_a_vanished_series_is_dropped_after_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recorder, _) = Recorder::open(dir.path(), options(128 << 10)).unwrap();
    let mut model = Model::default();
    let mut random = Random(3);
    let is_named = |recorder: &Recorder| {
        let names = recorder.reader().series(&Selector::all());
        names
            .iter()
            .any(|series| series.labels.value("n") == Some("0"))
    };
    let (mut left, mut forgotten) = (None, None);
    for step in 0..800 {
        // The first series is in the first scrape only, the others in all others.
        let series = if step == 0 { 0..1 } else { 1..100 };
        let values = series
            .map(|n| (n, (random.below(1 << 40) as f64).to_bits()))
            .collect();
        record(
            &mut recorder,
            &mut model,
            "a",
            &Reading {
                time: step,
                values: Some(values),
            },
        );
        recorder.sync().unwrap();
        if step % 10 == 0 && left.is_none() && recorder.reader().span().unwrap().0 > 0 {
            left = Some(step);
        }
        if step % 10 == 0 && forgotten.is_none() && !is_named(&recorder) {
            forgotten = Some(step);
        }
    }
    let (left, forgotten) = (left.unwrap(), forgotten.unwrap());
    assert!(
        left <= forgotten && forgotten <= 3 * left,
        "data was evicted by step {left}, the definition by {forgotten}"
    );
}

#[test]
fn label_bomb_evicts_old_data_and_is_then_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let budget = 1 << 20;
    let (mut recorder, _) = Recorder::open(dir.path(), options(budget)).unwrap();
    let source = recorder.source("a").unwrap();
    let padding = "x".repeat(900);
    let mut refused = 0;
    for step in 0..40_i64 {
        let mut scrape = recorder.scrape(source, step * 1_000);
        for n in 0..1_000 {
            let value = format!("{step}-{n}-{padding}");
            match scrape.series(
                &Labels::new([(NAME, "bomb"), ("label", &value)]).unwrap(),
                &Meta::default(),
            ) {
                Ok(id) => {
                    scrape.set(id, 1.0, None);
                }
                Err(_) => refused += 1,
            }
        }
        scrape.commit().unwrap();
        assert!(on_disk(dir.path()) <= budget);
        assert!(
            recorder.stats().memory <= 2 * budget,
            "{:?}",
            recorder.stats()
        );
    }
    assert!(refused > 0);
    assert_eq!(recorder.stats().counters.series_refused, refused);
    // Once the source is down, the budget has room for others again.
    recorder.missed(source, 40_000).unwrap();
    let mut model = Model::default();
    for step in 40..50 {
        let values = (0..500).map(|n| (n, u64::from(n))).collect();
        record(
            &mut recorder,
            &mut model,
            "b",
            &Reading {
                time: step * 1_000,
                values: Some(values),
            },
        );
    }
    assert_eq!(
        windows(&recorder.reader(), "b", (0, i64::MAX)),
        model.windows("b", 0, (0, i64::MAX))
    );
}
