//! Signs of life, and agents without any.

use super::*;

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
fn flowing_bytes_and_heartbeats_are_life() {
    for heartbeat in [false, true] {
        let mut queue = Tester::plain();
        let slice = sent(&queue.query(0, Query::Window(window(0, 5)), 1));
        for now in [1_900, 3_000] {
            queue.tick(now);
            if heartbeat {
                queue.0.on_heartbeat(at(now));
            } else {
                queue.0.on_progress(at(now), 1);
            }
        }
        queue.tick(3_900);
        assert!(!queue.0.is_unresponsive(), "it is busy");
        assert_eq!(queue.query(3_900, Query::Latest, 2), []);
        let out = queue.part(3_950, 1, part_for(&slice, 10));
        let latest = sent(&out);
        let out = queue.part(3_960, 1, part_for(&latest, 10));
        assert_eq!(resolved(&out), [(2, complete(&[Query::Latest]))]);
    }
}

#[test]
fn heartbeats_do_not_replace_latest_values() {
    let mut queue = Tester::plain();
    queue.query(0, Query::Latest, 1);
    for now in (100..2_000).step_by(100) {
        queue.0.on_heartbeat(at(now));
        assert_eq!(queue.tick(now), []);
    }
    let out = queue.tick(2_000);
    assert_eq!(resolved(&out), [(1, Outcome::Missing(Reason::Late))]);
    let out = queue.query(2_001, Query::Latest, 2);
    let refused = Outcome::Missing(Reason::Unresponsive);
    assert_eq!(resolved(&out), [(2, refused)], "it delays one page only");
}

#[test]
fn windows_and_latest_values_have_their_own_timeouts() {
    let mut queue = Tester::plain();
    queue.0.limits.window_timeout = Duration::from_secs(5);
    queue.query(0, Query::Window(window(0, 5)), 1);
    queue.tick(4_900);
    assert!(!queue.0.is_unresponsive());
    queue.tick(5_000);
    assert!(queue.0.is_unresponsive());
}

#[test]
fn dripping_agent_is_unresponsive_until_it_responds_in_time() {
    let mut queue = Tester::plain();
    let latest = sent(&queue.query(0, Query::Latest, 1));
    for now in (0..=4_000).step_by(100) {
        queue.0.on_progress(at(now), 1);
        queue.tick(now);
    }
    assert!(queue.0.is_unresponsive(), "progress helps only for a while");
    let out = queue.part(10_000, 1, part_for(&latest, 10));
    assert_eq!(out, []);
    assert!(queue.0.is_unresponsive(), "its response came far too late");
    let out = queue.query(10_001, Query::Latest, 2);
    let refused = Outcome::Missing(Reason::Unresponsive);
    assert_eq!(resolved(&out), [(2, refused)], "nobody waits");
    let probe = sent(&out);
    queue.part(10_002, 1, part_for(&probe, 10));
    assert!(!queue.0.is_unresponsive());
}

#[test]
fn stream_of_a_dripping_agent_is_ended() {
    let mut queue = Tester::plain();
    queue.query(0, Query::Latest, 1);
    for now in (0..120_000).step_by(500) {
        queue.0.on_progress(at(now), 1);
        let ended = queue.tick(now).contains(&Action::EndStream(1));
        assert!(!ended, "after {now} ms");
    }
    assert_eq!(queue.tick(120_000), [Action::EndStream(1)]);
}

#[test]
fn response_in_progress_beyond_its_timeout_is_taken() {
    let mut queue = Tester::with_profile();
    let hour = Query::Window(window(0, 3_600));
    let request = sent(&queue.enqueue(0, hour, &MetricNames::default(), 1, 10_000));
    let mut part = part_for(&request, 10);
    part.more = true;
    for now in [1_500, 3_000, 4_500] {
        assert_eq!(queue.part(now, 1, part.clone()), []);
        assert_eq!(queue.tick(now + 1_400), []);
        assert!(!queue.0.is_unresponsive());
    }
    part.more = false;
    let out = queue.part(6_000, 1, part);
    assert_eq!(resolved(&out), [(1, complete(&[hour; 4]))]);
}
