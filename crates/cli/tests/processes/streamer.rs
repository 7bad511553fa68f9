//! Server, publisher and subscriber as processes of their own.

use std::{process::Command, time::Duration};

use crate::process::{LIMIT, Server, Subscription, next, publish, run, steadfast, words};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Child,
    time::timeout,
};

#[tokio::test]
async fn what_exists_is_printed_then_what_changes_and_leaves() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let place = format!("--database db --collection rooms --addr {}", server.addr);
    publish(&place, "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":9}\n").await;
    let subscribe = ["streamer", "subscribe", "--snapshot", "--json", "n < 5"];
    let subscribe = [&subscribe[..], &words(&place)].concat();
    let mut subscription = Subscription::start(&subscribe).await;
    let mut printed_until = async |last: (&str, &str)| {
        let mut printed = Vec::<Value>::new();
        while printed.last().is_none_or(|item| item[last.0] != last.1) {
            let line = next(&mut subscription.out).await.expect("another item");
            printed.push(serde_json::from_str(&line).unwrap());
            let item = printed.last().unwrap();
            let described = described_fields(&item["type"]);
            // A change during a snapshot has no position to continue from.
            let has = |field: &&String| *field != "position" || !item[*field].is_null();
            let described: Vec<_> = described.iter().filter(has).collect();
            let fields: Vec<_> = item.as_object().unwrap().keys().collect();
            assert_eq!(fields, described, "{line}");
        }
        printed
    };
    // Whether `a` is a document or a change depends on the age of the table.
    let first = printed_until(("type", "snapshotEnd")).await;
    assert_eq!(first[0]["type"], "snapshotBegin");
    assert!(
        first
            .iter()
            .any(|item| item["id"] == "a" && item["data"]["n"] == 1)
    );
    assert!(
        first
            .iter()
            .all(|item| item["id"] != "b" || item["type"] == "left")
    );
    assert!(
        first.last().unwrap()["position"].is_string(),
        "a position to resume from"
    );
    publish(&place, "{\"id\":\"a\",\"n\":7}\n{\"id\":\"c\",\"n\":2}\n").await;
    let second = printed_until(("id", "c")).await;
    assert_eq!(
        (&second[0]["type"], &second[0]["id"]),
        (&"left".into(), &"a".into())
    );
    assert!(second[0]["data"].is_null(), "the new state is not shown");
    assert_eq!(second[1]["type"], "change");
    drop(server);
}

