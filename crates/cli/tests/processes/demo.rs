//! The demo, and kills of a server under load, as processes of their own.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path};

use crate::process::{Ended, run, words};
use serde_json::Value;

#[tokio::test]
async fn a_short_demo_loses_nothing_and_reports_it() {
    let demo = "demo --duration 8s --json --publishers 2 --subscribers 8 --rate 200 --seed 3";
    let ended = run(&words(demo), None).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let count = |name: &str| {
        report[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {report}"))
    };
    for name in words("lost duplicated reordered unexpected altered unacknowledged") {
        assert_eq!(count(name), 0, "{name}: {report}");
    }
    for name in ["published", "delivered", "cuts"] {
        assert!(count(name) > 0, "{name}: {report}");
    }
    assert!(
        report["recovery_ms"]["max"].as_u64().unwrap() > 0,
        "{report}"
    );
    let faults: u64 = report["faults"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(faults, 2, "{report}");
}

#[tokio::test]
async fn kill_9_under_load_loses_doubles_and_reorders_nothing() {
    let ended = run(&words("kill9 --cycles 8 --rate 500 --seed 3 --json"), None).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["cycles"], 8, "{report}");
    for name in words("lost duplicated reordered unexpected altered gaps") {
        assert_eq!(report[name], 0, "{name}: {report}");
    }
    for name in words("acknowledged delivered killed_in_flight killed_starting") {
        assert!(report[name].as_u64().unwrap() > 0, "{name}: {report}");
    }
}

/// Runs two kills of a server whose second start, the one after the first kill, is replaced by this shell
/// script. In it, `$server` is the binary, `$port` the port of the first start, and `$dir` a directory.
async fn kill_with_second_start(script: &str, options: &str) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let port = port.unwrap().port();
    let text = format!(
        r#"#!/bin/sh
server={server}; port={port}; dir={dir}; starts="$dir/starts"
echo >> "$starts"
case $(wc -l < "$starts") in
    1) exec "$server" $(echo "$@" | sed "s/127.0.0.1:0/127.0.0.1:$port/") ;;
    2) {script} ;;
esac
exec "$server" "$@"
"#,
        server = env!("CARGO_BIN_EXE_steadfast"),
        dir = dir.path().display(),
    );
    let program = dir.path().join("server");
    write_program(&program, &text);
    let program = program.to_str().unwrap();
    // No start of this seed is killed before it is ready.
    let command = format!("kill9 --cycles 2 --seed 2 --json --binary {program} {options}");
    run(&words(&command), None).await
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn clients_of_a_killed_server_meet_no_other_one() {
    // The system gives the port to whoever asks next.
    let other = r#"exec 3<&0
        "$server" streamer serve --listen 127.0.0.1:$port --operations off --data "$dir/other" \
            --stop-with-stdin <&3 > /dev/null &
        sleep 1"#;
    let ended = kill_with_second_start(other, "").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    for (name, count) in [
        ("cycles", 2),
        ("killed_starting", 0),
        ("gaps", 0),
        ("lost", 0),
    ] {
        assert_eq!(report[name], count, "{name}: {report}");
    }
}

#[tokio::test]
async fn a_server_that_never_acknowledges_is_explained() {
    let dead = r#"echo "ready 127.0.0.1:1"; exec sleep 60"#;
    let ended = kill_with_second_start(dead, "--back-within 2s").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said = "no entry was acknowledged within 2.0 s after a restart";
    assert!(ended.stderr.contains(said), "{ended:?}");
    for publisher in 0..4 {
        let state = format!("publisher {publisher}: reconnecting since");
        assert!(ended.stderr.contains(&state), "{state}: {ended:?}");
    }
}
