//! The Puller service: a consumer of the events of the log, without the defects of the original.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{collections::BTreeSet, path::Path, time::Duration};

use steadfast_streamer::{
    Entry, Epoch,
    Operation::{Delete, Insert},
    Publisher, SegmentLog, StoreOptions,
    log::{Log as _, MemoryLog},
    server::{Server, ServerOptions},
};
use steadfast_streamer_core::puller::{Progress, SourceId, transform};
use steadfast_wire::puller::{
    PullerEvent, SubscribeRequest, puller_service_client::PullerServiceClient,
};
use support::{DATABASE, channel, publish, serve, soon};
use tokio::net::TcpListener;
use tonic::{Code, Status, Streaming};

fn with_heartbeats() -> ServerOptions {
    let mut options = ServerOptions::default();
    options.puller_heartbeat = Duration::from_millis(50);
    options
}

async fn try_consume(
    server: &Server,
    after: &str,
    merged: bool,
) -> Result<Streaming<PullerEvent>, Status> {
    let mut client = PullerServiceClient::new(channel(server.address()).await)
        .max_decoding_message_size(16 << 20);
    let call = client.subscribe(SubscribeRequest {
        consumer_id: "consumer".to_owned(),
        after: after.to_owned(),
        coalesce_on_catch_up: merged,
    });
    soon(call).await.map(tonic::Response::into_inner)
}

async fn consume(server: &Server, after: &str) -> Streaming<PullerEvent> {
    try_consume(server, after, false).await.unwrap()
}

/// The marker that asks for everything.
fn oldest() -> String {
    let start = ("steadfast".to_owned(), "0-0-0000000000000000".to_owned());
    let backends = [start].into();
    Progress { backends }.to_string()
}

async fn next(stream: &mut Streaming<PullerEvent>) -> PullerEvent {
    soon(stream.message()).await.unwrap().expect("a message")
}

/// Returns the next changes, and the messages that carry them.
async fn changes(stream: &mut Streaming<PullerEvent>, count: usize) -> Vec<PullerEvent> {
    let mut changes = Vec::new();
    while changes.len() < count {
        let event = next(stream).await;
        if event.change_event.is_some() {
            changes.push(event);
        }
    }
    changes
}

fn ids(events: &[PullerEvent]) -> Vec<String> {
    let changes = events
        .iter()
        .filter_map(|event| event.change_event.as_ref());
    let id = |change| match transform(change).unwrap().id {
        SourceId::Named(id) => id,
        SourceId::Hashed(_) => panic!("the document has no name"),
    };
    changes.map(id).collect()
}

