//! Recorders that share a budget: it holds for all together, and each keeps its share of history.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use std::{ops::Range, path::Path};

use proptest::prelude::*;
use steadfast_recorder::{
    Labels, Meta, NAME, OpenError, Reader, Recorder, RecorderId, Recorders, Selector,
};
use support::{Model, Random, Reading, kept, on_disk, options, record};

fn random_reading(random: &mut Random, step: i64, series: Range<u32>) -> Reading {
    let values = series.map(|n| (n, (random.below(1 << 40) as f64 / 7.0).to_bits()));
    Reading {
        time: step * 1_000,
        values: Some(values.collect()),
    }
}

/// Recorders, and the model of their records.
struct Run {
    recorders: Recorders,
    model: Model,
    random: Random,
}

impl Run {
    fn new(recorders: Recorders) -> Self {
        Self {
            recorders,
            model: Model::default(),
            random: Random(7),
        }
    }

    fn open(dir: &Path, budget: u64) -> Self {
        Self::new(Recorders::open(dir, options(budget)).unwrap().0)
    }

    /// Closes the recorders and opens them again.
    fn reopen(self, dir: &Path, budget: u64) -> Self {
        drop(self.recorders);
        let (recorders, _) = Recorders::open(dir, options(budget)).unwrap();
        Self { recorders, ..self }
    }

    /// Records a scrape of these series, or a failed one, and syncs with every tenth.
    fn scrape(&mut self, name: &str, step: i64, series: Option<Range<u32>>) {
        let recorder = self.recorders.recorder(name).unwrap();
        let samples = series.clone().map_or(0, |series| series.len());
        let reading = match series {
            Some(series) => random_reading(&mut self.random, step, series),
            None => Reading {
                time: step * 1_000,
                values: None,
            },
        };
        let mut recorder = self.recorders.reserve(recorder, samples);
        record(&mut recorder, &mut self.model, name, &reading);
        drop(recorder);
        if step % 10 == 0 {
            self.recorders.sync().unwrap();
        }
    }

    /// Returns the number of scrapes that are kept of a source.
    fn kept(&self, name: &str) -> usize {
        kept(&self.recorders.reader(), &self.model, name)
    }
}

/// Records a scrape of new series with long labels.
fn bomb(recorders: &mut Recorders, member: RecorderId, step: i64) {
    let padding = "x".repeat(300);
    let mut turn = recorders.reserve(member, usize::MAX);
    let source = turn.source("bomb").unwrap();
    let mut scrape = turn.scrape(source, step * 1_000);
    for n in 0..500 {
        let value = format!("{step}-{n}-{padding}");
        let labels = Labels::new([(NAME, "bomb"), ("label", &value)]).unwrap();
        if let Ok(id) = scrape.series(&labels, &Meta::default()) {
            scrape.set(id, f64::from(n) / 3.0, None);
        }
    }
    scrape.commit().unwrap();
}

const BUDGET: u64 = 512 << 10;
const STEPS: i64 = 800;

/// The recorders of random runs.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Tells whether the scrapes that are kept are counted at this step. One count would depend on how long
/// ago the last part was evicted, which is an eighth of a share.
fn is_counted(step: i64) -> bool {
    step >= STEPS / 2 && step % 10 == 0
}

/// Returns the number of scrapes of sixty series that a recorder keeps alone, summed over the counts.
fn kept_alone(mut recorder: Recorder) -> usize {
    let (mut random, mut model, mut sum) = (Random(7), Model::default(), 0);
    for step in 0..STEPS {
        let reading = random_reading(&mut random, step, 0..60);
        record(&mut recorder, &mut model, "calm", &reading);
        if step % 10 == 0 {
            recorder.sync().unwrap();
        }
        if is_counted(step) {
            sum += kept(&recorder.reader(), &model, "calm");
        }
    }
    sum
}

/// Returns the number of scrapes that the same recorder keeps beside one with label bombs, summed over
/// the counts.
fn calm_beside_a_bomb(recorders: Recorders, dir: Option<&Path>) -> usize {
    let mut run = Run::new(recorders);
    run.recorders.recorder("calm").unwrap();
    let wild = run.recorders.recorder("wild").unwrap();
    let mut sum = 0;
    for step in 0..STEPS {
        run.scrape("calm", step, Some(0..60));
        if step % 10 == 0 {
            bomb(&mut run.recorders, wild, step);
            run.recorders.sync().unwrap();
        }
        let used = run.recorders.stats().used;
        assert!(used <= BUDGET, "{used} bytes at step {step}");
        if let Some(dir) = dir {
            let on_disk = on_disk(dir);
            assert!(on_disk <= used, "{on_disk} on disk, {used} counted");
        }
        if is_counted(step) {
            sum += run.kept("calm");
        }
    }
    let stats = run.recorders.stats_of(wild);
    assert!(stats.evicted_parts > 0);
    assert!(stats.counters.series_refused > 0 || dir.is_some());
    sum
}

