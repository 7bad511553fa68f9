//! A server that takes its changes from another one, as processes of their own.

use std::time::Duration;

use crate::process::{self, Server, Subscription, next, words};
use serde_json::Value;

const LINES: u64 = 30;

/// Enough for some seconds.
const MANY: u64 = 10_000;

/// Time between two kills.
const PAUSE: Duration = Duration::from_millis(100);

fn lines(count: u64) -> String {
    (0..count).fold(String::new(), |text, n| {
        format!("{text}{{\"id\":\"d{}\",\"n\":{n}}}\n", n % 7)
    })
}

#[tokio::test]
async fn chain_of_servers_survives_kill_9_of_each() {
    let (origin_data, copy_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut origin = Server::start(origin_data.path(), "127.0.0.1:0").await;
    let origin_addr = origin.addr.to_string();
    let from_origin = ["--puller", &origin_addr];
    let copy_at = async |listen: &str| {
        let listen = [&["--listen", listen], &from_origin[..]].concat();
        Server::start_with(copy_data.path(), &listen).await
    };
    let mut copy = copy_at("127.0.0.1:0").await;
    let copy_addr = copy.addr.to_string();
    let place = "--database db --collection rooms/r1 --initial-backoff 100ms --max-backoff 500ms";
    let to = format!("--producer p {place} --addr {origin_addr}");
    let publish = async |count: u64| process::publish(&to, &lines(count)).await;
    let subscribe = format!("streamer subscribe --json {place} --addr {copy_addr} --limit");
    let total = MANY.to_string();
    let mut subscription = Subscription::start(&[&words(&subscribe)[..], &[&total]].concat()).await;

    publish(LINES).await;
    // While its changes are on their way.
    copy.child.kill().await.unwrap();
    publish(2 * LINES).await;
    let mut copy = copy_at(&copy_addr).await;
    origin.child.kill().await.unwrap();
    origin = Server::start(origin_data.path(), &origin_addr).await;
    publish(3 * LINES).await;
    // The same process of the copy has found the origin again.
    let mut received = Vec::new();
    while received.len() < 3 * LINES as usize {
        received.push(next(&mut subscription.out).await.unwrap());
    }
    copy.child.kill().await.unwrap();
    copy = copy_at(&copy_addr).await;
    // At any moment of a commit, of either.
    let publishing = publish(MANY);
    let mut publishing = std::pin::pin!(publishing);
    let mut kills = 0;
    while tokio::time::timeout(PAUSE, &mut publishing).await.is_err() {
        kills += 1;
        if kills % 2 == 0 {
            origin.child.kill().await.unwrap();
            origin = Server::start(origin_data.path(), &origin_addr).await;
        } else {
            copy.child.kill().await.unwrap();
            copy = copy_at(&copy_addr).await;
        }
    }
    assert!(
        kills > 0,
        "nothing was killed while changes were on their way"
    );

    let (rest, code) = subscription.rest().await;
    assert_eq!(code, Some(0));
    received.extend(rest);
    let number = |line: &String| -> u64 {
        let value: Value = serde_json::from_str(line).unwrap();
        let number = value["data"]["n"].as_u64();
        number.unwrap_or_else(|| panic!("no change: {line}"))
    };
    let numbers: Vec<u64> = received.iter().map(number).collect();
    assert_eq!(numbers, (0..MANY).collect::<Vec<_>>());
}
