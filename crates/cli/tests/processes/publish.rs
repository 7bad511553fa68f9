//! The counts of `publish`, and what happens when it is interrupted or killed.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::{sleep, timeout},
};

use crate::{
    process::{LIMIT, Server, next, run, steadfast, words},
    streamer::send,
};

/// An address at which nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

#[tokio::test]
async fn each_of_twenty_lines_is_counted_once() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), "127.0.0.1:0").await;
    let mut input = String::new();
    for n in 1..=20 {
        match n {
            3 => input.push_str("not json\n"),
            9 => input.push('\n'),
            12 => writeln!(
                input,
                "{{\"id\":\"big\",\"t\":\"{}\"}}",
                "x".repeat(1 << 20)
            )
            .unwrap(),
            // Without a line break at the end.
            20 => input.push_str("{\"id\":\"d20\"}"),
            _ => writeln!(input, "{{\"id\":\"d{n}\"}}").unwrap(),
        }
    }
    let publish = format!("streamer publish -d db -c c --addr {}", server.addr);
    // Without a name, the same lines are published again.
    for _ in 0..2 {
        let ended = run(&words(&publish), Some(&input)).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let counts = "20 lines: 17 published, 0 duplicates, 1 refused, 1 faulty lines, 1 empty";
        for told in [counts, "line 3: not JSON", "line 12: refused"] {
            assert!(ended.stderr.contains(told), "{told}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn killed_publisher_goes_on_and_stores_each_line_once() {
    const LINES: u64 = 40_000;
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), "127.0.0.1:0").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lines.ndjson");
    let mut input = String::new();
    for n in 1..=LINES {
        match n {
            2 => input.push('\n'),
            LINES => input.push_str("not json"),
            n => writeln!(input, "{{\"id\":\"d{n}\",\"n\":{n}}}").unwrap(),
        }
    }
    fs::write(&file, &input).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let progress = format!("{file}.progress");
    let publish = format!("streamer publish {file} -d db -c c --addr {}", server.addr);

    let mut first = steadfast(&words(&publish)).spawn().unwrap();
    let began = Instant::now();
    let settled = loop {
        assert!(began.elapsed() < LIMIT, "no progress");
        let ended = first.try_wait().unwrap();
        assert!(ended.is_none(), "all was published before the kill");
        let stored = fs::read_to_string(&progress).unwrap_or_default();
        let stored: Value = serde_json::from_str(&stored).unwrap_or_default();
        match stored["settled"]["lines"].as_u64() {
            Some(lines) if lines > 0 => break lines,
            Some(_) | None => sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(settled < LINES);
    first.kill().await.unwrap();

    // The file must be the same.
    fs::write(&file, format!("{input}\n")).unwrap();
    let changed = run(&words(&publish), None).await;
    assert_eq!(changed.code, Some(1), "{changed:?}");
    assert!(changed.stderr.contains("has changed"), "{changed:?}");
    let stored = fs::read_to_string(&progress).unwrap();
    let mut stored: Value = serde_json::from_str(&stored).unwrap();
    fs::write(&file, &input).unwrap();
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    stored["file"]["modifiedNs"] = u64::try_from(modified.as_nanos()).unwrap().into();
    fs::write(&progress, stored.to_string()).unwrap();
    // A run that fails leaves the progress to the next.
    let nowhere = format!("streamer publish {file} -d db -c c --addr {NOWHERE} --max-retries 1");
    let failed = run(&words(&nowhere), None).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let kept: Value = serde_json::from_slice(&fs::read(&progress).unwrap()).unwrap();
    assert_eq!(kept, stored);

    let second = run(&words(&publish), None).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    for told in [
        "continuing after line ",
        "40 000 lines: 39 998 published, 0 duplicates, 0 refused, 1 faulty lines, 1 empty",
        "line 40000: not JSON",
    ] {
        assert!(second.stderr.contains(told), "{told}: {second:?}");
    }
    assert!(!fs::exists(&progress).unwrap(), "all is published");
    server.child.kill().await.unwrap();
    let dump = format!("streamer log dump --data {}", data.path().display());
    let dumped = run(&words(&dump), None).await;
    let numbers = dumped.stdout.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["data"]["n"].as_u64().unwrap()
    });
    assert!(
        numbers.eq((1..LINES).filter(|n| *n != 2)),
        "in order, each once"
    );
}

#[tokio::test]
async fn input_without_a_document_needs_no_server() {
    for (input, code, counts) in [
        ("", 0, "0 lines: 0 published"),
        ("\n\n", 0, "2 empty"),
        ("not json\n", 1, "1 faulty lines"),
    ] {
        let publish = format!("streamer publish -d db -c c --addr {NOWHERE}");
        let ended = run(&words(&publish), Some(input)).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains(counts), "{counts}: {ended:?}");
    }
}

#[tokio::test]
async fn interrupted_publisher_without_a_server_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lines.ndjson");
    fs::write(&file, "{\"id\":\"a\"}\n").unwrap();
    let publish = format!(
        "streamer publish {} -d db -c c --addr {NOWHERE}",
        file.display()
    );
    let mut child = steadfast(&words(&publish)).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    while !next(&mut told).await.unwrap().contains("not connected yet") {}
    let began = Instant::now();
    send("INT", &child);
    let status = timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    let mut rest = String::new();
    while let Some(line) = next(&mut told).await {
        rest += &line;
    }
    assert!(rest.contains("stopped early"), "{rest}");
    // Nothing was sent, so that there is nothing to continue.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn progress_can_be_kept_elsewhere_but_not_of_standard_input() {
    let refused = run(
        &words("streamer publish - -d db -c c --progress p"),
        Some(""),
    )
    .await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--progress"), "{refused:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lines.ndjson");
    fs::write(&file, "{\"id\":\"a\"}\n").unwrap();
    let publish = format!(
        "streamer publish {} -d db -c c --progress /dev/null/p --addr {NOWHERE}",
        file.display()
    );
    let failed = run(&words(&publish), None).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("/dev/null/p"), "{failed:?}");
}
