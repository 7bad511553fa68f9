//! Names and addresses in virtual time: the sockets are scripted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::time::{Instant, sleep};

use super::*;
use crate::dial::{BoxFuture, Proxies};

const SERVER: &str = "db:9000";

/// The behaviour of a scripted address.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Peer {
    Accepts,
    Refuses,
    Silent,
}

use Peer::{Accepts, Refuses, Silent};

fn ip(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 9000))
}

fn v6(number: u16) -> SocketAddr {
    SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, number], 9000))
}

fn dialer() -> Dialer {
    Dialer::new([SERVER.parse().unwrap()]).proxies(Proxies::none())
}

/// Dials addresses that behave as `peer` says. Returns the address that was reached or the errors, the
/// time, and the addresses in the order in which they were tried.
async fn dial(
    dialer: &Dialer,
    addresses: &[SocketAddr],
    peer: impl Fn(SocketAddr) -> Peer,
) -> (
    Result<SocketAddr, Vec<DialError>>,
    Duration,
    Vec<SocketAddr>,
) {
    let begin = Instant::now();
    let tried = Mutex::new(Vec::new());
    let way = Way {
        server: SERVER.parse().unwrap(),
        proxy: None,
        peer: None,
    };
    let connect = |address, _| {
        tried.lock().unwrap().push(address);
        let peer = peer(address);
        async move {
            sleep(Duration::from_millis(10)).await;
            match peer {
                Accepts => Ok(()),
                Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                Silent => std::future::pending().await,
            }
        }
    };
    let reached = dialer
        .race_addresses(addresses.to_vec(), dialer.deadline(), &way, connect)
        .await
        .map(|((), address, _)| address);
    if let Ok(address) = &reached {
        dialer.peers.note(address);
    }
    (reached, begin.elapsed(), tried.into_inner().unwrap())
}

#[tokio::test(start_paused = true)]
async fn dead_first_address_costs_a_quarter_second_once() {
    let dialer = dialer();
    let addresses = [ip(1), ip(2)];
    let peer = |address| if address == ip(1) { Silent } else { Accepts };
    let (reached, time, _) = dial(&dialer, &addresses, peer).await;
    assert_eq!(reached.unwrap(), ip(2));
    assert_eq!(time, Duration::from_millis(260));
    // Each address that fails gives way to the others for the next dial.
    let addresses = [ip(1), ip(3), ip(4)];
    let (reached, time, tried) = dial(&dialer, &addresses, peer).await;
    assert_eq!((reached.unwrap(), tried), (ip(3), vec![ip(3)]));
    assert_eq!(time, Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn server_with_ipv6_alone_is_reached() {
    let addresses = [ip(1), ip(2), ip(3), v6(1)];
    let peer = |address: SocketAddr| if address.is_ipv6() { Accepts } else { Silent };
    let (reached, time, tried) = dial(&dialer(), &addresses, peer).await;
    assert_eq!((reached.unwrap(), tried), (v6(1), vec![ip(1), v6(1)]));
    assert_eq!(time, Duration::from_millis(260));
}

#[tokio::test(start_paused = true)]
async fn fifty_addresses_are_tried_in_turns_of_sixteen() {
    let dialer = dialer();
    let addresses: Vec<_> = (1..=50).map(ip).collect();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..4 {
        let (reached, _, tried) = dial(&dialer, &addresses, |_| Refuses).await;
        let errors = reached.unwrap_err();
        assert_eq!((errors.len(), tried.len()), (16, 16), "round {round}");
        seen.extend(tried);
    }
    assert_eq!(seen.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn silent_addresses_end_at_the_deadline_and_are_named() {
    let dialer = dialer().timeout(Duration::from_secs(2));
    let addresses: Vec<_> = (1..=50).map(ip).collect();
    let (reached, time, tried) = dial(&dialer, &addresses, |_| Silent).await;
    assert_eq!(time, Duration::from_secs(2));
    // One each 250 ms, and none after the deadline.
    assert_eq!(tried.len(), 8);
    let errors = reached.unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "db:9000 (10.0.0.1:9000): connecting: no response within 2 s; \
         check the address, routes and firewalls"
    );
}

#[tokio::test(start_paused = true)]
async fn dial_without_time_has_an_error_that_names_the_server() {
    let dialer = dialer().timeout(Duration::ZERO);
    let errors = dialer.connect().await.unwrap_err();
    assert_eq!(errors.errors().len(), 1);
    assert!(
        errors
            .to_string()
            .starts_with("db:9000: connecting: no response within 0 s")
    );
}

/// Plays names that answer differently each time.
fn scripted(answers: Vec<(u64, io::Result<Vec<SocketAddr>>)>) -> Dialer {
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let lookup = move |_: &str, _: u16| -> BoxFuture<io::Result<Vec<SocketAddr>>> {
        let (seconds, answer) = answers
            .lock()
            .unwrap()
            .pop_front()
            .expect("a scripted answer");
        Box::pin(async move {
            sleep(Duration::from_secs(seconds)).await;
            answer
        })
    };
    dialer().lookup(lookup)
}

#[tokio::test(start_paused = true)]
async fn names_that_fail_are_empty_or_slow_are_errors() {
    let begin = Instant::now();
    let dialer = scripted(vec![
        (0, Err(io::Error::from(io::ErrorKind::ConnectionReset))),
        (0, Ok(Vec::new())),
        (3_600, Ok(vec![ip(1)])),
    ]);
    for text in [
        "db:9000: resolving the name: connection reset; \
         check the name, and the resolver of this machine",
        "db:9000: resolving the name: none found; \
         check the spelling, and that the name has an address",
        "db:9000: resolving the name: no response within 8 s; check the resolver of this machine",
    ] {
        let errors = dialer.connect().await.unwrap_err();
        assert_eq!(errors.to_string(), text);
    }
    assert_eq!(begin.elapsed(), Duration::from_secs(8));
}