#[test]
fn churn_in_files_does_not_evict_the_share_of_another() {
    let (alone, together) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (recorder, _) = Recorder::open(alone.path(), options(BUDGET / 4)).unwrap();
    let alone = kept_alone(recorder);
    let (recorders, _) = Recorders::open(together.path(), options(BUDGET)).unwrap();
    let beside = calm_beside_a_bomb(recorders, Some(together.path()));
    assert!(beside * 10 >= alone * 9, "{beside} scrapes of {alone}");
}

#[test]
fn churn_in_memory_does_not_evict_the_share_of_another() {
    let alone = kept_alone(Recorder::in_memory(options(BUDGET / 4)).unwrap());
    let beside = calm_beside_a_bomb(Recorders::in_memory(options(BUDGET)).unwrap(), None);
    assert!(beside * 10 >= alone * 9, "{beside} scrapes of {alone}");
}

#[test]
fn unreserved_budget_goes_to_the_newest_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::open(dir.path(), BUDGET);
    let sizes = [("large", 120), ("medium", 90), ("small", 3)];
    for (name, _) in sizes {
        run.recorders.recorder(name).unwrap();
    }
    for step in 0..1_500 {
        for (name, size) in sizes {
            run.scrape(name, step, Some(0..size));
        }
    }
    let kept = sizes.map(|(name, _)| run.kept(name));
    assert_eq!(kept[2], 1_500, "the small one has not filled its share");
    let (most, least) = (kept[0].max(kept[1]), kept[0].min(kept[1]));
    assert!(most * 3 <= least * 4, "{kept:?} scrapes of {sizes:?}");
    let used = run.recorders.stats().used;
    assert!(used > BUDGET * 3 / 4, "{used} of {BUDGET}");
}

#[test]
fn records_of_earlier_names_are_evicted_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let budget = 256 << 10;
    // The oldest record, of an endpoint that is not configured any more.
    let mut run = Run::open(dir.path(), budget);
    for step in 0..50 {
        run.scrape("old", step, Some(0..60));
    }
    let mut run = run.reopen(dir.path(), budget);
    for name in ["a", "b"] {
        run.recorders.recorder(name).unwrap();
    }
    for step in 50..100 {
        for name in ["a", "b"] {
            run.scrape(name, step, Some(0..60));
        }
    }
    let (reader, opened) = Recorders::open_read_only(dir.path()).unwrap();
    assert_eq!(opened.damage, []);
    assert!(opened.parts >= 3);
    assert_eq!((opened.oldest, opened.newest), (Some(0), Some(99_000)));
    let mut run = run.reopen(dir.path(), budget);
    let b = run.recorders.recorder("b").unwrap();
    for name in ["old", "a", "b"] {
        assert_eq!(kept(&reader, &run.model, name), 50);
        assert_eq!(run.kept(name), 50);
    }
    let mut order = Vec::new();
    for step in 100..1_200 {
        run.scrape("b", step, Some(0..60));
        if step % 10 == 0 {
            for name in ["old", "a"] {
                if !order.contains(&name) && run.kept(name) == 0 {
                    order.push(name);
                }
            }
        }
    }
    assert_eq!(order, ["old", "a"], "the oldest first");
    assert!(run.recorders.stats_of(b).evicted_parts > 0);
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["b.record", "lock"]);
}

#[test]
fn smaller_budget_holds_from_opening_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::open(dir.path(), BUDGET);
    for name in ["a", "b"] {
        for step in 0..600 {
            run.scrape(name, step, Some(0..60));
        }
    }
    assert!(run.recorders.stats().used > 300 << 10);
    for (budget, step) in [(200 << 10, 600), (128 << 10, 601)] {
        run = run.reopen(dir.path(), budget);
        assert!(run.recorders.stats().used <= budget);
        assert!(on_disk(dir.path()) <= budget);
        for name in ["a", "b"] {
            run.scrape(name, step, Some(0..60));
            assert!(run.kept(name) > 0);
        }
        assert!(on_disk(dir.path()) <= budget);
    }
}

#[test]
fn budget_limits_the_number_of_recorders() {
    let mut recorders = Recorders::in_memory(options(200 << 10)).unwrap();
    for n in 0..3 {
        recorders.recorder(&n.to_string()).unwrap();
    }
    recorders.recorder("0").unwrap();
    let error = recorders.recorder("3").unwrap_err();
    assert!(matches!(error, OpenError::Budget { least, .. } if least == 256 << 10));
    assert!(Recorders::in_memory(options(1)).is_err());
}

#[test]
fn second_recorders_in_a_directory_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let (recorders, _) = Recorders::open(dir.path(), options(BUDGET)).unwrap();
    let second = Recorders::open(dir.path(), options(BUDGET)).unwrap_err();
    assert!(matches!(second, OpenError::Locked { .. }));
    drop(recorders);
    Recorders::open(dir.path(), options(BUDGET)).unwrap();
}

