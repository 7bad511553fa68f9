//! Seeded schedules: a Puller that is cut, repeats, forgets and restarts, and a process that is killed.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    scripted::{change, counts},
    *,
};

const SCHEDULES: u64 = 200;
const STEPS: usize = 120;
const BACKENDS: [&str; 3] = ["b1", "b2", "b3"];

/// The faults that had an effect.
#[derive(Debug, Default)]
struct Bites {
    cuts: u32,
    kills: u32,
    repeats: u32,
    forgotten: u32,
    transactions: u32,
}

struct World {
    rig: Rig,
    rng: ChaCha8Rng,
    /// The last time of each backend.
    clocks: BTreeMap<&'static str, u32>,
    produced: Vec<ChangeEvent>,
    /// Changes that the Puller forgot before they were committed.
    forgotten: BTreeSet<(String, String)>,
    bites: Bites,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut rig = Rig::new();
        rig.puller.names_one_backend = rng.random_bool(0.3);
        Self {
            rig,
            rng,
            clocks: BTreeMap::new(),
            produced: Vec::new(),
            forgotten: BTreeSet::new(),
            bites: Bites::default(),
        }
    }

    /// Changes of one transaction: one time, and ids in no order.
    fn produce(&mut self) {
        let backend = BACKENDS[self.rng.random_range(0..BACKENDS.len())];
        let clock = self.clocks.entry(backend).or_default();
        *clock += self.rng.random_range(1..3);
        let size = self.rng.random_range(1..4);
        self.bites.transactions += u32::from(size > 1);
        let time = *clock;
        let mut hashes = BTreeSet::new();
        for _ in 0..size {
            let hash: u16 = self.rng.random();
            if hashes.insert(hash) {
                let change = change(backend, &format!("1-{time}-{hash:04x}"));
                self.produced.push(change.clone());
                self.rig.puller.add(change);
            }
        }
    }

    /// The Puller forgets everything of a backend.
    fn forget(&mut self) {
        let backend = BACKENDS[self.rng.random_range(0..BACKENDS.len())];
        // What is on its way already is not lost by it, so that the stream is cut first.
        self.cut();
        let committed = self.committed();
        for change in &self.rig.puller.buffer {
            let key = (change.backend.clone(), change.event_id.clone());
            if change.backend == backend && !committed.contains(&key) {
                self.bites.forgotten += 1;
                self.forgotten.insert(key);
            }
        }
        self.rig.puller.forget(backend);
    }

    /// What is only queued is lost with the process.
    fn committed(&self) -> BTreeSet<(String, String)> {
        counts(&self.rig.store.committed).into_keys().collect()
    }

    fn cut(&mut self) {
        if self.rig.puller.is_connected() {
            self.rig.cut();
            self.bites.cuts += 1;
        }
    }

    fn step(&mut self, with_faults: bool) {
        match self.rng.random_range(0..100) {
            0..30 => self.produce(),
            30..60 => {
                if let Some(event) = self.rig.puller.next() {
                    self.rig.store.receive(event);
                }
            }
            60..70 if self.rig.puller.is_connected() => {
                let heartbeat = self.rig.puller.heartbeat();
                self.rig.store.receive(heartbeat);
            }
            70..85 => {
                let max = self.rng.random_range(1..5);
                self.rig.store.commit(max);
            }
            85..90 => self.cut(),
            90..93 => {
                self.rig.puller.replay_again();
                self.bites.repeats += 1;
            }
            93..95 => {
                self.rig.store.commit(1);
                self.rig.kill();
                self.bites.kills += 1;
            }
            95..97 if with_faults => self.forget(),
            _ if !self.rig.puller.is_connected() => self.rig.connect(),
            _ => {}
        }
    }

    /// Receives and commits everything without a fault.
    fn settle(&mut self) {
        if !self.rig.puller.is_connected() {
            self.rig.connect();
        }
        self.rig.receive();
        self.rig.store.commit(usize::MAX);
    }
}

#[test]
fn no_schedule_loses_or_doubles_a_change() {
    let mut bites = Bites::default();
    for seed in 0..SCHEDULES {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step(false);
        }
        world.settle();
        let store = &world.rig.store;
        assert_eq!(store.lost, [], "seed {seed}");
        assert_eq!(
            counts(&store.committed),
            counts(&world.produced),
            "seed {seed}"
        );
        let in_order = BACKENDS.iter().all(|backend| {
            let of_backend = store.committed.iter().filter(|it| it.backend == *backend);
            of_backend.is_sorted_by_key(|it| it.cluster_time.map(|time| (time.t, time.i)))
        });
        assert!(in_order, "seed {seed}: {:?}", store.committed);
        bites.cuts += world.bites.cuts;
        bites.kills += world.bites.kills;
        bites.repeats += world.bites.repeats;
        bites.transactions += world.bites.transactions;
    }
    let few = [bites.cuts, bites.kills, bites.repeats, bites.transactions];
    assert!(few.iter().all(|bites| *bites > 300), "{bites:?}");
}

#[test]
fn forgotten_changes_are_told_in_every_schedule() {
    let mut forgotten = 0;
    for seed in 0..SCHEDULES {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step(true);
        }
        for _ in 0..BACKENDS.len() {
            world.produce();
        }
        world.settle();
        let store = &world.rig.store;
        let committed = counts(&store.committed);
        assert!(committed.values().all(|times| *times == 1), "seed {seed}");
        for change in &world.produced {
            let key = (change.backend.clone(), change.event_id.clone());
            if !committed.contains_key(&key) {
                assert!(world.forgotten.contains(&key), "seed {seed}: {key:?}");
            }
        }
        // A backend that was received before, lost a change, and was received after: it was told between.
        for key in &world.forgotten {
            let time = |change: &ChangeEvent| change.cluster_time.map(|time| (time.t, time.i));
            let lost = world
                .produced
                .iter()
                .find(|it| it.backend == key.0 && it.event_id == key.1);
            let lost = lost.and_then(time);
            let of_backend = || {
                store
                    .committed
                    .iter()
                    .enumerate()
                    .filter(|(_, it)| it.backend == key.0)
            };
            let before = of_backend().filter(|(_, it)| time(it) < lost).last();
            let after = of_backend().find(|(_, it)| time(it) > lost);
            if let (Some((before, _)), Some((after, _))) = (before, after)
                && !committed.contains_key(key)
            {
                forgotten += 1;
                let told = store
                    .lost
                    .iter()
                    .any(|(at, _)| (before + 1..=after).contains(at));
                assert!(told, "seed {seed}: {key:?}");
            }
        }
    }
    assert!(forgotten > 60, "{forgotten}");
}
