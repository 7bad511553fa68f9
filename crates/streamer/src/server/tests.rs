//! Tests of the server without sockets.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use steadfast_net::{ResponseQueue, Responses};
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

fn queue(handle: &HubHandle) -> (ResponseQueue<Bytes>, Queued) {
    let observer = QueueObserver {
        hub: handle.clone(),
        stream: handle.next_stream(),
    };
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
        let (queue, mut responses) = queue(&handle);
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