#[test]
fn damage_is_reported_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::open(dir.path(), BUDGET);
    for name in ["a", "b"] {
        for step in 0..20 {
            run.scrape(name, step, Some(0..20));
        }
    }
    let Run {
        recorders,
        model,
        random,
    } = run;
    drop(recorders);
    let head = dir.path().join("a.record/0000000000000001.head");
    let mut bytes = std::fs::read(&head).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&head, bytes).unwrap();

    let (reader, opened) = Recorders::open_read_only(dir.path()).unwrap();
    let file = "a.record/0000000000000001.head";
    assert_eq!(opened.damage.len(), 1);
    assert_eq!(opened.damage[0].file, file);
    assert!(reader.check().iter().all(|damage| damage.file == file));
    let told = reader.window(&Selector::all(), i64::MIN..=i64::MAX);
    let told: Vec<_> = told.filter_map(Result::err).collect();
    assert_eq!(told, opened.damage);
    assert_eq!(whole(&reader), 20);

    let (recorders, again) = Recorders::open(dir.path(), options(BUDGET)).unwrap();
    assert_eq!(again.damage, opened.damage);
    let mut run = Run {
        recorders,
        model,
        random,
    };
    run.scrape("a", 20, Some(0..20));
    assert_eq!(whole(&run.recorders.reader()), 20);
}

/// Returns the number of series of `b` that have all twenty samples.
fn whole(reader: &Reader) -> usize {
    let windows = reader.window(&Selector::all().source("b"), i64::MIN..=i64::MAX);
    let whole = windows.filter_map(Result::ok);
    whole.filter(|series| series.samples.len() == 20).count()
}

/// A step of several recorders.
#[derive(Clone, Debug)]
enum Step {
    Scrape {
        member: usize,
        series: u32,
        new: bool,
    },
    Missed {
        member: usize,
    },
    Sync,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let member = 0_usize..4;
    let scrape = (member.clone(), 1_u32..150, any::<bool>()).prop_map(|(member, series, new)| {
        Step::Scrape {
            member,
            series,
            new,
        }
    });
    let step = prop_oneof![
        20 => scrape,
        2 => member.prop_map(|member| Step::Missed { member }),
        4 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..160)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn shared_budget_holds_and_newest_data_stays(steps in steps(), files in any::<bool>()) {
        let budget = 400 << 10;
        let dir = tempfile::tempdir().unwrap();
        let mut run = if files {
            Run::open(dir.path(), budget)
        } else {
            Run::new(Recorders::in_memory(options(budget)).unwrap())
        };
        let mut next = 1_000;
        for (time, step) in (0_i64..).zip(steps) {
            // The steps decide about syncs: no time is a multiple of ten.
            let time = time * 10 + 1;
            match step {
                Step::Scrape { member, series, new } => {
                    if new {
                        next += series;
                    }
                    run.scrape(NAMES[member], time, Some(next..next + series));
                }
                Step::Missed { member } => run.scrape(NAMES[member], time, None),
                Step::Sync => run.recorders.sync().unwrap(),
                Step::Reopen if files => run = run.reopen(dir.path(), budget),
                Step::Reopen => {}
            }
            let used = run.recorders.stats().used;
            prop_assert!(used <= budget, "{used}");
            prop_assert!(!files || on_disk(dir.path()) <= used);
        }
        prop_assert_eq!(run.recorders.reader().check(), vec![]);
        for name in run.model.sources.keys() {
            run.kept(name);
        }
    }
}

#[test]
fn damaged_names_hide_only_their_own_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::open(dir.path(), 1 << 20);
    for step in 0..20 {
        run.scrape("sound", step, Some(0..5));
        run.scrape("damaged", step, Some(0..50));
    }
    drop(run);
    let directory = dir.path().join("damaged.record");
    let names = std::fs::read_dir(&directory).unwrap();
    let mut names = names.map(|entry| entry.unwrap().path());
    let names = names
        .find(|path| path.extension().is_some_and(|kind| kind == "names"))
        .unwrap();
    let intact = std::fs::read(&names).unwrap();
    let mut zeroed = intact.clone();
    zeroed[..8].fill(0);
    for (what, bytes, is_lost) in [
        ("empty", Vec::new(), true),
        ("cut", intact[..1_000].to_vec(), true),
        // The header of such a file follows from its name.
        ("zeroed", zeroed, false),
    ] {
        std::fs::write(&names, bytes).unwrap();
        let (reader, _) = Recorders::open_read_only(dir.path()).unwrap();
        let sound = Selector::all().source("sound");
        assert_eq!(reader.series(&sound).len(), 5, "{what}");
        let series = reader.series(&Selector::all()).len();
        assert_eq!(series < 55, is_lost, "{what}: {series}");
        assert!(
            reader.sources().iter().any(|name| &**name == "sound"),
            "{what}"
        );
        let mut samples = 0;
        for series in reader.window(&sound, i64::MIN..=i64::MAX) {
            match series {
                Ok(series) => samples += series.samples.len(),
                // Nobody knows which sources it had.
                Err(damage) => assert!(damage.file.starts_with("damaged.record/"), "{damage}"),
            }
        }
        assert_eq!(samples, 100, "{what}");
        let damage = reader.check();
        let file = format!(
            "damaged.record/{}",
            names.file_name().unwrap().to_str().unwrap()
        );
        assert!(
            damage.iter().any(|damage| damage.file == file),
            "{what}: {damage:?}"
        );
    }
}
