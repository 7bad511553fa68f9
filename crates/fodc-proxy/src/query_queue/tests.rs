use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{query::*, time::UnixNanos};

/// The data of a part: the query that the scripted agent saw.
type Data = Query;
type Out = Vec<Action<u32, Data>>;

/// A queue and an `out` per step; times are in milliseconds.
struct Tester(QueryQueue<u32, Data>);

impl Tester {
    fn new() -> Self {
        let limits = QueryLimits {
            unresponsive_after: Duration::from_secs(2),
            abandon_after: Duration::from_secs(60),
            slice_bytes: 1_000,
        };
        Self(QueryQueue::new(limits, CarriedState::default()))
    }

    /// Opens stream 1 of an agent without the profile.
    fn plain() -> Self {
        let mut tester = Self::new();
        assert_eq!(tester.open(0, 1, false), []);
        tester
    }

    /// Opens stream 1 of an agent with the profile.
    fn with_profile() -> Self {
        let mut tester = Self::new();
        assert_eq!(tester.open(0, 1, true), []);
        tester
    }

    fn step(&mut self, step: impl FnOnce(&mut QueryQueue<u32, Data>, &mut Out)) -> Out {
        let mut out = Vec::new();
        step(&mut self.0, &mut out);
        out
    }

    fn open(&mut self, now: u64, generation: u64, profile: bool) -> Out {
        self.step(|queue, out| queue.on_stream_opened(at(now), generation, profile, out))
    }

    fn close(&mut self, generation: u64) -> Out {
        self.step(|queue, out| queue.on_stream_closed(generation, false, out))
    }

    fn enqueue(
        &mut self,
        now: u64,
        query: Query,
        names: &MetricNames,
        waiter: u32,
        deadline: u64,
    ) -> Out {
        self.step(|queue, out| {
            queue.enqueue(at(now), query, names, waiter, at(deadline), out);
        })
    }

    /// Queues a query for all metrics with a deadline in two seconds.
    fn query(&mut self, now: u64, query: Query, waiter: u32) -> Out {
        self.enqueue(now, query, &MetricNames::default(), waiter, now + 2_000)
    }

    fn part(&mut self, now: u64, generation: u64, part: ResponsePart<Data>) -> Out {
        self.step(|queue, out| queue.on_part(at(now), generation, part, out))
    }

    fn dropped_part(&mut self, now: u64, generation: u64, part: ResponsePart<Data>) -> Out {
        self.step(|queue, out| queue.on_dropped_part(at(now), generation, part, out))
    }

    fn tick(&mut self, now: u64) -> Out {
        self.step(|queue, out| queue.on_tick(at(now), out))
    }
}

fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1_000)
}

fn window(start: i64, end: i64) -> Window {
    let seconds = |seconds: i64| UnixNanos::from_nanos(seconds * 1_000_000_000);
    Window::new(seconds(start), seconds(end)).unwrap()
}

fn part_for(request: &Request, bytes: usize) -> ResponsePart<Data> {
    ResponsePart {
        request_id: if request.profile { request.id } else { 0 },
        bytes,
        more: false,
        from: None,
        data: request.query,
    }
}

fn sent(out: &Out) -> Request {
    let mut sent = out.iter().filter_map(|action| match action {
        Action::Send(request) => Some(request.clone()),
        Action::EndStream(_) | Action::Resolve(..) => None,
    });
    let request = sent.next().expect("something is sent");
    assert_eq!(sent.next(), None, "only one");
    request
}

fn resolved(out: &Out) -> Vec<(u32, Outcome<Data>)> {
    let resolved = out.iter().filter_map(|action| match action {
        Action::Resolve(waiter, outcome) => Some((*waiter, outcome.clone())),
        Action::Send(_) | Action::EndStream(_) => None,
    });
    resolved.collect()
}

fn complete(data: &[Data]) -> Outcome<Data> {
    Outcome::Complete(Arc::new(data.to_vec()))
}

#[test]
fn agent_becomes_unresponsive_after_its_own_time_limit() {
    let mut queue = Tester::plain();
    queue.enqueue(0, Query::Latest, &MetricNames::default(), 1, 500);
    let out = queue.tick(500);
    assert_eq!(resolved(&out), [(1, Outcome::Missing(Reason::Late))]);
    assert!(!queue.0.is_unresponsive());
    queue.tick(2_000);
    assert!(queue.0.is_unresponsive());
}

