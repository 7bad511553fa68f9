use proptest::prelude::*;

use super::*;

type TestLane = Lane<u32, u32>;
type TestAction = Action<u32, u32>;

/// After the grace period.
const LATER: Time = Time::from_micros(10_000_000);

fn new_lane(owed_for: Duration) -> TestLane {
    Lane::new(Time::from_micros(0), owed_for)
}

fn owing() -> TestLane {
    new_lane(Duration::from_secs(60))
}

/// Queues a query whose sender has its number.
fn ask(lane: &mut TestLane, query: u32) -> (Result<u64, QueryError>, Vec<TestAction>) {
    let mut out = Vec::new();
    let query_id = lane.enqueue(LATER, query, query, &mut out);
    (query_id, out)
}

fn step(act: impl FnOnce(&mut Vec<TestAction>)) -> Vec<TestAction> {
    let mut out = Vec::new();
    act(&mut out);
    out
}

#[test]
fn one_query_is_outstanding_and_the_rest_wait_in_order() {
    let mut lane = new_lane(Duration::ZERO);
    assert_eq!(step(|out| lane.on_opened(1, out)), []);
    assert_eq!(ask(&mut lane, 10).1, [Action::Send(1, 10)]);
    assert_eq!(ask(&mut lane, 11).1, []);
    let mut out = Vec::new();
    let delivery = lane.on_message(1, |_| Part::Foreign, &mut out);
    assert_eq!((delivery, &*out), (Delivery::Unrequested, &[][..]));
    let delivery = lane.on_message(1, |_| Part::More, &mut out);
    assert_eq!((delivery, &*out), (Delivery::To(10, false), &[][..]));
    let delivery = lane.on_message(1, |_| Part::Last, &mut out);
    assert_eq!(
        (delivery, &*out),
        (Delivery::To(10, true), &[Action::Send(1, 11)][..])
    );
}

#[test]
fn ninth_waiting_query_is_busy() {
    let mut lane = owing();
    lane.on_opened(1, &mut Vec::new());
    for query in 0..=WAITING_MAX as u32 {
        assert!(ask(&mut lane, query).0.is_ok(), "{query}");
    }
    assert_eq!(ask(&mut lane, 99).0, Err(QueryError::Busy));
}

#[test]
fn query_waits_for_the_first_stream_for_two_seconds() {
    let mut lane = owing();
    let early = Time::from_micros(1_999_999);
    assert!(lane.enqueue(early, 1, 1, &mut Vec::new()).is_ok());
    assert_eq!(step(|out| lane.on_tick(early, out)), []);
    let failed = [Action::Fail(1, QueryError::NoStream)];
    assert_eq!(step(|out| lane.on_tick(LATER, out)), failed);
    assert_eq!(ask(&mut lane, 2).0, Err(QueryError::NoStream));
}

#[test]
fn end_of_the_stream_fails_all_queries_with_its_status() {
    let mut lane = owing();
    lane.on_opened(1, &mut Vec::new());
    ask(&mut lane, 1).0.unwrap();
    ask(&mut lane, 2).0.unwrap();
    let ended = || QueryError::StreamEnded("broken".to_owned());
    let expected = [Action::Fail(1, ended()), Action::Fail(2, ended())];
    assert_eq!(step(|out| lane.on_closed(1, "broken", out)), expected);
}

#[test]
fn newer_stream_gets_the_outstanding_query_again() {
    let mut lane = new_lane(Duration::ZERO);
    lane.on_opened(1, &mut Vec::new());
    ask(&mut lane, 1).0.unwrap();
    assert_eq!(step(|out| lane.on_opened(2, out)), [Action::Send(2, 1)]);
    let mut out = Vec::new();
    let delivery = lane.on_message(1, |_| Part::Last, &mut out);
    assert_eq!(delivery, Delivery::Unrequested);
    // The older stream is used again when the newer one ends.
    let ended = QueryError::StreamEnded("x".to_owned());
    let failed = [Action::Fail(1, ended)];
    assert_eq!(step(|out| lane.on_closed(2, "x", out)), failed);
    assert_eq!(ask(&mut lane, 3).1, [Action::Send(1, 3)]);
}

#[test]
fn half_a_response_is_not_continued_on_a_newer_stream() {
    let mut lane = owing();
    lane.on_opened(1, &mut Vec::new());
    ask(&mut lane, 1).0.unwrap();
    lane.on_message(1, |_| Part::More, &mut Vec::new());
    let expected = [
        Action::Fail(1, QueryError::StreamReplaced),
        Action::EndStream(1),
    ];
    assert_eq!(step(|out| lane.on_opened(2, out)), expected);
}

#[test]
fn abandoned_response_is_awaited_before_the_next_query() {
    let mut lane = owing();
    lane.on_opened(1, &mut Vec::new());
    let query_id = ask(&mut lane, 1).0.unwrap();
    ask(&mut lane, 2).0.unwrap();
    assert_eq!(step(|out| lane.release(LATER, query_id, out)), []);
    let mut out = Vec::new();
    let delivery = lane.on_message(1, |_| Part::Last, &mut out);
    assert_eq!(
        (delivery, &*out),
        (Delivery::Abandoned, &[Action::Send(1, 2)][..])
    );
}

