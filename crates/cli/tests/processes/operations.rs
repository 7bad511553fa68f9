//! What an operator of a server meets: bad starts, and the status of one that runs.

use std::{fs, net::TcpListener, path::Path};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::process::{Server, next, publish, run, steadfast, words};

/// Returns the directory of a log that a server has written and closed.
async fn closed_log() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let to = format!("-d db -c c --addr {}", server.addr);
    publish(&to, "{\"id\":\"a\"}\n").await;
    server.child.kill().await.unwrap();
    data
}

/// Writes another version into the two copies of a segment's header.
fn set_version(segment: &Path, version: u8) {
    const COPIES: [usize; 2] = [0, 512];
    let mut bytes = fs::read(segment).unwrap();
    for at in COPIES {
        bytes[at + 8] = version;
        let checksum = crc32fast::hash(&bytes[at..at + 48]).to_le_bytes();
        bytes[at + 48..at + 52].copy_from_slice(&checksum);
    }
    fs::write(segment, bytes).unwrap();
}

#[tokio::test]
async fn each_bad_start_has_its_status_and_says_what_to_do() {
    let new = tempfile::tempdir().unwrap();
    let (damaged, newer) = (closed_log().await, closed_log().await);
    fs::write(damaged.path().join("log.redb"), "no index").unwrap();
    set_version(&newer.path().join("00000000000000000001.seg"), 99);
    let used = tempfile::tempdir().unwrap();
    let server = Server::start(used.path(), "127.0.0.1:0").await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let config = new.path().join("s.toml");
    fs::write(&config, "[server]\nlissten = \"127.0.0.1:0\"\n").unwrap();
    let path = |dir: &tempfile::TempDir| dir.path().to_str().unwrap().to_owned();
    let (new, config) = (path(&new), config.to_str().unwrap().to_owned());
    let free = "--listen 127.0.0.1:0";
    for (flags, code, told) in [
        (format!("--data {new} {free} --drain soon"), 2, "--drain"),
        (
            format!("--data {new} {free} --operations here"),
            2,
            "or write off",
        ),
        (
            format!("--data {new} {free} --config {config}"),
            2,
            "s.toml:2",
        ),
        (free.to_owned(), 2, "--data: is missing"),
        (
            format!("--data {} {free}", path(&damaged)),
            3,
            "streamer log verify",
        ),
        (
            format!("--data {} {free}", path(&newer)),
            4,
            "has the format 99",
        ),
        (
            format!("--data /dev/null/log {free}"),
            5,
            "choose another with --data",
        ),
        (
            format!("--data {} {free}", path(&used)),
            5,
            "in use by another process",
        ),
        (
            format!("--data {new} --listen {taken}"),
            6,
            "choose another address with --listen",
        ),
        (
            format!("--data {new} {free} --operations {taken}"),
            6,
            "choose another address with --operations",
        ),
    ] {
        let ended = run(&[&["streamer", "serve"], &words(&flags)[..]].concat(), None).await;
        assert_eq!(ended.code, Some(code), "{flags}: {ended:?}");
        assert!(ended.stderr.contains(told), "{flags}: {told}: {ended:?}");
        assert_eq!(ended.stdout, "", "{flags}");
        let errors = ended.stderr.lines().filter(|it| it.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{flags}: {ended:?}");
    }
    drop(server);
}

#[tokio::test]
async fn default_listener_for_operations_is_no_reason_to_fail() {
    let data = tempfile::tempdir().unwrap();
    // A pair of ports of which the second one is taken.
    let (listen, _taken) = (0..100)
        .find_map(|_| {
            let free = TcpListener::bind("127.0.0.1:0").ok()?;
            let port = free.local_addr().ok()?.port();
            let taken = TcpListener::bind(("127.0.0.1", port.checked_add(80)?)).ok()?;
            Some((format!("127.0.0.1:{port}"), taken))
        })
        .unwrap();
    let path = data.path().to_str().unwrap();
    let mut child = steadfast(&["streamer", "serve", "--data", path, "--listen", &listen])
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(next(&mut out).await, Some(format!("ready {listen}")));
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let warning = next(&mut told).await.unwrap();
    assert!(
        warning.contains("choose its address with --operations"),
        "{warning}"
    );
    child.kill().await.unwrap();
}

#[tokio::test]
async fn status_is_printed_for_people_and_as_json() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let addr = server.addr.to_string();
    let operations = next(&mut server.out).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap().to_owned();
    let to = format!("-d db -c c --addr {addr}");
    publish(&to, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n").await;
    let status = format!("streamer status --operations {operations}");
    let shown = run(&words(&status), None).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for expected in [
        "ready",
        "events after 0 up to 2",
        "2 appended",
        "slowest streams",
    ] {
        assert!(shown.stdout.contains(expected), "{expected}: {shown:?}");
    }
    let json = run(&words(&format!("{status} --json")), None).await;
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (&report["log"]["head"], &report["address"]),
        (&2.into(), &addr.into())
    );
    // Waits for its end, too.
    server.child.kill().await.unwrap();
    let gone = run(&words(&status), None).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.stderr.contains("--operations"), "{gone:?}");
}

#[tokio::test]
async fn top_prints_one_report_where_there_is_no_terminal() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let operations = next(&mut server.out).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap().to_owned();
    publish(
        &format!("-d db -c c --addr {}", server.addr),
        "{\"id\":\"a\"}\n",
    )
    .await;
    let top = format!("top --operations {operations}");
    let report = run(&words(&top), None).await;
    assert_eq!(report.code, Some(0), "{report:?}");
    for expected in [
        "0/s entries, 0/s events",
        "events after 0 up to 1",
        "slowest streams\nnone",
        "expensive filters",
        "streams by lag",
    ] {
        assert!(report.stdout.contains(expected), "{expected}: {report:?}");
    }
    // Nothing that only a terminal understands.
    assert!(!report.stdout.contains('\u{1b}'), "{report:?}");
    server.child.kill().await.unwrap();
    let gone = run(&words(&top), None).await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.stderr.contains("--operations"), "{gone:?}");
}
