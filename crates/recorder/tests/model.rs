//! Random scrapes read back as they were recorded.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use steadfast_recorder::{Options, Recorder};
use support::{Model, Reading, latest, record, windows};

/// The change of a source from one scrape to the next.
#[derive(Clone, Debug)]
enum Step {
    /// Values change, by series.
    Change(Vec<(u32, u64)>),
    /// Series come or go.
    Flip(Vec<u32>),
    Miss,
    /// The clock is set forward or back.
    SetClock(i64),
    Nothing,
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..50_u32).prop_map(|value| f64::from(value).to_bits()),
        2 => (0..5000_u32).prop_map(|value| (f64::from(value) / 100.0).to_bits()),
        1 => any::<f64>().prop_map(f64::to_bits),
        1 => Just(f64::NAN.to_bits()),
        1 => Just(0x7ff8_0000_dead_beef),
        1 => Just((-0.0_f64).to_bits()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec((0..300_u32, value()), 1..30).prop_map(Step::Change),
        3 => vec(0..300_u32, 1..20).prop_map(Step::Flip),
        1 => Just(Step::Miss),
        1 => (-20_000_i64..20_000).prop_map(Step::SetClock),
        4 => Just(Step::Nothing),
    ]
}

/// Scrapes of two sources in random order.
fn story() -> impl Strategy<Value = Vec<(bool, Reading)>> {
    vec((any::<bool>(), step()), 1..120).prop_map(|steps| {
        let mut readings = Vec::new();
        let mut now = 1_700_000_000_000_i64;
        let mut states: [BTreeMap<u32, u64>; 2] = Default::default();
        for (second, step) in steps {
            now += 1_000;
            let state = &mut states[usize::from(second)];
            let mut missed = false;
            match step {
                Step::Change(changes) => {
                    for (series, bits) in changes {
                        state.insert(series, bits);
                    }
                }
                Step::Flip(series) => {
                    for series in series {
                        if state.remove(&series).is_none() {
                            state.insert(series, f64::from(series).to_bits());
                        }
                    }
                }
                Step::Miss => missed = true,
                Step::SetClock(by) => now += by,
                Step::Nothing => {}
            }
            let values = (!missed).then(|| state.clone());
            readings.push((second, Reading { time: now, values }));
        }
        readings
    })
}

/// A series that follows one of three walks: its own walk, the direction, and where it starts.
type Follower = (usize, bool, i64);

/// Scrapes of series that move together, with resets, gaps, and values that are no decimals.
fn related() -> impl Strategy<Value = Vec<(bool, Reading)>> {
    let followers = vec((0..3_usize, any::<bool>(), 0..1_000_000_i64), 2..24);
    let odd = prop::option::weighted(0.1, (0..24_usize, prop::option::of(value())));
    let steps = vec(([0..9_i64, 0..9_000, 0..9_000_000], odd), 60..130);
    (followers, 0..10_i32, steps).prop_map(|(mut followers, digits, steps)| {
        let mut walks = [0; 3];
        let mut readings = Vec::new();
        for (at, (step, odd)) in (0_i64..).zip(steps) {
            for (walk, step) in walks.iter_mut().zip(step) {
                *walk += step;
            }
            let value_of = |(walk, is_opposite, start): &Follower| {
                let integer = start
                    + if *is_opposite {
                        -walks[*walk]
                    } else {
                        walks[*walk]
                    };
                (integer as f64 / 10_f64.powi(digits)).to_bits()
            };
            let values = followers.iter().map(value_of);
            let mut values: BTreeMap<u32, u64> = (0..).zip(values).collect();
            match odd.map(|(series, value)| (series % followers.len(), value)) {
                // Missing in one scrape.
                Some((series, None)) if series % 2 == 0 => {
                    values.remove(&(series as u32));
                }
                // Reset.
                Some((series, None)) => followers[series].2 = -walks[followers[series].0],
                Some((series, Some(value))) => {
                    values.insert(series as u32, value);
                }
                None => {}
            }
            let values = Some(values);
            let time = 1_700_000_000_000 + at * 1_000;
            readings.push((false, Reading { time, values }));
        }
        readings
    })
}

fn name(second: bool) -> &'static str {
    if second {
        "http://b/metrics"
    } else {
        "http://a/metrics"
    }
}

fn options(head_scrapes: u32) -> Options {
    let mut options = Options::default();
    options.head_scrapes = head_scrapes;
    options
}

/// Checks that windows and newest scrapes equal the model's.
fn check(reader: &steadfast_recorder::Reader, model: &Model, ranges: &[(i64, i64)]) {
    assert_eq!(reader.check(), []);
    for (source, readings) in &model.sources {
        for range in ranges.iter().chain([&(i64::MIN, i64::MAX)]) {
            let (found, mut expected) = (
                windows(reader, source, *range),
                model.windows(source, 0, *range),
            );
            for (n, found) in found {
                let expected = expected.remove(&n).unwrap_or_default();
                assert_eq!(found, expected, "series {n} of {source} in {range:?}");
            }
            assert!(
                expected.is_empty(),
                "{:?} of {source} in {range:?}",
                expected.keys()
            );
        }
        let last = &readings[readings.len() - 1];
        let newest: BTreeMap<u32, (i64, u64)> = latest(reader)
            .into_iter()
            .filter(|((of, _), _)| **of == **source)
            .map(|((_, n), sample)| (n, sample))
            .collect();
        let expected = last
            .values
            .iter()
            .flatten()
            .map(|(n, bits)| (*n, (last.time, *bits)))
            .collect();
        assert_eq!(newest, expected, "{source}: exactly the newest scrape");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn recorded_values_have_the_time_of_their_scrape(
        story in prop_oneof![story(), related()], head in 1..60_u32,
        from in 0..120_000_i64, length in 0..60_000_i64,
    ) {
        let mut recorder = Recorder::in_memory(options(head)).unwrap();
        let mut model = Model::default();
        for (second, reading) in &story {
            record(&mut recorder, &mut model, name(*second), reading);
            prop_assert!(recorder.stats().used <= recorder.stats().budget);
        }
        let start = 1_700_000_000_000 + from;
        check(&recorder.reader(), &model, &[(start, start + length), (i64::MIN, start), (start, i64::MAX)]);
    }

    #[test]
    fn record_in_files_reads_the_same_during_and_after_writing(
        story in story(), head in 1..40_u32, again in vec(any::<bool>(), 120),
    ) {
        let dir = tempfile::tempdir().unwrap();
            let mut recorder = Some(Recorder::open(dir.path(), options(head)).unwrap().0);
        let mut model = Model::default();
        for ((second, reading), again) in story.iter().zip(&again) {
            record(recorder.as_mut().unwrap(), &mut model, name(*second), reading);
            if *again && reading.time % 3 == 0 {
                drop(recorder.take());
                let (reopened, opened) = Recorder::open(dir.path(), options(head)).unwrap();
                prop_assert_eq!(&opened.damage, &[]);
                prop_assert_eq!(opened.unfinished, 0);
                recorder = Some(reopened);
            } else if *again {
                recorder.as_mut().unwrap().sync().unwrap();
            }
        }
        let recorder = recorder.unwrap();
        check(&recorder.reader(), &model, &[(1_700_000_030_000, 1_700_000_060_000)]);
        let (reader, opened) = Recorder::open_read_only(dir.path()).unwrap();
        prop_assert_eq!(&opened.damage, &[]);
        check(&reader, &model, &[(1_700_000_030_000, 1_700_000_060_000)]);
        let on_disk: u64 = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        prop_assert!(on_disk <= recorder.stats().used, "{} of {}", on_disk, recorder.stats().used);
    }
}
