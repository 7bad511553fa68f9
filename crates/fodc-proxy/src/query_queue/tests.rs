//! Queries and responses; windows, signs of life and a model have files of their own.

mod liveness;
mod model;
mod windows;

use std::sync::Arc;

use super::*;
use crate::{
    query::*,
    time::{UnixNanos, Window},
};

/// The data of a part: the query that the scripted agent saw.
type Data = Query;
type Out = Vec<Action<u32, Data>>;

/// A queue and an `out` per step, and the time of the last one; times are in milliseconds.
struct Tester(QueryQueue<u32, Data>, u64);

impl Tester {
    fn new() -> Self {
        let limits = QueryLimits {
            latest_timeout: Duration::from_secs(2),
            window_timeout: Duration::from_secs(2),
            abandon_after: Duration::from_secs(60),
            slice_bytes: 1_000,
        };
        Self(QueryQueue::new(limits, CarriedState::default()), 0)
    }

    /// Opens stream 1 of an agent without the profile, whose latest values have been seen.
    fn plain() -> Self {
        let mut tester = Self::new();
        tester.0.carried.density.learn_latest(2, 1);
        assert_eq!(tester.open(0, 1, false), []);
        tester
    }

    /// Opens stream 1 of an agent with the profile.
    fn with_profile() -> Self {
        let mut tester = Self::new();
        assert_eq!(tester.open(0, 1, true), []);
        tester
    }

    /// Steps the queue, whose windows never wait for other agents.
    fn step(&mut self, now: u64, step: impl FnOnce(&mut QueryQueue<u32, Data>, &mut Out)) -> Out {
        let mut out = Vec::new();
        self.1 = now;
        step(&mut self.0, &mut out);
        self.0.start_window(at(now), &mut out);
        out
    }

    fn open(&mut self, now: u64, generation: u64, profile: bool) -> Out {
        self.step(now, |queue, out| {
            queue.on_stream_opened(at(now), generation, profile, out);
        })
    }

    fn close(&mut self, generation: u64) -> Out {
        self.close_with(generation, StreamEnd::Other)
    }

    fn close_with(&mut self, generation: u64, end: StreamEnd) -> Out {
        self.step(self.1, |queue, out| {
            queue.on_stream_closed(generation, end, out);
        })
    }

    fn enqueue(
        &mut self,
        now: u64,
        query: Query,
        names: &MetricNames,
        waiter: u32,
        deadline: u64,
    ) -> Out {
        let times = (at(now), UnixNanos::from_nanos(NOON));
        let query = (query, SliceShare::among(1));
        self.step(now, |queue, out| {
            queue.enqueue(times, query, names, (waiter, at(deadline)), out);
        })
    }

    /// Queues a query for all metrics with a deadline in two seconds.
    fn query(&mut self, now: u64, query: Query, waiter: u32) -> Out {
        self.enqueue(now, query, &MetricNames::default(), waiter, now + 2_000)
    }

    fn part(&mut self, now: u64, generation: u64, part: ResponsePart<Data>) -> Out {
        self.step(now, |queue, out| {
            queue.on_part(at(now), generation, part, out);
        })
    }

    fn dropped_part(&mut self, now: u64, generation: u64, part: ResponsePart<Data>) -> Out {
        self.step(now, |queue, out| {
            queue.on_dropped_part(at(now), generation, part, out);
        })
    }

    fn tick(&mut self, now: u64) -> Out {
        self.step(now, |queue, out| queue.on_tick(at(now), out))
    }
}

/// The wall clock's time of every query.
const NOON: i64 = 43_200_000_000_000;

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
        samples: bytes,
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
fn windows_that_wait_leave_capacity_for_the_latest_values() {
    let mut queue = Tester::plain();
    let window = |number: usize| Query::Window(window(0, i64::try_from(number).unwrap()));
    // The first one is sent, the others wait.
    for number in 0..=MAX_WAITING {
        let out = queue.query(0, window(number), number as u32);
        assert_eq!(resolved(&out), []);
    }
    let busy = |waiter| [Action::Resolve(waiter, Outcome::Missing(Reason::Busy))];
    assert_eq!(queue.query(0, window(MAX_WAITING + 1), 98), busy(98));
    let latest = |queue: &mut Tester, number: usize| {
        let names = MetricNames::new(vec![number.to_string()]);
        queue.enqueue(0, Query::Latest, &names, 99, 2_000)
    };
    for number in 0..MAX_WAITING {
        assert_eq!(latest(&mut queue, number), []);
    }
    assert_eq!(latest(&mut queue, MAX_WAITING), busy(99));
}