#[test]
fn queries_for_different_names_do_not_share_a_response() {
    let mut queue = Tester::with_profile();
    let names =
        |names: &[&str]| MetricNames::new(names.iter().map(|name| (*name).to_owned()).collect());
    let mut ask =
        |names: &MetricNames, waiter| queue.enqueue(0, Query::Latest, names, waiter, 2_000);
    let first = sent(&ask(&names(&["a"]), 1));
    assert_eq!(first.names, names(&["a"]));
    assert_eq!(ask(&names(&["a"]), 2), []);
    assert_eq!(ask(&names(&["b"]), 3), []);
    let out = queue.part(1, 1, part_for(&first, 10));
    let waited: Vec<u32> = resolved(&out)
        .into_iter()
        .map(|(waiter, _)| waiter)
        .collect();
    assert_eq!(waited, [1, 2]);
    assert_eq!(sent(&out).names, names(&["b"]));
}

#[test]
fn equal_queries_share_one_response_and_others_queue() {
    let mut queue = Tester::plain();
    let latest = sent(&queue.query(0, Query::Latest, 1));
    assert_eq!(queue.query(1, Query::Latest, 2), []);
    let span = Query::Window(window(0, 5));
    assert_eq!(
        queue.query(1, span, 3),
        [],
        "nothing while an answer is outstanding"
    );
    let out = queue.part(2, 1, part_for(&latest, 0));
    let both = complete(&[Query::Latest]);
    assert_eq!(resolved(&out), [(1, both.clone()), (2, both)]);
    let next = sent(&out);
    assert_eq!(next.query, span);
    let out = queue.part(3, 1, part_for(&next, 0));
    assert_eq!(
        resolved(&out),
        [(3, complete(&[span]))],
        "never the answer to another query"
    );
}

#[test]
fn late_response_is_discarded() {
    let mut queue = Tester::plain();
    let old = Query::Window(window(0, 5));
    let late = sent(&queue.query(0, old, 1));
    let out = queue.tick(2_000);
    assert_eq!(out, [Action::Resolve(1, Outcome::Missing(Reason::Late))]);
    assert!(queue.0.is_unresponsive());
    let out = queue.query(2_001, Query::Latest, 2);
    assert_eq!(
        out,
        [Action::Resolve(2, Outcome::Missing(Reason::Unresponsive))],
        "no second query"
    );
    let out = queue.part(3_000, 1, part_for(&late, 9));
    assert_eq!(out, [], "it is discarded");
    assert_eq!((queue.0.is_unresponsive(), queue.0.discarded()), (false, 1));
    let next = sent(&queue.query(3_001, Query::Latest, 3));
    let out = queue.part(3_002, 1, part_for(&next, 9));
    assert_eq!(resolved(&out), [(3, complete(&[Query::Latest]))]);
}

#[test]
fn abandoned_stream_ends_and_the_next_starts_with_a_probe() {
    let mut queue = Tester::plain();
    let stale = sent(&queue.query(0, Query::Latest, 1));
    queue.tick(2_000);
    assert_eq!(queue.tick(59_999), []);
    let out = queue.tick(60_000);
    assert_eq!(out, [Action::EndStream(1)]);
    let out = queue.query(60_001, Query::Latest, 2);
    assert_eq!(
        out,
        [Action::Resolve(2, Outcome::Missing(Reason::NoStream))]
    );
    let probe = sent(&queue.open(60_002, 2, false));
    assert_eq!((probe.generation, probe.query), (2, Query::Latest));
    let out = queue.part(60_003, 1, part_for(&stale, 0));
    assert_eq!(out, []);
    assert!(
        queue.0.is_unresponsive(),
        "the old stream's answer proves nothing of the new one"
    );
    queue.part(60_004, 2, part_for(&probe, 0));
    assert!(!queue.0.is_unresponsive());
}

#[test]
fn newer_stream_restarts_the_outstanding_query() {
    let mut queue = Tester::plain();
    let old = sent(&queue.query(0, Query::Latest, 1));
    let new = sent(&queue.open(1, 2, false));
    let out = queue.part(2, 1, part_for(&old, 0));
    assert_eq!(
        out,
        [],
        "fodc:O6: an answer on another stream than the one that was asked"
    );
    queue.close(1);
    let out = queue.part(3, 2, part_for(&new, 0));
    assert_eq!(resolved(&out), [(1, complete(&[Query::Latest]))]);
}

#[test]
fn queries_fail_when_the_stream_ends() {
    let mut queue = Tester::plain();
    queue.query(0, Query::Latest, 1);
    queue.query(0, Query::Window(window(0, 1)), 2);
    let out = queue.close(1);
    let ended = Outcome::Missing(Reason::StreamEnded);
    assert_eq!(resolved(&out), [(1, ended.clone()), (2, ended)]);
}

