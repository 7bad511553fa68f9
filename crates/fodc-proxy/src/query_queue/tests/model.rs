//! Random steps against a model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Enqueue(u8),
    Open(bool),
    /// How many streams back.
    Close(u8),
    ResponsePart(u8, u16),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..5).prop_map(Step::Enqueue),
        1 => any::<bool>().prop_map(Step::Open),
        1 => (0u8..2).prop_map(Step::Close),
        5 => (0u8..2, 0u16..3_000).prop_map(|(back, bytes)| Step::ResponsePart(back, bytes)),
        3 => (0u16..3_000).prop_map(Step::Wait),
    ]
}

fn query(number: u8) -> Query {
    match number {
        0 => Query::Latest,
        number => Query::Window(window(0, 40 * i64::from(number))),
    }
}

/// An agent that answers what it was asked, in order, and those waiter wait.
#[derive(Default)]
struct World {
    now: u64,
    generation: u64,
    /// Unanswered requests of each stream.
    outstanding: BTreeMap<u64, VecDeque<Request>>,
    waiting: BTreeMap<u32, (Query, u64)>,
    next: u32,
}

impl World {
    fn take(&mut self, out: Out) -> Result<(), TestCaseError> {
        for action in out {
            match action {
                Action::Send(request) => {
                    prop_assert_eq!(request.generation, self.generation);
                    let outstanding = self.outstanding.entry(request.generation).or_default();
                    prop_assert!(
                        outstanding.is_empty(),
                        "a second query while one is outstanding"
                    );
                    outstanding.push_back(request);
                }
                Action::EndStream(generation) => {
                    self.outstanding.remove(&generation);
                }
                Action::Resolve(waiter, outcome) => {
                    let (query, _) = self.waiting.remove(&waiter).expect("resolved once");
                    check(query, &outcome)?;
                }
            }
        }
        Ok(())
    }
}

/// Only answers to this very query are in it; all of them if it is whole.
fn check(asked: Query, outcome: &Outcome<Data>) -> Result<(), TestCaseError> {
    let (parts, is_whole) = match outcome {
        Outcome::Missing(_) => return Ok(()),
        Outcome::Complete(parts) => (parts, true),
        Outcome::Partial(parts, _) => (parts, false),
    };
    let Query::Window(window) = asked else {
        prop_assert_eq!(&**parts, &[Query::Latest]);
        return Ok(());
    };
    let mut missing = window.end().nanos();
    for part in &**parts {
        let Query::Window(slice) = part else {
            panic!("{part:?} answers {asked:?}")
        };
        prop_assert_eq!(slice.end().nanos(), missing);
        missing = slice.start().nanos() - 1;
    }
    prop_assert!(
        !is_whole || missing == window.start().nanos() - 1,
        "a silent hole"
    );
    Ok(())
}

proptest! {
    #[test]
    fn every_waiter_is_resolved_once_in_time_with_its_own_data(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut queue = Tester::new();
        let mut world = World::default();
        for step in steps {
            let now = world.now;
            let out = match step {
                Step::Wait(millis) => {
                    world.now += u64::from(millis);
                    let now = world.now;
                    let out = queue.tick(now);
                    world.take(out)?;
                    let waiting = world.waiting.values().all(|(_, deadline)| *deadline > world.now);
                    prop_assert!(waiting, "somebody waits past the deadline");
                    continue;
                }
                Step::Enqueue(number) => {
                    let (waiter, deadline) = (world.next, world.now + 2_000);
                    world.next += 1;
                    world.waiting.insert(waiter, (query(number), deadline));
                    queue.enqueue(now, query(number), &MetricNames::default(), waiter, deadline)
                }
                Step::Open(profile) => {
                    world.generation += 1;
                    let generation = world.generation;
                    queue.open(now, generation, profile)
                }
                Step::Close(back) => {
                    let generation = world.generation.saturating_sub(u64::from(back));
                    world.outstanding.remove(&generation);
                    queue.close(generation)
                }
                Step::ResponsePart(back, bytes) => {
                    let generation = world.generation.saturating_sub(u64::from(back));
                    let outstanding = world.outstanding.get_mut(&generation).and_then(VecDeque::pop_front);
                    let Some(request) = outstanding else { continue };
                    let part = part_for(&request, usize::from(bytes));
                    queue.part(now, generation, part)
                }
            };
            world.take(out)?;
        }
        world.now += 2_000;
        let now = world.now;
        let out = queue.tick(now);
        world.take(out)?;
        prop_assert!(world.waiting.is_empty(), "never resolved: {:?}", world.waiting);
    }
}
