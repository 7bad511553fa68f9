use std::{fs, os::unix::fs::symlink};

use steadfast_wire::fodc::ObjectConsistency;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::uplink::source::SourceKind;

fn group(name: &str) -> GroupLifecycleInfo {
    GroupLifecycleInfo {
        name: name.to_owned(),
        ..GroupLifecycleInfo::default()
    }
}

fn write(directory: &TempDir, name: &str, bytes: &[u8]) {
    fs::write(directory.path().join(name), bytes).unwrap();
}

fn names(reports: &[LifecycleReport]) -> Vec<&str> {
    reports
        .iter()
        .map(|report| report.filename.as_str())
        .collect()
}

#[test]
fn newest_five_reports_are_read() {
    let directory = tempfile::tempdir().unwrap();
    for day in 1..=7 {
        write(&directory, &format!("2026-03-0{day}.json"), b"{\"a\":1}");
    }
    write(&directory, "2026-03-09.txt", b"no report");
    fs::create_dir(directory.path().join("2026-03-06x.json")).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    symlink(outside.path(), directory.path().join("2026-03-10.json")).unwrap();
    let limit = usize::try_from(REPORT_BYTES_MAX).unwrap();
    write(&directory, "2026-03-08.json", &vec![b' '; limit + 1]);
    let reports = read_reports(directory.path()).unwrap();
    assert_eq!(
        names(&reports),
        [
            "2026-03-07.json",
            "2026-03-06.json",
            "2026-03-05.json",
            "2026-03-04.json"
        ],
        "of the newest five files, one is too long"
    );
    assert_eq!(reports[0].report_json, "{\"a\":1}");
}

#[test]
fn missing_report_directory_has_no_reports() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none");
    assert_eq!(read_reports(&missing).unwrap(), []);
    write(&directory, "file", b"");
    assert!(read_reports(&directory.path().join("file")).is_err());
}

#[test]
fn schema_belongs_to_the_group_of_its_name() {
    let mut groups = [group("a"), group("b")];
    let state = GroupState {
        objects: vec![ObjectConsistency::default()],
        errors: vec!["e".to_owned()],
    };
    add_schema(&mut groups, BTreeMap::from([("b".to_owned(), state)]));
    assert_eq!(groups[0], group("a"));
    let schema = groups[1].schema_consistency.as_ref().unwrap();
    assert_eq!((schema.objects.len(), schema.status), (1, 0));
    assert_eq!(groups[1].errors, ["e"]);
}

/// Sends a message to a proxy with this limit, and returns what arrives.
async fn sent(message: StreamLifecycleRequest, limit: usize) -> Option<StreamLifecycleRequest> {
    let (sender, mut messages) = mpsc::channel(1);
    send(message, Responses::new(sender, limit, true)).await;
    let message = messages.recv().await?;
    Some(prost::Message::decode(message).unwrap())
}

#[tokio::test]
async fn long_answer_loses_its_oldest_reports_first() {
    let report = |name: &str| LifecycleReport {
        filename: name.to_owned(),
        report_json: "x".repeat(400),
    };
    let message = StreamLifecycleRequest {
        lifecycle_data: Some(LifecycleData {
            reports: vec![report("3"), report("2"), report("1")],
            groups: vec![group("a")],
        }),
        ..StreamLifecycleRequest::default()
    };
    for (limit, reports, groups) in [(2_000, 3, 1), (1_000, 2, 1), (200, 0, 1)] {
        let sent = sent(message.clone(), limit).await.unwrap();
        let data = sent.lifecycle_data.unwrap();
        assert_eq!((data.reports.len(), data.groups.len()), (reports, groups));
        assert_eq!(names(&data.reports), ["3", "2", "1"][..reports]);
        assert_eq!(sent.error.is_empty(), reports == 3);
    }
    assert_eq!(sent(message, 0).await, None, "no message fits");
}

/// A node that accepts connections and says nothing.
#[tokio::test(start_paused = true)]
async fn answer_outlasts_the_node() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let identity = watch::Sender::new(Identity::default());
    let source = LifecycleSource {
        node: Some(silent.local_addr().unwrap()),
        reports: None,
        cache_ttl: Duration::from_secs(600),
        identity: identity.subscribe(),
        clock: Arc::new(|| 0),
        cache: Mutex::default(),
    };
    let (sender, mut messages) = mpsc::channel(1);
    let query = StreamLifecycleResponse {
        request_lifecycle: true,
    };
    let begun = Instant::now();
    let responses = Responses::new(sender, 1 << 20, true);
    source.respond(query, responses).await;
    // The original asks twice for 40 s, one after the other (O46).
    assert!(
        begun.elapsed() < Lifecycle::TIME_LIMIT,
        "{:?}",
        begun.elapsed()
    );
    let answer = messages.recv().await.unwrap();
    let answer: StreamLifecycleRequest = prost::Message::decode(answer).unwrap();
    assert!(
        answer.error.contains("not responded within 40s"),
        "{}",
        answer.error
    );
}
