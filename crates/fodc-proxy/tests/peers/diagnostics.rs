//! `/diagnostics` and `/pressure-profiles`, with agents of the newest version and with ours.

use std::time::Duration;

use prost_types::Timestamp;
use steadfast_fodc_proxy::Proxy;
use steadfast_wire::fodc::{
    CrashBreadcrumb, CrashPanicRecord, ListComplete, PressureProfileChunk, PressureProfileInfo,
    PressureProfileRecord, StreamCrashDiagnosticsRequest, StreamPressureProfilesRequest,
    StreamPressureProfilesResponse, stream_pressure_profiles_request::Payload,
    stream_pressure_profiles_response::Command,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    agent::{Agent, TIMEOUT, answer, labels, ours, pod},
    containing, eventually, get, start,
};

const ID: &str = "20260301T080000.000000000Z";
const MIB: usize = 1 << 20;

fn crash(artifact: &str) -> StreamCrashDiagnosticsRequest {
    StreamCrashDiagnosticsRequest {
        fetched_at: Some(Timestamp {
            seconds: 1_772_352_000,
            nanos: 0,
        }),
        source_endpoint: "file:///crash".to_owned(),
        artifact_dir: artifact.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn crashes_have_the_json_shape_of_the_original() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let whole = StreamCrashDiagnosticsRequest {
        panic_record: Some(CrashPanicRecord {
            occurred_at: Some(Timestamp {
                seconds: 1_772_352_000,
                nanos: 500_000_000,
            }),
            component: "measure".to_owned(),
            panic_value: "index <out> of range".to_owned(),
            recovered: true,
            goroutine_stack: "goroutine 1".to_owned(),
            breadcrumbs: vec![CrashBreadcrumb {
                stage: "flush".to_owned(),
                fields: labels(&[("part", "7")]),
                ..Default::default()
            }],
            process_metadata: labels(&[("pid", "1")]),
        }),
        files: vec!["panic.json".to_owned()],
        ..crash("a")
    };
    let plain = crash("b");
    let messages = [plain, whole];
    let _stream = answer!(agent, stream_crash_diagnostics, move |_| messages.to_vec());
    let begun = Instant::now();
    let page = get(&proxy, "/diagnostics").await;
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    assert_eq!(page.header("content-type"), Some("application/json"));
    assert_eq!(page.missing(), None);
    let expected = format!(
        "[{{\"fetched_at\":\"2026-03-01T08:00:00Z\",\"panic_record\":{{\"component\":\"measure\",\
         \"goroutine_stack\":\"goroutine 1\",\
         \"panic_value\":\"index \\u003cout\\u003e of range\",\
         \"occurred_at\":\"2026-03-01T08:00:00.5Z\",\"process_metadata\":{{\"pid\":\"1\"}},\
         \"breadcrumbs\":[{{\"occurred_at\":\"0001-01-01T00:00:00Z\",\"fields\":{{\"part\":\"7\"}},\
         \"stage\":\"flush\"}}],\"recovered\":true}},\"agent_id\":\"{id}\",\"pod_name\":\"db-0\",\
         \"role\":\"ROLE_DATA\",\"source_endpoint\":\"file:///crash\",\"artifact_dir\":\"a\",\
         \"files\":[\"panic.json\"]}},\
         {{\"fetched_at\":\"2026-03-01T08:00:00Z\",\"agent_id\":\"{id}\",\"pod_name\":\"db-0\",\
         \"role\":\"ROLE_DATA\",\"source_endpoint\":\"file:///crash\",\"artifact_dir\":\"b\"}}]\n",
        id = agent.id
    );
    assert_eq!(page.body, expected);
    let other = get(&proxy, "/diagnostics?pod_name=db-9").await;
    assert_eq!(other.body, "[]\n");
}

#[tokio::test]
async fn crash_is_listed_once_after_a_reconnect() {
    let proxy = start().await;
    let first = Agent::register(&proxy, ours("db-0", "first")).await;
    let _stream = answer!(first, stream_crash_diagnostics, |_| ended(vec![crash("a")]));
    assert_eq!(
        get(&proxy, "/diagnostics").await.json()[0]["agent_id"],
        *first.id
    );
    let second = Agent::register(&proxy, ours("db-0", "second")).await;
    let _second = answer!(second, stream_crash_diagnostics, |_| ended(vec![crash(
        "a"
    )]));
    drop(first);
    let page = eventually(&proxy, "/diagnostics", |page| page.missing().is_none()).await;
    assert_eq!(page.json().as_array().unwrap().len(), 1, "{}", page.body);
    assert_eq!(page.json()[0]["agent_id"], *second.id);
}

/// Adds the end marker of our agents.
fn ended(mut messages: Vec<StreamCrashDiagnosticsRequest>) -> Vec<StreamCrashDiagnosticsRequest> {
    messages.push(StreamCrashDiagnosticsRequest {
        complete: true,
        ..Default::default()
    });
    messages
}

#[tokio::test]
async fn crashes_of_our_agents_are_not_waited_for() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, ours("db-0", "i")).await;
    let _stream = answer!(agent, stream_crash_diagnostics, |_| ended(vec![crash("a")]));
    let begun = Instant::now();
    let page = get(&proxy, "/diagnostics").await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(page.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn pages_without_a_source_say_so() {
    let proxy = start().await;
    for path in ["/diagnostics", "/pressure-profiles"] {
        assert_eq!(get(&proxy, path).await.body, "[]\n", "no agent at all");
    }
    let _agent = Agent::register(&proxy, pod("db-0", "r")).await;
    for (path, text) in [
        ("/diagnostics", "--crash-source-dir"),
        ("/pressure-profiles", "--pressure-profiler-enabled"),
    ] {
        let page = get(&proxy, path).await;
        assert_eq!(page.status, 501, "{path}");
        assert!(page.body.contains(text), "{}", page.body);
    }
}

fn record(id: &str, size: usize) -> StreamPressureProfilesRequest {
    payload(Payload::Record(PressureProfileRecord {
        profile_id: id.to_owned(),
        captured_at: Some(Timestamp {
            seconds: 1_772_352_000,
            nanos: 0,
        }),
        source_endpoint: "http://localhost:6060".to_owned(),
        rss_bytes: 800,
        cgroup_limit_bytes: 1_000,
        trigger_percent: 75,
        threshold_bytes: 750,
        profiles: vec![PressureProfileInfo {
            r#type: "heap".to_owned(),
            filename: "heap.pprof".to_owned(),
            filepath: format!("/p/{id}/heap.pprof"),
            format: "pprof".to_owned(),
            size_bytes: i64::try_from(size).unwrap(),
        }],
    }))
}

fn payload(payload: Payload) -> StreamPressureProfilesRequest {
    StreamPressureProfilesRequest {
        payload: Some(payload),
    }
}

/// Answers like an agent with one profile, which it lists with one size and sends in these chunks. An
/// error ends the chunks instead of an empty last one.
fn profiles(
    listed: usize,
    chunks: Vec<Vec<u8>>,
    error: &'static str,
) -> impl FnMut(StreamPressureProfilesResponse) -> Vec<StreamPressureProfilesRequest> + Send + 'static
{
    move |query| match query.command {
        Some(Command::ListProfiles(list)) => {
            let end = Payload::ListComplete(ListComplete {
                request_id: list.request_id,
            });
            vec![record(ID, listed), payload(end)]
        }
        Some(Command::FetchProfile(fetch)) => {
            assert_eq!(fetch.filepath, format!("/p/{ID}/heap.pprof"));
            let chunk = |data: &[u8], last, error: &str| {
                payload(Payload::Chunk(PressureProfileChunk {
                    request_id: fetch.request_id.clone(),
                    data: data.to_vec().into(),
                    last,
                    error: error.to_owned(),
                    ..Default::default()
                }))
            };
            let data = chunks.iter().map(|data| chunk(data, false, ""));
            data.chain([chunk(&[], true, error)]).collect()
        }
        None => vec![],
    }
}

fn download(pod: &str) -> String {
    format!("/pressure-profiles/{pod}/{ID}/heap")
}

#[tokio::test]
async fn profiles_are_listed_and_downloaded() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let chunks = vec![vec![b'x'; MIB], vec![b'y'; 3]];
    let _stream = answer!(
        agent,
        stream_pressure_profiles,
        profiles(MIB + 3, chunks, "")
    );
    let page = get(&proxy, "/pressure-profiles").await;
    let expected = format!(
        "[{{\"captured_at\":\"2026-03-01T08:00:00Z\",\"agent_id\":\"{}\",\"pod_name\":\"db-0\",\
         \"role\":\"ROLE_DATA\",\"profile_id\":\"{ID}\",\
         \"source_endpoint\":\"http://localhost:6060\",\"profiles\":[{{\"type\":\"heap\",\
         \"filename\":\"heap.pprof\",\"filepath\":\"/p/{ID}/heap.pprof\",\"format\":\"pprof\",\
         \"size_bytes\":1048579}}],\"rss_bytes\":800,\"cgroup_limit_bytes\":1000,\
         \"threshold_bytes\":750,\"trigger_percent\":75}}]\n",
        agent.id
    );
    assert_eq!(page.body, expected);
    let file = get(&proxy, &download("DB-0")).await;
    assert_eq!(file.status, 200);
    assert_eq!(
        file.header("content-type"),
        Some("application/octet-stream")
    );
    let name = format!("attachment; filename=\"db-0-ROLE_DATA-{ID}-heap.pprof\"");
    assert_eq!(file.header("content-disposition"), Some(&*name));
    assert_eq!(file.body.len(), MIB + 3);
    assert!(file.body.ends_with("xyyy"));
    for (path, status) in [
        (format!("/pressure-profiles/db-0/{ID}/cpu"), 400),
        (format!("/pressure-profiles/db-0/{ID}/goroutine"), 404),
        ("/pressure-profiles/db-0/1/heap".to_owned(), 404),
        (download("db-9"), 404),
    ] {
        assert_eq!(get(&proxy, &path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn download_that_is_refused_has_an_error_status() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let refusal = "filepath escapes pressure-profiler dir";
    let _stream = answer!(
        agent,
        stream_pressure_profiles,
        profiles(9, vec![], refusal)
    );
    // Also without a list before: the proxy makes one.
    let page = get(&proxy, &download("db-0")).await;
    assert_eq!(page.status, 404);
    assert!(page.body.contains(refusal), "{}", page.body);
}

#[tokio::test]
async fn download_that_fails_midway_does_not_end_like_a_whole_one() {
    for (listed, error) in [(MIB, "disk error"), (MIB + 1, ""), (MIB - 1, "")] {
        let proxy = start().await;
        let agent = Agent::register(&proxy, pod("db-0", "r")).await;
        let script = profiles(listed, vec![vec![b'x'; MIB]], error);
        let _stream = answer!(agent, stream_pressure_profiles, script);
        let mut socket = requested(&proxy, &download("db-0")).await;
        let mut bytes = Vec::new();
        timeout(TIMEOUT, socket.read_to_end(&mut bytes))
            .await
            .unwrap()
            .ok();
        let text = String::from_utf8(bytes).unwrap();
        // A reset may take what has arrived with it.
        assert!(!text.ends_with("0\r\n\r\n"), "{listed} {error}");
    }
}

/// Sends a request and leaves the response in the socket.
async fn requested(proxy: &Proxy, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(proxy.http_address()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

#[tokio::test]
async fn slow_download_delays_no_other_agent_and_no_other_page() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let _metrics = agent.responding(vec![]).await;
    let _crashes = answer!(agent, stream_crash_diagnostics, |_| ended(vec![crash("a")]));
    let chunks = vec![vec![b'x'; MIB]; 60];
    let _stream = answer!(
        agent,
        stream_pressure_profiles,
        profiles(60 * MIB, chunks, "")
    );
    let other = Agent::register(&proxy, ours("db-1", "j")).await;
    let _other = answer!(
        other,
        stream_pressure_profiles,
        profiles(2, vec![b"ok".to_vec()], "")
    );
    let page = get(&proxy, "/pressure-profiles").await;
    assert_eq!(page.json().as_array().unwrap().len(), 2);
    // Reads the head, and no more.
    let mut slow = requested(&proxy, &download("db-0")).await;
    slow.read_u8().await.unwrap();
    sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    let page = get(&proxy, "/pressure-profiles").await;
    assert_eq!(page.json().as_array().unwrap().len(), 2, "{}", page.body);
    let missing = page.missing().unwrap();
    assert!(
        missing.starts_with("1; db-0=sending a profile"),
        "{missing}"
    );
    for path in ["/metrics?pod_name=db-0", "/diagnostics?pod_name=db-0"] {
        let page = get(&proxy, path).await;
        assert_eq!((page.status, page.missing()), (200, None), "{path}");
    }
    assert_eq!(get(&proxy, &download("db-1")).await.body, "ok");
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    // A few chunks are in memory, not the file.
    let own = get(&proxy, "/self-metrics").await.body;
    let line = own
        .lines()
        .find(|line| line.starts_with("steadfast_proxy_stream_bytes "));
    let bytes: usize = line
        .unwrap()
        .split(' ')
        .next_back()
        .unwrap()
        .parse()
        .unwrap();
    assert!(bytes <= 32 * MIB, "{bytes}");
}

#[tokio::test]
async fn list_replaces_the_one_before_and_waits_for_nobody_who_left() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let mut ids = ["a", "b"].into_iter();
    let _stream = answer!(
        agent,
        stream_pressure_profiles,
        move |query: StreamPressureProfilesResponse| {
            let Some(Command::ListProfiles(list)) = query.command else {
                return vec![];
            };
            let end = Payload::ListComplete(ListComplete {
                request_id: list.request_id,
            });
            vec![record(ids.next().unwrap_or("c"), 1), payload(end)]
        }
    );
    for id in ["a", "b"] {
        let page = get(&proxy, "/pressure-profiles").await.json();
        assert_eq!(page.as_array().unwrap().len(), 1);
        assert_eq!(page[0]["profile_id"], id);
    }
    let leaves = Agent::register(&proxy, pod("db-1", "r")).await;
    let silent = answer!(
        leaves,
        stream_pressure_profiles,
        |_: StreamPressureProfilesResponse| vec![]
    );
    let leaving = async {
        containing(
            &proxy,
            "/self-metrics",
            "queries_total{stream=\"pressure\"} 4",
        )
        .await;
        drop((silent, leaves));
    };
    let begun = Instant::now();
    let (page, ()) = tokio::join!(get(&proxy, "/pressure-profiles"), leaving);
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "{:?}",
        begun.elapsed()
    );
    let missing = page.missing().unwrap();
    assert!(missing.starts_with("1; db-1=stream ended"), "{missing}");
    assert_eq!(page.json()[0]["profile_id"], "c");
}
