use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use steadfast_wire::fodc::RegisterAgentRequest;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    agent::{GROUPED_SAMPLES, STEP},
    *,
};
use crate::{
    config::Config,
    decode::{RawMetric, Sink as _},
    frames::Outbound,
    query::{Query, ResponsePart},
    registry::{AgentId, Identity},
    samples::{SampleCollector, Samples},
    time::UnixNanos,
};

fn identity(name: &str) -> Identity {
    Identity {
        role: "r".to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::new(),
        containers: Vec::new(),
        address: None,
        has_pod: true,
        instance: None,
    }
}

/// Returns this many samples of one series, a second apart.
fn samples(state: &State, count: usize) -> Samples {
    let mut samples = Samples::default();
    let identity = identity("db-0");
    let store = &state.store;
    let mut collector =
        SampleCollector::new(&store.catalog, &identity, &store.memory, &mut samples);
    for second in (0..).take(count) {
        collector.metric(&mut RawMetric {
            name: b"up",
            value: second as f64,
            time: Some(UnixNanos::from_parts(second, 0)),
            ..RawMetric::default()
        });
    }
    drop(collector);
    samples.finish(None, &store.catalog);
    samples
}

/// Registers agents that never respond by themselves, and returns the generations of their streams.
fn register(state: &State, names: &[&str]) -> Vec<u64> {
    let open = names.iter().map(|name| {
        let (id, request) = (
            AgentId::new(name),
            RegisterAgentRequest {
                node_role: "r".to_owned(),
                pod_name: (*name).to_owned(),
                ..RegisterAgentRequest::default()
            },
        );
        state.register(&id, &request, None).unwrap();
        let (outbound, _) = Outbound::new();
        let opened = state.agents().open_metrics(state.now(), &id, outbound);
        opened.unwrap()
    });
    open.collect()
}

fn respond(state: &State, name: &str, generation: u64, data: Samples) {
    let part = ResponsePart {
        request_id: 0,
        bytes: 0,
        samples: data.len(),
        more: false,
        from: None,
        data,
    };
    state.on_part(&AgentId::new(name), generation, part, true);
}

async fn gather(state: &Arc<State>) -> (Gathering, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(1));
    let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
    let (state, filter) = (Arc::clone(state), Filter::default());
    let time_limit = state.config.window_deadline;
    let gathering = Gathering::start(state, permit, Query::Latest, &filter, time_limit);
    (gathering.await, permits)
}

#[tokio::test(start_paused = true)]
async fn complete_agents_are_sent_before_the_slowest_responds() {
    let state = Arc::new(State::new(Config::default()));
    let streams = register(&state, &["db-0", "db-1", "db-2"]);
    let (gathering, permits) = gather(&state).await;
    respond(&state, "db-0", streams[0], samples(&state, 1));
    let began = Instant::now();
    let (mut windows, missing) = Windows::start(&state, gathering, Filter::default()).await;
    assert_eq!((missing, began.elapsed()), (None, FIRST_BYTES));
    let first = windows.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"[{\"agent_id\":\"db-0\",\"data\":[{"));
    assert_eq!(began.elapsed(), FIRST_BYTES);

    respond(&state, "db-2", streams[2], samples(&state, 1));
    let next = windows.next().await.unwrap().unwrap();
    assert!(next.starts_with(b",{\"agent_id\":\"db-2\",\"data\":[{"));
    // Nobody reads meanwhile: the deadline returns the permit nevertheless.
    tokio::time::sleep(state.config.window_deadline).await;
    assert_eq!(permits.available_permits(), 1);
    let mut body = [first, next].concat();
    while let Some(piece) = windows.next().await.unwrap() {
        body.extend_from_slice(&piece);
    }
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let last = &json[2];
    assert_eq!(last["name"], "steadfast_proxy_page_agents_missing");
    assert_eq!(last["data"][0]["value"], 1);
    let text = "Agents are missing in this response: 1; db-1=late";
    assert_eq!(last["description"], text);
    assert_eq!(json.as_array().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn response_without_its_last_agents_does_not_look_complete() {
    let state = Arc::new(State::new(Config::default()));
    register(&state, &["db-0"]);
    let (gathering, _permits) = gather(&state).await;
    let (mut windows, _) = Windows::start(&state, gathering, Filter::default()).await;
    assert_eq!(windows.next().await.unwrap().unwrap(), "[");
    state.tasks.cut();
    windows.next().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn other_tasks_run_between_short_steps_of_a_long_response() {
    let state = Arc::new(State::new(Config::default()));
    let streams = register(&state, &["db-0"]);
    let (gathering, _permits) = gather(&state).await;
    let groupings = 20;
    let count = groupings * GROUPED_SAMPLES;
    respond(&state, "db-0", streams[0], samples(&state, count));
    let (mut windows, _) = Windows::start(&state, gathering, Filter::default()).await;
    let (mut pauses, mut pieces, mut body) = (0, 0, Vec::new());
    loop {
        let piece = {
            let mut next = pin!(windows.next());
            // Each poll ends at a step or at a piece; nothing else is waited for.
            loop {
                match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(piece) => break piece.unwrap(),
                    Poll::Pending => pauses += 1,
                }
            }
        };
        let Some(piece) = piece else { break };
        assert!(piece.len() < PIECE + 1_024, "{} bytes", piece.len());
        pieces += 1;
        body.extend_from_slice(&piece);
    }
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json[0]["data"].as_array().unwrap().len(), count);
    assert!(pieces > 20, "{pieces} pieces");
    let steps = groupings + PIECE / STEP * (pieces - 1);
    assert!(pauses >= steps, "{pauses} pauses, {pieces} pieces");
}

#[tokio::test(start_paused = true)]
async fn pieces_may_end_anywhere_in_a_series() {
    let state = Arc::new(State::new(Config::default()));
    let streams = register(&state, &["db-0"]);
    for before in PIECE - 128..=PIECE {
        let (mut gathering, _permits) = gather(&state).await;
        respond(&state, "db-0", streams[0], samples(&state, 3));
        gathering.collect_for(FIRST_BYTES).await;
        let response = gathering.take_gathered().responses.remove(0);
        let mut agent = AgentJson::new(response, false);
        let (mut has_elements, mut body) = (false, "[".to_owned());
        // Something else has been written to the piece.
        let mut out = " ".repeat(before);
        while agent.step(&Filter::default(), &mut has_elements, &mut out) {
            if out.len() >= PIECE {
                body.push_str(&out);
                out.clear();
            }
        }
        body.push_str(&out);
        body.push(']');
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json[0]["data"].as_array().unwrap().len(), 3, "{before}");
    }
}