fn names(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!("u{number}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catch_up_is_followed_by_live_changes() {
    let server = serve(with_heartbeats()).await;
    publish(server.address(), "users", 0..600, 0).await;
    let mut stream = consume(&server, &oldest()).await;
    let received = changes(&mut stream, 600).await;
    assert_eq!(ids(&received), names(0..600));
    publish(server.address(), "users", 600..610, 0).await;
    assert_eq!(ids(&changes(&mut stream, 10).await), names(600..610));
    // From a marker in the middle, and from now on.
    let mut resumed = consume(&server, &received[549].progress).await;
    assert_eq!(ids(&changes(&mut resumed, 60).await), names(550..610));
    let mut live = consume(&server, "").await;
    assert!(next(&mut live).await.change_event.is_none(), "a heartbeat");
    publish(server.address(), "users", 610..611, 0).await;
    assert_eq!(ids(&changes(&mut live, 1).await), names(610..611));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_with_one_id_receive_everything() {
    let server = serve(with_heartbeats()).await;
    let mut first = consume(&server, "").await;
    next(&mut first).await;
    let mut second = consume(&server, "").await;
    next(&mut second).await;
    publish(server.address(), "users", 0..3, 0).await;
    assert_eq!(ids(&changes(&mut first, 3).await), names(0..3));
    drop(first);
    publish(server.address(), "users", 3..6, 0).await;
    assert_eq!(ids(&changes(&mut second, 6).await), names(0..6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_changes_have_one_time() {
    let server = serve(with_heartbeats()).await;
    publish(server.address(), "users", 0..200, 0).await;
    let mut stream = consume(&server, &oldest()).await;
    let received = changes(&mut stream, 200).await;
    let times: BTreeSet<_> = received
        .iter()
        .filter_map(|event| event.change_event.as_ref()?.cluster_time)
        .map(|time| (time.t, time.i))
        .collect();
    assert_eq!(times.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_before_the_first_change_loses_nothing() {
    let server = serve(with_heartbeats()).await;
    let mut stream = consume(&server, "").await;
    let marker = next(&mut stream).await.progress;
    assert_ne!(marker, "");
    drop(stream);
    publish(server.address(), "users", 0..2, 0).await;
    let mut resumed = consume(&server, &marker).await;
    assert_eq!(ids(&changes(&mut resumed, 2).await), names(0..2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marker_of_another_puller_is_refused() {
    let server = serve(with_heartbeats()).await;
    for after in ["eyJwIjp7ImIxIjoiMTItMS1hYSJ9fQ", "not a marker"] {
        let status = try_consume(&server, after, false).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let begin = "invalid 'after' progress marker: ";
        assert!(status.message().starts_with(begin), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marker_before_the_oldest_change_is_refused() {
    let mut log = MemoryLog::with_epoch(Epoch(7));
    let entry = |sequence| {
        let document = steadfast_streamer::log::DocumentKey::new(DATABASE, "users", "u1");
        steadfast_streamer::log::Submission::new("p", sequence, document, "{}")
    };
    log.append((1..=10).map(entry).collect(), 1).unwrap();
    log.trim(6).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(listener, Box::new(log), with_heartbeats()).unwrap();
    let marker = |id: &str| {
        let backends = [("steadfast".to_owned(), id.to_owned())].into();
        Progress { backends }.to_string()
    };
    for (id, kept) in [
        ("0-6-0000000000000007", true),
        ("0-5-0000000000000007", false),
        ("0-11-0000000000000007", false),
        ("0-7-0000000000000008", false),
    ] {
        match try_consume(&server, &marker(id), false).await {
            Ok(mut stream) => {
                assert!(kept, "{id}");
                assert_eq!(changes(&mut stream, 4).await.len(), 4);
            }
            Err(status) => {
                assert!(!kept, "{id}");
                assert_eq!(status.code(), Code::OutOfRange, "{id}");
                let advice = "read the state anew";
                assert!(status.message().contains(advice), "{status:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merged_changes_keep_backend_kind_and_marker() {
    let server = serve(with_heartbeats()).await;
    let publisher = Publisher::builder(server.address().to_string())
        .build()
        .unwrap();
    for (id, deletes) in [
        ("a", false),
        ("a", false),
        ("b", false),
        ("a", false),
        ("b", true),
    ] {
        let entry = if deletes {
            Entry::delete(DATABASE, "users", id)
        } else {
            Entry::upsert(DATABASE, "users", id, r#"{"n":1}"#)
        };
        soon(publisher.publish(entry)).await.unwrap();
    }
    publisher.close().await;
    let mut stream = try_consume(&server, &oldest(), true).await.unwrap();
    let received = changes(&mut stream, 2).await;
    let kinds: Vec<_> = received
        .iter()
        .filter_map(|event| event.change_event.as_ref())
        .map(|change| {
            (
                change.backend.as_str(),
                transform(change).unwrap().operation,
            )
        })
        .collect();
    assert_eq!(kinds, [("steadfast", Insert), ("steadfast", Delete)]);
    // Live changes are not merged, and come after the merged ones.
    publish(server.address(), "users", 0..1, 0).await;
    publish(server.address(), "users", 0..1, 0).await;
    assert_eq!(ids(&changes(&mut stream, 2).await), ["u0", "u0"]);
    let mut resumed = consume(&server, &received[1].progress).await;
    assert_eq!(ids(&changes(&mut resumed, 2).await), ["u0", "u0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_consumer_receives_every_change() {
    let server = serve(with_heartbeats()).await;
    let mut slow = consume(&server, "").await;
    let mut quick = consume(&server, "").await;
    next(&mut slow).await;
    next(&mut quick).await;
    // Far more than windows and buffers hold.
    publish(server.address(), "users", 0..400, 64 << 10).await;
    assert_eq!(ids(&changes(&mut quick, 400).await), names(0..400));
    assert_eq!(ids(&changes(&mut slow, 400).await), names(0..400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delete_names_its_document() {
    let server = serve(with_heartbeats()).await;
    publish(server.address(), "users", 0..1, 0).await;
    let publisher = Publisher::builder(server.address().to_string())
        .build()
        .unwrap();
    let delete = Entry::delete(DATABASE, "users", "u0");
    soon(publisher.publish(delete)).await.unwrap();
    let mut stream = consume(&server, &oldest()).await;
    let received = changes(&mut stream, 2).await;
    let change = received[1].change_event.as_ref().unwrap();
    assert_eq!(
        (change.op_type.as_str(), change.database.as_str()),
        ("update", DATABASE)
    );
    let deleted = transform(change).unwrap();
    assert_eq!(deleted.operation, Delete);
    assert_eq!(deleted.id, SourceId::Named("u0".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marker_stays_valid_after_a_restart_and_not_on_a_copy() {
    let directory = tempfile::tempdir().unwrap();
    let start = async |path: &Path| {
        let term = Epoch(uuid::Uuid::new_v4().as_u64_pair().0);
        let log = SegmentLog::open(path, &StoreOptions::new(term)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Server::start(listener, Box::new(log), with_heartbeats()).unwrap()
    };
    let server = start(directory.path()).await;
    publish(server.address(), "users", 0..2, 0).await;
    server.drain(Duration::ZERO, "test").await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }

    let server = start(directory.path()).await;
    publish(server.address(), "users", 2..4, 0).await;
    let mut stream = consume(&server, &oldest()).await;
    let received = changes(&mut stream, 4).await;
    let mut resumed = consume(&server, &received[1].progress).await;
    assert_eq!(ids(&changes(&mut resumed, 2).await), names(2..4));
    let copied = start(copy.path()).await;
    publish(copied.address(), "users", 7..9, 0).await;
    let refused = try_consume(&copied, &received[2].progress, false).await;
    assert_eq!(refused.unwrap_err().code(), Code::OutOfRange);
}
