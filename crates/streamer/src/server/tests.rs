//! The parts of the server that no socket is needed for.

use std::collections::BTreeMap;

use futures_util::{FutureExt as _, StreamExt as _};
use steadfast_wire::streamer::{HeartbeatAck, StreamerMessage, streamer_message::Payload};
use tonic::{Code, Status};

use super::{
    hub_task::{Commits, HubHandle, HubTask},
    outgoing::{Outgoing, Responses},
    *,
};
use crate::log::MemoryLog;

fn hub() -> (HubHandle, HubTask, Commits) {
    let log = MemoryLog::with_epoch(crate::Epoch(7));
    let reader = log.reader();
    let origin = Origin {
        server_id: "test".to_owned(),
        epoch: reader.epoch(),
        bounds: reader.bounds(),
        seed: [7; 32],
    };
    let hub = Hub::new(origin, Limits::default()).expect("the defaults work together");
    HubTask::new(hub, reader)
}

fn queue(handle: &HubHandle) -> (Outgoing, Responses) {
    Outgoing::new(handle.next_stream(), handle.clone())
}

fn message(timestamp: i64) -> StreamerMessage {
    let ack = HeartbeatAck {
        timestamp,
        ..HeartbeatAck::default()
    };
    StreamerMessage {
        payload: Some(Payload::HeartbeatAck(ack)),
    }
}

/// Everything that can be taken now, and the code of the end if it has come.
fn drained(responses: &mut Responses) -> (Vec<StreamerMessage>, Option<Code>) {
    let mut messages = Vec::new();
    while let Some(next) = responses.next().now_or_never() {
        match next {
            Some(Ok(message)) => messages.push(message),
            Some(Err(status)) => return (messages, Some(status.code())),
            None => return (messages, Some(Code::Ok)),
        }
    }
    (messages, None)
}

#[test]
fn a_queue_keeps_its_order_and_counts_what_was_taken() {
    let (handle, _task, _commits) = hub();
    let (outgoing, mut responses) = queue(&handle);
    for number in 0..3 {
        outgoing.push(message(number), 10);
    }
    assert_eq!(outgoing.taken(), (0, 0));
    let all = [0, 1, 2].map(message).to_vec();
    assert_eq!(drained(&mut responses), (all, None));
    assert_eq!(outgoing.taken(), (30, 3));
    assert_eq!(outgoing.taken(), (0, 0), "it is told once");
}

#[test]
fn the_end_of_a_queue_comes_after_or_instead_of_what_is_in_it() {
    let (handle, _task, _commits) = hub();
    let cases = [
        (true, Status::unavailable(""), vec![1, 9], Code::Unavailable),
        (false, Status::aborted(""), vec![9], Code::Aborted),
        (true, Status::ok(""), vec![1, 9], Code::Ok),
    ];
    for (flush, status, numbers, code) in cases {
        let (outgoing, mut responses) = queue(&handle);
        outgoing.push(message(1), 1);
        outgoing.end(Some(message(9)), status, flush);
        outgoing.push(message(10), 1);
        outgoing.end(None, Status::data_loss("the first end counts"), false);
        let numbers = numbers.into_iter().map(message).collect();
        assert_eq!(drained(&mut responses), (numbers, Some(code)));
        assert!(matches!(responses.next().now_or_never(), Some(None)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_is_woken_by_a_message_and_by_the_end() {
    let (handle, _task, _commits) = hub();
    let (outgoing, mut responses) = queue(&handle);
    let reading = tokio::spawn(async move {
        let first = responses.next().await;
        (first.is_some(), responses.next().await.is_none())
    });
    tokio::task::yield_now().await;
    outgoing.push(message(1), 1);
    tokio::task::yield_now().await;
    outgoing.end(None, Status::ok(""), true);
    assert_eq!(reading.await.expect("no panic"), (true, true));
}

#[tokio::test(start_paused = true)]
async fn s12_no_stream_outlives_the_hub_and_none_begins_after_it() {
    let mut ends = BTreeMap::new();
    for case in ["running", "not begun", "after it"] {
        let (handle, task, commits) = hub();
        let (outgoing, mut responses) = queue(&handle);
        let stop = CancellationToken::new();
        let over = match case {
            "running" => {
                let over = handle.opened(crate::hub::StreamId(0), outgoing);
                let running = tokio::spawn(task.run(stop));
                assert!(handle.stats().await.is_some());
                assert!(!over.is_cancelled());
                drop(commits);
                assert_eq!(running.await.expect("no panic"), "its log has stopped");
                over
            }
            "not begun" => {
                let over = handle.opened(crate::hub::StreamId(0), outgoing);
                drop(task);
                over
            }
            _ => {
                drop(task);
                handle.opened(crate::hub::StreamId(0), outgoing)
            }
        };
        assert!(over.is_cancelled(), "{case}: it is still read from");
        ends.insert(case, drained(&mut responses).1);
        assert!(handle.stats().await.is_none());
    }
    assert!(
        ends.values().all(|end| *end == Some(Code::Unavailable)),
        "{ends:?}"
    );
}