#[test]
fn window_of_a_plain_agent_is_queried_in_slices_that_fit() {
    let mut queue = Tester::plain();
    let hour = window(0, 3_600);
    let mut request = sent(&queue.query(0, Query::Window(hour), 1));
    let mut slices = Vec::new();
    let parts = loop {
        let Query::Window(slice) = request.query else {
            panic!("{request:?}")
        };
        slices.push(slice);
        // Two bytes a second.
        let bytes = slice.nanos() as usize / 500_000_000;
        assert!(bytes <= 1_000, "{slice:?}");
        let out = queue.part(1, 1, part_for(&request, bytes));
        if let [(1, Outcome::Complete(parts))] = resolved(&out).as_slice() {
            break Arc::clone(parts);
        }
        request = sent(&out);
    };
    let asked: Vec<Query> = slices.iter().map(|slice| Query::Window(*slice)).collect();
    assert_eq!(*parts, asked);
    assert!(slices.len() < 20, "{}", slices.len());
    assert_eq!(
        (slices[0].start(), slices.last().unwrap().end()),
        (hour.start(), hour.end())
    );
    for pair in slices.windows(2) {
        assert_eq!(
            pair[0].end().nanos() + 1,
            pair[1].start().nanos(),
            "no hole, nothing twice"
        );
    }
}

#[test]
fn parts_before_the_deadline_are_a_partial_response() {
    let mut queue = Tester::plain();
    let first = sent(&queue.query(0, Query::Window(window(0, 3_600)), 1));
    queue.part(1, 1, part_for(&first, 1_000));
    let out = queue.tick(2_000);
    let part = Outcome::Partial(Arc::new(vec![first.query]), Reason::Late);
    assert_eq!(resolved(&out), [(1, part)], "never a silent hole");
}

#[test]
fn profile_agent_responds_in_parts_matched_by_id() {
    let mut queue = Tester::with_profile();
    let hour = Query::Window(window(0, 3_600));
    let request = sent(&queue.query(0, hour, 1));
    assert_eq!(
        request.query, hour,
        "whole: it can answer in several messages"
    );
    let mut part = part_for(&request, 1_000_000);
    part.more = true;
    let mut other = part.clone();
    other.request_id += 1;
    assert_eq!(queue.part(1, 1, part.clone()), []);
    assert_eq!(queue.part(1, 1, other), []);
    part.more = false;
    part.from = Some(UnixNanos::from_nanos(7));
    let out = queue.part(2, 1, part);
    let cut = Outcome::Partial(Arc::new(vec![hour, hour]), Reason::Truncated);
    assert_eq!(resolved(&out), [(1, cut)]);
}

#[test]
fn dropped_part_is_reported_and_agent_stays_responsive() {
    let mut queue = Tester::plain();
    let request = sent(&queue.query(0, Query::Latest, 1));
    let out = queue.dropped_part(1, 1, part_for(&request, 5));
    let part = Outcome::Partial(Arc::new(vec![Query::Latest]), Reason::MemoryExhausted);
    assert_eq!(resolved(&out), [(1, part)]);
    assert!(!queue.0.is_unresponsive());
}

#[test]
fn too_many_unrequested_messages_end_the_stream() {
    let mut queue = Tester::plain();
    let request = Request {
        generation: 1,
        id: 1,
        query: Query::Latest,
        names: MetricNames::default(),
        profile: false,
    };
    for _ in 1..MAX_UNREQUESTED {
        let out = queue.part(0, 1, part_for(&request, 0));
        assert_eq!(out, []);
    }
    let out = queue.part(0, 1, part_for(&request, 0));
    assert_eq!(out, [Action::EndStream(1)]);
}

#[test]
fn queue_of_different_queries_is_bounded() {
    let mut queue = Tester::plain();
    for number in 0..=MAX_WAITING {
        let query = Query::Window(window(0, i64::try_from(number).unwrap()));
        assert_eq!(resolved(&queue.query(0, query, number as u32)), []);
    }
    let out = queue.query(0, Query::Latest, 99);
    assert_eq!(out, [Action::Resolve(99, Outcome::Missing(Reason::Busy))]);
}

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
    let mut covered = window.start().nanos();
    for part in &**parts {
        let Query::Window(slice) = part else {
            panic!("{part:?} answers {asked:?}")
        };
        prop_assert_eq!(slice.start().nanos(), covered);
        covered = slice.end().nanos() + 1;
    }
    prop_assert!(
        !is_whole || covered == window.end().nanos() + 1,
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
