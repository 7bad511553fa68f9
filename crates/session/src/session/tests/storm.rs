//! Peers that accept and fail for ever, and callers that never stop requesting.

use std::time::Duration;

use super::bench::{Bench, ended_with, finished, millis, plain, seconds, stops, unreachable};
use crate::{
    Activity, Advice, Config, End, Generation, Initiator, Jitter, Ready, Reason, Signal,
    session::{Action, Input},
};

const TEN_MINUTES: Duration = Duration::from_secs(600);

/// The behaviour of a peer at the start of each attempt.
type Peer = fn(&mut Bench);

fn live_then(end: End) -> impl Fn(&mut Bench) {
    move |bench| {
        bench.go_live();
        bench.end(end.clone());
    }
}

/// Peers that fail every attempt in their own way.
const PEERS: [(&str, Peer); 15] = [
    ("refuses to open", |bench| drop(bench.end(unreachable()))),
    ("opens and closes in order", |bench| {
        bench.headers();
        bench.end(finished());
    }),
    ("opens and fails", |bench| {
        bench.headers();
        bench.end(ended_with(Advice::Retry));
    }),
    ("sends one message and closes", |bench| {
        bench.headers();
        bench.feed(Input::Message(bench.generation()));
        bench.end(finished());
    }),
    ("greets and closes", |bench| {
        bench.headers();
        bench.feed(Input::Message(bench.generation()));
        bench.signal(Signal::Greeted);
        bench.end(finished());
    }),
    ("restores all but the last and closes", |bench| {
        bench.headers();
        bench.signal(Signal::Greeted);
        bench.signal(Signal::RestoreProgress);
        bench.end(finished());
    }),
    ("becomes live and closes in order", |bench| {
        live_then(finished())(bench);
    }),
    ("becomes live and fails", |bench| {
        live_then(ended_with(Advice::Retry))(bench);
    }),
    ("becomes live and asks to wait for nothing", |bench| {
        live_then(ended_with(Advice::Wait(Some(Duration::ZERO))))(bench);
    }),
    ("becomes live and refuses the credentials", |bench| {
        live_then(ended_with(Advice::Refresh))(bench);
    }),
    ("refuses all credentials", |bench| {
        drop(bench.end(ended_with(Advice::Refresh)));
    }),
    ("refuses the credentials or is away, by turns", |bench| {
        let away = bench.generation().0.is_multiple_of(2);
        bench.end(if away {
            unreachable()
        } else {
            ended_with(Advice::Refresh)
        });
    }),
    (
        "becomes live, announces that it stops, and closes",
        |bench| {
            bench.go_live();
            let from = bench.generation();
            bench.signal(Signal::Drain("restart".into()));
            bench.feed(Input::Ended(from, finished()));
        },
    ),
    ("announces that it stops before anything else", |bench| {
        bench.headers();
        bench.signal(Signal::Drain("restart".into()));
    }),
    ("breaks the protocol", |bench| {
        bench.headers();
        bench.signal(Signal::Fail(End::retry(
            Initiator::Peer,
            Reason::Protocol("nonsense".into()),
        )));
    }),
];

/// Runs ten minutes with a peer.
fn run_with(config: Config, seed: u64, peer: impl Fn(&mut Bench)) -> Bench {
    let mut bench = Bench::seeded(config, seed);
    bench.feed(Input::Connect);
    let end = bench.now + TEN_MINUTES;
    while bench.now < end {
        if bench.activity() == Activity::Opening {
            peer(&mut bench);
        }
        let Some(due) = bench.session.status().next_retry_at else {
            break;
        };
        bench.wait(due.since(bench.now).min(end - bench.now));
    }
    bench
}

#[test]
fn no_peer_provokes_more_than_33_attempts_in_ten_minutes() {
    for (name, peer) in PEERS {
        for seed in 0..20 {
            let config = Config {
                ready: Ready::Restored,
                renews_credentials: true,
                ..Config::default()
            };
            let bench = run_with(config, seed, peer);
            let attempts = bench.attempts().len();
            assert!((20..=33).contains(&attempts), "{name}: {attempts}");
            let least = bench.distances().into_iter().min().unwrap();
            assert!(least >= millis(500), "{name}: {least:?} apart");
        }
    }
}

