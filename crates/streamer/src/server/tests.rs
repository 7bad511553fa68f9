//! Tests of the server without sockets.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use steadfast_net::{ClientKey, KeyedPermit, KeyedPermits, ResponseQueue, Responses};
use tonic::Code;

use super::{
    hub_handle::HubHandle,
    hub_task::{CommitSender, HubTask},
    stream_service::QueueObserver,
    *,
};
use crate::log::MemoryLog;

type Queued = Responses<Bytes, QueueObserver>;

fn hub() -> (HubHandle, HubTask, CommitSender) {
    let log = MemoryLog::with_epoch(crate::Epoch(7));
    let reader = log.reader();
    let initial = InitialState {
        server_id: "test".to_owned(),
        terms: reader.terms(),
        bounds: reader.bounds(),
        seed: [7; 32],
    };
    let hub = Hub::new(initial, Limits::default()).expect("the defaults work together");
    HubTask::new(hub, reader, AccessControl::default())
}

fn queue(handle: &HubHandle, permit: Option<KeyedPermit>) -> (ResponseQueue<Bytes>, Queued) {
    let observer = QueueObserver::new(handle.clone(), handle.next_stream(), permit);
    ResponseQueue::new(usize::MAX, observer)
}

/// Returns the status code of the stream if it has ended.
fn end_code(responses: &mut Queued) -> Option<Code> {
    match responses.next().now_or_never()? {
        Some(Ok(message)) => panic!("not the end: {message:?}"),
        Some(Err(status)) => Some(status.code()),
        None => Some(Code::Ok),
    }
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_the_hub_and_none_opens_later() {
    let mut ends = BTreeMap::new();
    for case in ["running", "not started", "stopped"] {
        let (handle, task, commits) = hub();
        let (queue, mut responses) = queue(&handle, None);
        let stop = CancellationToken::new();
        let ended = match case {
            "running" => {
                let ended = handle.open(StreamId(0), queue, None, None);
                let running = tokio::spawn(task.run(stop));
                assert!(handle.stats().await.is_some());
                assert!(!ended.is_cancelled());
                drop(commits);
                assert_eq!(running.await.expect("no panic"), "its log has stopped");
                ended
            }
            "not started" => {
                let ended = handle.open(StreamId(0), queue, None, None);
                drop(task);
                ended
            }
            _ => {
                drop(task);
                handle.open(StreamId(0), queue, None, None)
            }
        };
        assert!(ended.is_cancelled(), "{case}: the stream is still read");
        ends.insert(case, end_code(&mut responses));
        assert!(handle.stats().await.is_none());
    }
    assert!(
        ends.values().all(|end| *end == Some(Code::Unavailable)),
        "{ends:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn ended_call_counts_and_keeps_no_queue_while_it_is_unread() {
    let (handle, task, _commits) = hub();
    let permits = KeyedPermits::new(1);
    let alice = || permits.try_acquire(ClientKey::Principal("alice".into()));
    let (queue, mut responses) = queue(&handle, alice());
    queue.push(Bytes::from_static(b"unread"), 6).unwrap();
    let ended = handle.open(StreamId(0), queue, None, None);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    // The peer has ended its half, and reads nothing.
    handle.send(HubMessage::Ended(StreamId(0)));
    ended.cancelled().await;
    assert!(alice().is_none());
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(end_code(&mut responses), Some(Code::ResourceExhausted));
    assert!(alice().is_none());
    drop(responses);
    assert!(alice().is_some());
    stop.cancel();
    running.abort();
}
