//! Windows of agents whose whole response is one message.

use super::*;

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
        (slices.last().unwrap().start(), slices[0].end()),
        (hour.start(), hour.end())
    );
    for pair in slices.windows(2) {
        assert_eq!(
            pair[1].end().nanos() + 1,
            pair[0].start().nanos(),
            "no hole, nothing twice"
        );
    }
}

/// Answers slices as an agent with a history of `seconds` that sends `bytes` per second, until the
/// window's waiter is resolved. Returns the outcome and the slices.
fn answer_window(
    queue: &mut Tester,
    asked: Query,
    seconds: i64,
    bytes: usize,
) -> (Outcome<Data>, Vec<Window>) {
    let mut request = sent(&queue.query(0, asked, 1));
    let mut slices = Vec::new();
    loop {
        let (bytes, samples) = match request.query {
            Query::Latest => (bytes, 1),
            Query::Window(slice) => {
                slices.push(slice);
                let start = slice.start().nanos().max(NOON - seconds * 1_000_000_000);
                let end = slice.end().nanos().min(NOON);
                let within = usize::try_from((end - start).max(0)).unwrap() / 1_000_000_000;
                (bytes * within, within)
            }
        };
        assert!(
            bytes <= 1_000,
            "{bytes} bytes are more than the agent can send"
        );
        assert!(slices.len() < 1_000, "{asked:?}");
        let part = ResponsePart {
            samples,
            ..part_for(&request, bytes)
        };
        let out = queue.part(1, 1, part);
        if let [(1, outcome)] = resolved(&out).as_slice() {
            return (outcome.clone(), slices);
        }
        request = sent(&out);
    }
}

#[test]
fn window_before_the_history_never_exceeds_a_message() {
    let minutes = |minutes: i64| Query::Window(window(43_200 - 60 * minutes, 43_200));
    let always = Query::Window(
        Window::new(
            UnixNanos::from_nanos(i64::MIN),
            UnixNanos::from_nanos(i64::MAX),
        )
        .unwrap(),
    );
    let old = Query::Window(window(43_200 - 900, 43_200 - 450));
    for (asked, most) in [
        (minutes(15), 120),
        (minutes(24 * 60), 450),
        (always, 480),
        (old, 60),
    ] {
        // The size of the latest values is not known yet.
        let mut queue = Tester::new();
        queue.open(0, 1, false);
        let (outcome, slices) = answer_window(&mut queue, asked, 45, 100);
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
        assert!(slices.len() <= most, "{} slices of {asked:?}", slices.len());
    }
}

/// Returns the lengths of the slices that three streams in turn are asked for, which end in this way.
fn slices_of_streams_with(end: StreamEnd) -> Vec<i64> {
    let hour = Query::Window(window(0, 3_600));
    let mut queue = Tester::new();
    queue.0.carried.density.learn_latest(100, 1);
    let slice = |generation: u64| {
        let now = 10 * generation;
        queue.open(now, generation, false);
        let request = sent(&queue.query(now, hour, generation as u32));
        queue.close_with(generation, end);
        let Query::Window(slice) = request.query else {
            panic!("{request:?}");
        };
        slice.nanos()
    };
    (1..4).map(slice).collect()
}

#[test]
fn stream_that_ends_with_a_slice_owed_means_a_shorter_one() {
    for end in [StreamEnd::Other, StreamEnd::TooLarge] {
        let lengths = slices_of_streams_with(end);
        assert!(lengths.is_sorted_by(|a, b| a > b), "{end:?}: {lengths:?}");
    }
}

#[test]
fn refusal_for_lack_of_memory_shortens_no_slice() {
    let lengths = slices_of_streams_with(StreamEnd::NoMemory);
    assert!(lengths.iter().all(|it| *it == lengths[0]), "{lengths:?}");
}

#[test]
fn window_whose_size_is_not_known_in_time_is_late() {
    let mut queue = Tester::new();
    queue.open(0, 1, false);
    let probe = sent(&queue.query(0, Query::Window(window(0, 10)), 1));
    assert_eq!(probe.query, Query::Latest);
    assert_eq!(queue.query(0, Query::Window(window(20, 30)), 2), []);
    let out = queue.tick(2_000);
    let missing = |waiter, reason| (waiter, Outcome::Missing(reason));
    assert_eq!(
        resolved(&out),
        [missing(1, Reason::Late), missing(2, Reason::Busy)],
        "the first was asked for, the second only waited"
    );
    let out = queue.part(2_500, 1, part_for(&probe, 10));
    assert_eq!(out, [], "nobody waits for the window any more");
}

#[test]
fn latest_values_go_between_two_slices() {
    let mut queue = Tester::plain();
    let hour = Query::Window(window(0, 3_600));
    let slice = sent(&queue.query(0, hour, 1));
    assert_eq!(queue.query(1, Query::Window(window(0, 60)), 2), []);
    assert_eq!(queue.query(2, Query::Latest, 3), []);
    let out = queue.part(3, 1, part_for(&slice, 10));
    let latest = sent(&out);
    assert_eq!(latest.query, Query::Latest);
    let out = queue.part(4, 1, part_for(&latest, 10));
    assert_eq!(resolved(&out), [(3, complete(&[Query::Latest]))]);
    // The window goes on where it was.
    let (Query::Window(first), Query::Window(next)) = (slice.query, sent(&out).query) else {
        panic!("{out:?}");
    };
    assert_eq!(next.end().nanos() + 1, first.start().nanos());
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