#[test]
fn stream_that_owes_for_too_long_is_ended() {
    let mut lane = owing();
    lane.on_opened(1, &mut Vec::new());
    let query_id = ask(&mut lane, 1).0.unwrap();
    lane.release(LATER, query_id, &mut Vec::new());
    let due = LATER + Duration::from_secs(60);
    let before = Time::from_micros(due.as_micros() - 1);
    assert_eq!(step(|out| lane.on_tick(before, out)), []);
    assert_eq!(step(|out| lane.on_tick(due, out)), [Action::EndStream(1)]);
}

#[test]
fn kind_without_debts_sends_the_next_query_at_once() {
    let mut lane = new_lane(Duration::ZERO);
    lane.on_opened(1, &mut Vec::new());
    let query_id = ask(&mut lane, 1).0.unwrap();
    ask(&mut lane, 2).0.unwrap();
    let next = [Action::Send(1, 2)];
    assert_eq!(step(|out| lane.release(LATER, query_id, out)), next);
}

#[test]
fn exhausted_memory_fails_the_query_and_discards_the_rest() {
    let mut lane = owing();
    lane.on_opened(1, &mut Vec::new());
    ask(&mut lane, 1).0.unwrap();
    let failed = [Action::Fail(1, QueryError::MemoryExhausted)];
    let failing = step(|out| lane.fail(LATER, 1, QueryError::MemoryExhausted, out));
    assert_eq!(failing, failed);
    assert!(lane.is_waiting_on(1), "the rest of the response is owed");
}

/// One step of the property test; numbers select a stream or a query, modulo the known ones.
#[derive(Clone, Debug)]
enum Step {
    Ask,
    Open,
    Close(usize),
    Message(usize, bool),
    Release(usize),
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        3 => Just(Step::Ask),
        1 => Just(Step::Open),
        1 => any::<usize>().prop_map(Step::Close),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(at, last)| Step::Message(at, last)),
        1 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::Tick),
    ];
    prop::collection::vec(one, 1..80)
}

proptest! {
    /// Each accepted query ends exactly once: with a last part, with a failure, or released; parts
    /// reach only the query that was sent last on their stream.
    #[test]
    fn every_query_ends_once(steps in steps(), owes in any::<bool>()) {
        let mut lane = if owes { owing() } else { new_lane(Duration::ZERO) };
        let (mut open, mut live, mut streams, mut queries) = (Vec::new(), Vec::new(), 0, 0);
        let mut sent: Vec<(u64, u32)> = Vec::new();
        for (index, step) in (1u32..).zip(steps) {
            let now = LATER + Duration::from_secs(40) * index;
            let mut out = Vec::new();
            match step {
                Step::Ask => {
                    queries += 1;
                    if let Ok(query_id) = lane.enqueue(now, queries, queries, &mut out) {
                        live.push((query_id, queries));
                    }
                }
                Step::Open => {
                    streams += 1;
                    open.push(streams);
                    lane.on_opened(streams, &mut out);
                }
                Step::Close(at) if !open.is_empty() => {
                    let generation = open.remove(at % open.len());
                    lane.on_closed(generation, "", &mut out);
                }
                Step::Message(at, last) if !open.is_empty() => {
                    let generation = open[at % open.len()];
                    let part = if last { Part::Last } else { Part::More };
                    let delivery = lane.on_message(generation, |_| part, &mut out);
                    if let Delivery::To(query, is_last) = delivery {
                        let newest = sent.iter().rfind(|(on, _)| *on == generation);
                        prop_assert_eq!(newest, Some(&(generation, query)));
                        prop_assert!(live.iter().any(|(_, known)| *known == query));
                        if is_last {
                            live.retain(|(_, known)| *known != query);
                        }
                    }
                }
                Step::Release(at) if !live.is_empty() => {
                    let (query_id, _) = live.remove(at % live.len());
                    lane.release(now, query_id, &mut out);
                }
                Step::Tick => lane.on_tick(now, &mut out),
                Step::Close(_) | Step::Message(..) | Step::Release(_) => {}
            }
            let mut at = 0;
            while let Some(action) = out.get(at).cloned() {
                at += 1;
                match action {
                    Action::Send(generation, query) => {
                        prop_assert!(open.contains(&generation));
                        sent.push((generation, query));
                    }
                    Action::Fail(query, _) => {
                        prop_assert!(live.iter().any(|(_, known)| *known == query));
                        live.retain(|(_, known)| *known != query);
                    }
                    Action::EndStream(generation) => {
                        open.retain(|known| *known != generation);
                        lane.on_closed(generation, "", &mut out);
                    }
                }
            }
            if open.is_empty() {
                prop_assert_eq!(&live, &[], "nobody waits without a stream");
            }
        }
    }
}