/// Returns the fields of a kind of line by docs/subscribe-json.md, in order.
fn described_fields(kind: &Value) -> Vec<String> {
    let page = include_str!("../../../../docs/subscribe-json.md");
    let mut examples = page.lines().filter(|line| line.starts_with('{'));
    let example = examples.find_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["type"] == *kind).then_some(line)
    });
    let example = example.unwrap_or_else(|| panic!("{kind} is not described"));
    example.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn the_first_documents_of_an_order_are_printed() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let place = format!("--database db --collection rooms --addr {}", server.addr);
    publish(
        &place,
        "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":9}\n{\"id\":\"c\",\"n\":5}\n",
    )
    .await;
    let window = format!("streamer subscribe --json --order-by n:desc --limit 2 {place}");
    let mut subscription = Subscription::start(&words(&window)).await;
    let mut printed = async |count: usize| {
        let mut printed = Vec::new();
        while printed.len() < count {
            let line = next(&mut subscription.out).await.expect("another update");
            let update: Value = serde_json::from_str(&line).unwrap();
            // How often it is whole depends on the age of the table.
            if update["type"] != "whole" {
                let id = update["id"].as_str().unwrap();
                printed.push(format!("{} {id} {}", update["type"], update["index"]));
            }
        }
        printed
    };
    assert_eq!(printed(2).await, [r#""entered" b 0"#, r#""entered" c 1"#]);
    publish(&place, "{\"id\":\"a\",\"n\":99}\n").await;
    assert_eq!(printed(2).await, [r#""entered" a 0"#, r#""left" c 2"#]);
    publish(
        &place,
        "{\"id\":\"b\",\"op\":\"delete\"}\n{\"id\":\"c\",\"n\":100}\n",
    )
    .await;
    let expected = [r#""left" b 1"#, r#""entered" c 1"#, r#""moved" c 0"#];
    assert_eq!(printed(3).await, expected);
    drop(server);
}

/// `{"id":"d0","n":0}` and so on.
fn lines(count: u64) -> String {
    (0..count).fold(String::new(), |text, n| {
        format!("{text}{{\"id\":\"d{}\",\"n\":{n}}}\n", n % 7)
    })
}

/// Sends a signal.
pub(crate) fn send(signal: &str, child: &Child) {
    let id = child.id().unwrap().to_string();
    let signal = format!("-{signal}");
    let sent = Command::new("kill").args([&signal, &id]).status().unwrap();
    assert!(sent.success());
}

fn numbers(lines: &[String]) -> Vec<u64> {
    let number = |line: &String| {
        let value: Value = serde_json::from_str(line).unwrap();
        value["data"]["n"]
            .as_u64()
            .unwrap_or_else(|| panic!("no number in {line}"))
    };
    lines.iter().map(number).collect()
}

#[tokio::test]
async fn a_subscription_outlives_kill_9_of_its_server() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let addr = server.addr.to_string();
    let place = format!(
        "--database db --collection rooms/r1 --addr {addr} --initial-backoff 100ms --max-backoff 500ms"
    );
    let publish = format!("streamer publish --producer p {place}");
    let publish = words(&publish);
    let subscribe = [
        &["streamer", "subscribe", "--json", "n >= 0"],
        &words(&place)[..],
    ]
    .concat();
    let limited = [&subscribe[..], &["--limit", "40"]].concat();
    let subscription = Subscription::start(&limited).await;

    let first = run(&publish, Some(&lines(20))).await;
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(
        first.stderr.contains("20 published, 0 duplicates"),
        "{first:?}"
    );

    server.child.kill().await.unwrap();
    let server = Server::start(data.path(), &addr).await;

    let second = run(&publish, Some(&lines(40))).await;
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(
        second.stderr.contains("20 published, 20 duplicates"),
        "{second:?}"
    );

    let (received, code) = subscription.rest().await;
    assert_eq!(code, Some(0));
    assert_eq!(numbers(&received), (0..40).collect::<Vec<_>>());

    // A later process goes on from a position that an earlier one printed.
    let tenth: Value = serde_json::from_str(&received[9]).unwrap();
    let from = tenth["position"].as_str().unwrap();
    let resumed = run(
        &[&subscribe[..], &["--from", from, "--limit", "30"]].concat(),
        None,
    )
    .await;
    let resumed: Vec<String> = resumed.stdout.lines().map(str::to_owned).collect();
    assert_eq!(numbers(&resumed), (10..40).collect::<Vec<_>>());
    drop(server);
}

#[tokio::test]
async fn subscribe_starts_where_it_is_told() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let place = format!("--database db --collection rooms --addr {}", server.addr);
    let printed = async |from: &str, limit: usize| {
        let line = format!("streamer subscribe --json --from {from} --limit {limit} {place}");
        let ended = run(&words(&line), None).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let lines = ended.stdout.lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.collect::<Vec<_>>()
    };
    publish(&place, "{\"id\":\"a\"}\n").await;
    // Another millisecond for the second commit.
    tokio::time::sleep(Duration::from_millis(20)).await;
    publish(&place, "{\"id\":\"b\"}\n{\"id\":\"c\"}\n").await;
    let all = printed("oldest", 3).await;
    let ids = |items: &[Value]| items.iter().map(|it| it["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&all), ["a", "b", "c"]);
    for from in ["1h", "-1h", "1970-01-01T00:00:00Z"] {
        assert_eq!(ids(&printed(from, 3).await), ["a", "b", "c"], "{from}");
    }
    let second = all[1]["timestamp"].as_i64().unwrap();
    let second = jiff::Timestamp::from_millisecond(second)
        .unwrap()
        .to_string();
    assert_eq!(ids(&printed(&second, 2).await), ["b", "c"]);

    let line = format!("streamer subscribe --json --from now --limit 1 {place}");
    let now = Subscription::start(&words(&line)).await;
    publish(&place, "{\"id\":\"d\"}\n").await;
    let (lines, _) = now.rest().await;
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("\"id\":\"d\""), "{lines:?}");

    let wrong = run(
        &words(&format!("streamer subscribe --from soon {place}")),
        None,
    )
    .await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(
        wrong.stderr.contains("write oldest, now, a position"),
        "{wrong:?}"
    );
    drop(server);
}

#[tokio::test]
async fn log_commands_verify_dump_repair_and_trim() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let publish = format!(
        "streamer publish --producer p --database db --collection rooms --addr {}",
        server.addr
    );
    // In two commits: a damaged record of the last one looks like an interrupted commit.
    for count in [20, 21] {
        let published = run(&words(&publish), Some(&lines(count))).await;
        assert_eq!(published.code, Some(0), "{published:?}");
    }
    let path = data.path().to_str().unwrap();
    let log = async |arguments: &str| {
        run(
            &words(&format!("streamer log {arguments} --data {path}")),
            None,
        )
        .await
    };
    let busy = log("verify").await;
    assert_eq!(busy.code, Some(1), "{busy:?}");
    assert!(
        busy.stderr.contains("in use by another process"),
        "{busy:?}"
    );
    server.child.kill().await.unwrap();

    let sound = log("verify").await;
    assert_eq!(sound.code, Some(0), "{sound:?}");
    assert!(
        sound.stdout.contains("21 events are sound, 0 are damaged"),
        "{sound:?}"
    );
    // One flipped bit in a document, and a broken index.
    let segment = data.path().join("00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(7).position(|it| it == b"\"n\":11,").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    std::fs::write(data.path().join("log.redb"), "not an index").unwrap();
    let broken = log("verify").await;
    for told in ["streamer log repair", "damaged or missing: 12 to 12"] {
        assert!(broken.stdout.contains(told), "{told}: {broken:?}");
    }
    let repaired = log("repair").await;
    assert!(
        repaired.stdout.contains("the index is rebuilt"),
        "{repaired:?}"
    );
    assert!(
        repaired.stdout.contains("damaged or missing: 12 to 12"),
        "{repaired:?}"
    );
    let dumped = log("dump --after 10").await;
    assert_eq!(dumped.code, Some(1), "{dumped:?}");
    let offsets: Vec<u64> = dumped
        .stdout
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["offset"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(offsets, [11, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
    let trimmed = log("trim --upto 15").await;
    assert!(trimmed.stdout.contains("after 15 up to 21"), "{trimmed:?}");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let data = tempfile::tempdir().unwrap();
    let flags = words("--listen 127.0.0.1:0 --max-connections 1");
    let server = Server::start_with(data.path(), &flags).await;
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    // The server's settings frame shows that it holds the connection.
    first
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut byte = [0];
    let read = timeout(LIMIT, first.read(&mut byte)).await.unwrap();
    assert_eq!(read.unwrap(), 1);
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    let read = timeout(LIMIT, second.read(&mut byte)).await.unwrap();
    assert_eq!(read.unwrap_or(0), 0, "the second connection is served");

    let zero = words("streamer serve --data nowhere --max-connections 0");
    let refused = run(&zero, None).await;
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("--max-connections: it is 0"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn faulty_lines_are_named_and_the_others_are_published() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let addr = server.addr.to_string();
    let publish = format!("streamer publish -d db -c c --addr {addr}");
    let input = "{\"id\":\"a\"}\n\nnot json\n{\"n\":1}\n{\"id\":\"b\",\"op\":\"delete\"}\n";
    let ended = run(&words(&publish), Some(input)).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for expected in [
        "line 3: not JSON",
        "line 4: no \"id\"",
        "2 published",
        "2 faulty lines",
    ] {
        assert!(
            ended.stderr.contains(expected),
            "{expected:?} is not in {ended:?}"
        );
    }
}

#[tokio::test]
async fn twenty_faulty_lines_are_named_and_more_only_counted() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let addr = server.addr.to_string();
    for (count, more) in [(20, 0), (25, 1)] {
        let publish = format!("streamer publish -d db -c c --addr {addr}");
        let ended = run(&words(&publish), Some(&"not json\n".repeat(count))).await;
        assert_eq!(ended.stderr.matches("not JSON").count(), 20, "{ended:?}");
        let noted = ended.stderr.matches("only counted").count();
        assert_eq!(noted, more, "{ended:?}");
        let total = format!("{count} faulty lines");
        assert!(ended.stderr.contains(&total), "{ended:?}");
    }
}

#[tokio::test]
async fn publisher_ends_at_a_message_above_its_limit() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let publish = format!(
        "streamer publish -d db -c c --max-message-bytes 1B --max-retries 1 --addr {}",
        server.addr
    );
    let ended = run(&words(&publish), Some("{\"id\":\"a\"}\n")).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cannot connect"), "{ended:?}");
}

#[tokio::test]
async fn interrupted_feed_waits_seconds_for_a_lost_server() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let feed = format!(
        "feed generator --rate 100 --publish db/c --addr {}",
        server.addr
    );
    let mut feed = steadfast(&words(&feed)).spawn().unwrap();
    let mut lines = BufReader::new(feed.stderr.take().unwrap()).lines();
    while !next(&mut lines).await.unwrap().contains("connected") {}
    server.child.kill().await.unwrap();
    while !next(&mut lines).await.unwrap().contains("connection lost") {}
    tokio::time::sleep(Duration::from_millis(100)).await;
    send("INT", &feed);
    let status = timeout(Duration::from_secs(15), feed.wait()).await;
    assert_eq!(status.unwrap().unwrap().code(), Some(1));
    let mut told = String::new();
    while let Some(line) = next(&mut lines).await {
        told += &line;
    }
    assert!(told.contains("got no response"), "{told}");
}

#[tokio::test]
async fn a_server_stops_in_order_when_asked() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    send("TERM", &server.child);
    let status = timeout(LIMIT, server.child.wait())
        .await
        .expect("an end in time")
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn two_signals_at_once_stop_a_server_in_order() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    // Both are pending before the server looks, as when a supervisor signals a process and its group.
    send("STOP", &server.child);
    send("TERM", &server.child);
    send("INT", &server.child);
    send("CONT", &server.child);
    let status = timeout(LIMIT, server.child.wait())
        .await
        .expect("an end in time")
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn every_fault_of_a_command_line_is_told_at_once_with_status_2() {
    let subscribe =
        words("streamer subscribe -d db -c c --heartbeat soon --initial-backoff 1m --addr nowhere");
    let ended = run(&[&subscribe[..], &["a ~ 1", "b in 5"]].concat(), None).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    for expected in [
        "a ~ 1",
        "b in 5",
        "--heartbeat",
        "like 30s",
        "max_backoff",
        "--addr",
    ] {
        assert!(
            ended.stderr.contains(expected),
            "{expected:?} is not in {ended:?}"
        );
    }
    assert_eq!(ended.stdout, "");
}

#[tokio::test]
async fn a_wrong_path_or_number_is_told_with_what_to_do() {
    for (command, code, told) in [
        (
            "streamer serve --data /dev/null --listen localhost:0",
            5,
            "choose another with --data",
        ),
        (
            "streamer publish -d db -c c /",
            1,
            "name a file of lines, or `-`",
        ),
        (
            "fodc replay /nowhere",
            1,
            "name the directory given to `fodc agent --data`",
        ),
        ("feed generator --rate 0", 2, "from 1 on"),
    ] {
        let ended = run(&words(command), None).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains(told), "{told}: {ended:?}");
    }
}

#[tokio::test]
async fn a_server_without_a_directory_says_how_to_give_one() {
    let ended = run(&["streamer", "serve"], None).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--data") && ended.stderr.contains("STEADFAST_DATA"));
}

#[tokio::test]
async fn a_reader_that_leaves_ends_a_feed_quietly() {
    let mut child = steadfast(&["feed", "generator"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = timeout(LIMIT, child.wait_with_output())
        .await
        .expect("an end in time")
        .unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[tokio::test]
async fn published_lines_arrive_to_the_letter_or_are_told() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let place = format!("--database db --collection rooms --addr {}", server.addr);
    let subscribe = format!("streamer subscribe --json --limit 3 {place}");
    let subscription = Subscription::start(&words(&subscribe)).await;
    // A byte order mark, a line in Latin-1, and fields that the server sets itself.
    let fields = r#""beyond":18446744073709551616,"exp":1E2,"neg0":-0,"price":10.10,"zero":1.0"#;
    let mut input = format!("\u{feff}{{\"id\":\"a\",{fields}}}\n").into_bytes();
    input.extend_from_slice(b"{\"id\":\"b\",\"v\":\"na\xefve\"}\n");
    input.extend_from_slice(b"{\"id\":\"c\",\"version\":\"1.2.3-4\",\"collection\":\"mine\"}\r\n");
    input.extend_from_slice(b"{\"id\":\"d\",\"version\":\"2\"}");
    let file = data.path().join("lines.ndjson");
    std::fs::write(&file, input).unwrap();
    let publish = format!("streamer publish {} {place}", file.display());
    let published = run(&words(&publish), None).await;
    assert_eq!(published.code, Some(1), "{published:?}");
    for expected in [
        "line 2: not UTF-8 (byte 18)",
        "line 3: the server sets \"version\" itself",
        "line 3: the server sets \"collection\" itself",
        "3 published, 0 duplicates, 0 refused, 1 faulty lines",
    ] {
        assert!(
            published.stderr.contains(expected),
            "{expected}: {published:?}"
        );
    }
    assert!(
        !published.stderr.contains("line 4"),
        "said once: {published:?}"
    );
    let (received, code) = subscription.rest().await;
    assert_eq!(code, Some(0));
    let expected = r#""data":{"beyond":18446744073709551616,"createdAt":"#;
    assert!(received[0].contains(expected), "{received:?}");
    let expected = r#","exp":1E2,"neg0":-0,"price":10.10,"updatedAt":"#;
    assert!(received[0].contains(expected), "{received:?}");
    assert!(received[1].contains(r#""version":1}"#), "{received:?}");
}