#[test]
fn servers_of_a_round_follow_at_once_and_rounds_are_bounded() {
    for (servers, most) in [(3, 33 * 3), (u64::MAX, 33 * 16)] {
        let refused = move |bench: &mut Bench| {
            let is_last = bench.generation().0.is_multiple_of(servers);
            bench.end(ended_with(if is_last {
                Advice::Retry
            } else {
                Advice::NextServer
            }));
        };
        let bench = run_with(Config::default(), 5, refused);
        let status = bench.session.status();
        let attempts = bench.attempts().len();
        assert!((20..=most).contains(&attempts), "{servers}: {attempts}");
        let of_a_round = attempts / usize::try_from(status.consecutive_failures).unwrap();
        assert_eq!(of_a_round as u64, servers.min(16), "one failure per round");
        let distances = bench.distances();
        let least = distances.iter().min().unwrap();
        assert_eq!(*least, millis(500), "the next server follows at once");
        let delays = distances.iter().filter(|distance| **distance > *least);
        assert!(delays.count() <= 33);
    }
}

#[test]
fn lost_live_streams_meet_the_backoff_whatever_the_advice() {
    let bench = run_with(plain(), 5, |bench| {
        live_then(ended_with(Advice::NextServer))(bench);
    });
    assert!((20..=33).contains(&bench.attempts().len()));
}

#[test]
fn attempts_are_bounded_at_every_ready_level() {
    for ready in [Ready::Accepted, Ready::Headers, Ready::FirstMessage] {
        let config = Config {
            ready,
            ..Config::default()
        };
        let bench = run_with(config, 3, |bench| {
            let from = bench.generation();
            bench.feed(Input::Accepted(from));
            bench.headers();
            bench.feed(Input::Message(from));
            bench.signal(Signal::Greeted);
            assert_eq!(bench.activity(), Activity::Live);
            bench.end(finished());
        });
        let attempts = bench.attempts().len();
        assert!((20..=33).contains(&attempts), "{ready:?}: {attempts}");
    }
}

#[test]
fn full_jitter_keeps_the_minimum_interval() {
    for (name, peer) in PEERS {
        let config = Config {
            jitter: Jitter::Full,
            ready: Ready::Restored,
            renews_credentials: true,
            ..Config::default()
        };
        let bench = run_with(config, 11, peer);
        assert!(bench.attempts().len() <= 66, "{name}");
        let least = bench.distances().into_iter().min().unwrap();
        assert!(least >= millis(500), "{name}: {least:?} apart");
    }
}

/// The behaviour of a caller in each turn.
type Caller = fn(&mut Bench, u64);

/// Runs ten minutes of a caller that acts every ten milliseconds, with a peer that always fails.
fn hammer(ask: Caller) -> Bench {
    let mut bench = Bench::new(plain());
    for turn in 0..60_000 {
        ask(&mut bench, turn);
        if bench.activity() == Activity::Opening {
            bench.end(unreachable());
        }
        bench.wait(millis(10));
    }
    bench
}

#[test]
fn hammering_caller_gets_at_most_two_attempts_per_second() {
    let callers: [(&str, Caller); 4] = [
        ("connect", |bench, _| drop(bench.feed(Input::Connect))),
        ("reconnect", |bench, _| drop(bench.feed(Input::Reconnect))),
        ("connect and leave", |bench, _| {
            bench.feed(Input::Connect);
            bench.feed(Input::Leave);
            bench.feed(Input::Connect);
        }),
        ("everything by turns", |bench, turn| {
            bench.feed(match turn % 3 {
                0 => Input::Connect,
                1 => Input::Reconnect,
                _ => Input::Leave,
            });
        }),
    ];
    for (name, ask) in callers {
        let bench = hammer(ask);
        let least = bench.distances().into_iter().min().unwrap();
        assert!(least >= millis(500), "{name}: {least:?} apart");
        assert!(bench.attempts().len() <= 1_201, "{name}");
    }
}

#[test]
fn failed_probes_on_request_keep_the_minimum_interval() {
    let mut bench = Bench::new(Config {
        probe_timeout: millis(1),
        ..plain()
    });
    bench.open();
    for _ in 0..1_000 {
        bench.go_live();
        bench.feed(Input::Reconnect);
        bench.wait(millis(1));
        while bench.activity() != Activity::Opening {
            bench.feed(Input::Reconnect);
            bench.wait(millis(5));
        }
    }
    assert!(bench.distances().into_iter().min().unwrap() >= millis(500));
}

#[test]
fn long_attempts_do_not_shorten_the_delay_after_them() {
    let mut bench = Bench::new(plain());
    bench.open();
    for expected in [1, 2, 4, 8] {
        let out = bench.wait(seconds(10));
        assert!(stops(&out).is_empty());
        assert_eq!(bench.wait_for_attempt(), seconds(expected));
    }
    assert_eq!(bench.generation(), Generation(5));
    assert!(matches!(bench.done[0].1, Action::Changed(_)));
}
