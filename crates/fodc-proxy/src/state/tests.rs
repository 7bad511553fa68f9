use std::time::Duration;

use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use steadfast_net::Responses;
use steadfast_wire::fodc::AgentProfile;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    agents::PendingResponse,
    filter::Filter,
    frames::Outbound,
    gather::Gathering,
    query::{MetricNames, Outcome, Query, Reason},
    query_queue::SliceShare,
    time::{UnixNanos, Window},
};

fn pod(name: &str, instance: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        node_role: "r".to_owned(),
        pod_name: name.to_owned(),
        profile: (!instance.is_empty()).then(|| AgentProfile {
            version: 1,
            instance: instance.to_owned(),
            ..AgentProfile::default()
        }),
        ..RegisterAgentRequest::default()
    }
}

fn id(text: &str) -> AgentId {
    AgentId::new(text)
}

async fn after(state: &State, span: Duration) {
    tokio::time::advance(span).await;
    state.on_tick(state.now());
}

fn query(state: &State) -> PendingResponse {
    let deadline = state.now() + Duration::from_secs(2);
    let mut agents = state.agents();
    let selected = agents.select(|_| true);
    let query = (Query::Latest, SliceShare::among(1));
    let names = MetricNames::default();
    let mut queried = agents.query(state.now(), query, &names, deadline, &selected);
    queried.pop().expect("one agent")
}

fn outcome(pending: PendingResponse) -> Outcome<Samples> {
    let queried = pending.now_or_never().expect("an outcome");
    queried.outcome.expect("an agent that is known")
}

/// The response of an agent with the profile to its first request.
fn first_response() -> ResponsePart<Samples> {
    ResponsePart {
        request_id: 1,
        bytes: 0,
        samples: 1,
        more: false,
        from: None,
        data: Samples::default(),
    }
}

fn is_missing(outcome: &Outcome<Samples>, reason: Reason) -> bool {
    matches!(outcome, Outcome::Missing(why) if *why == reason)
}

/// Opens a metrics stream of an agent and returns its generation.
/// The generation of a stream, and what is sent on it.
type OpenStream = (u64, Outbound, Responses<bytes::Bytes>);

fn open_metrics(state: &State, agent: &AgentId) -> OpenStream {
    let (outbound, responses) = Outbound::new();
    let mut agents = state.agents();
    let opened = agents.open_metrics(state.now(), agent, outbound.clone());
    (opened.unwrap(), outbound, responses)
}

/// Returns true if a request was sent.
async fn is_requested(responses: &mut Responses<bytes::Bytes>) -> bool {
    let frame = tokio::time::timeout(Duration::from_millis(1), responses.frame()).await;
    matches!(frame, Ok(Some(Ok(frame))) if frame.is_data())
}

#[tokio::test(start_paused = true)]
async fn unresponsiveness_survives_reregistration_until_a_response() {
    let state = State::new(Config::default());
    state.register(&id("a"), &pod("db-0", "i"), None).unwrap();
    let (_, _outbound, mut responses) = open_metrics(&state, &id("a"));
    let late = query(&state);
    assert!(is_requested(&mut responses).await);
    after(&state, Duration::from_secs(3)).await;
    assert!(is_missing(&outcome(late), Reason::Late));

    state.register(&id("b"), &pod("db-0", "i"), None).unwrap();
    let (generation, _outbound, mut responses) = open_metrics(&state, &id("b"));
    assert!(is_requested(&mut responses).await, "a probe, at once");
    assert!(is_missing(&outcome(query(&state)), Reason::Unresponsive));
    state.on_part(&id("b"), generation, first_response(), true);
    let waiting = query(&state);
    assert!(waiting.now_or_never().is_none(), "it is waited for again");
}

#[tokio::test(start_paused = true)]
async fn evicted_agent_passes_no_state_to_another() {
    let config = Config {
        max_agents: 1,
        ..Config::default()
    };
    let state = State::new(config);
    for name in ["a", "b"] {
        state.register(&id(name), &pod(name, ""), None).unwrap();
        let _stream = open_metrics(&state, &id(name));
        query(&state);
        after(&state, Duration::from_secs(3)).await;
        state.leave(&id(name));
    }
    state.register(&id("c"), &pod("c", ""), None).unwrap();
    let summaries = state.agents().summaries(state.now());
    let known: Vec<(&str, bool)> = summaries
        .iter()
        .map(|one| (one.agent.id.as_str(), one.unresponsive))
        .collect();
    assert_eq!(known, [("b", true), ("c", false)]);
}

#[tokio::test(start_paused = true)]
async fn cleanup_timeout_forgets_the_agent_and_ends_its_streams() {
    let state = State::new(Config::default());
    let end = state.register(&id("a"), &pod("db-0", ""), None).unwrap();
    let held = state
        .agents()
        .open_stream(&id("a"), "StreamLifecycle")
        .unwrap();
    after(&state, Duration::from_secs(300)).await;
    assert_eq!(state.census(), (0, 1));
    assert!(!end.is_cancelled());
    after(&state, Duration::from_millis(1)).await;
    assert_eq!(state.census(), (0, 0));
    assert!(end.is_cancelled() && held.is_cancelled());
    assert!(
        state
            .heartbeat(&id("a"), &RegisterAgentRequest::default())
            .is_err()
    );
    assert!(
        state
            .agents()
            .open_stream(&id("a"), "StreamLifecycle")
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn agents_queried_last_also_become_unresponsive() {
    let state = Arc::new(State::new(Config::default()));
    let permits = Arc::new(Semaphore::new(1));
    let mut held = Vec::new();
    for number in 0..100 {
        let agent = id(&number.to_string());
        state
            .register(&agent, &pod(&format!("db-{number}"), ""), None)
            .unwrap();
        held.push(open_metrics(&state, &agent));
    }
    let time_limit = state.config.agent_deadline;
    let took = async || {
        let began = Instant::now();
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        let (state, filter) = (Arc::clone(&state), Filter::default());
        let gathering = Gathering::start(state, permit, Query::Latest, &filter, time_limit);
        let gathered = gathering.await.all().await;
        assert_eq!(gathered.missing.len(), 100);
        began.elapsed()
    };
    assert!(took().await >= time_limit);
    assert!(took().await < time_limit / 2, "all are known to be silent");
}

/// Returns how many streams have got a request since the last call.
async fn count_requests(streams: &mut [OpenStream]) -> usize {
    let mut count = 0;
    for (_, _, responses) in streams {
        count += usize::from(is_requested(responses).await);
    }
    count
}

/// Registers forty agents, and queries a window of each.
fn forty_windows(state: &State) -> (Vec<AgentId>, Vec<OpenStream>, Vec<PendingResponse>) {
    let agents: Vec<AgentId> = (0..40).map(|number| id(&format!("{number:02}"))).collect();
    let open = agents.iter().map(|agent| {
        let registered = state.register(agent, &pod(agent.as_str(), agent.as_str()), None);
        registered.unwrap();
        open_metrics(state, agent)
    });
    let streams: Vec<_> = open.collect();
    let window = Window::new(UnixNanos::from_nanos(0), UnixNanos::from_nanos(1)).unwrap();
    let share = SliceShare::among(agents.len());
    let (now, names) = (state.now(), MetricNames::default());
    let (query, deadline) = (Query::Window(window), now + state.config.window_deadline);
    let waiting = {
        let mut all = state.agents();
        all.query(now, (query, share), &names, deadline, &agents)
    };
    (agents, streams, waiting)
}

#[tokio::test(start_paused = true)]
async fn few_agents_send_windows_at_a_time_and_silent_ones_delay_none() {
    let state = State::new(Config::default());
    let (agents, mut streams, waiting) = forty_windows(&state);
    assert_eq!(
        (waiting.len(), count_requests(&mut streams).await),
        (40, 16)
    );
    // A response makes space for one other.
    state.on_part(&agents[0], streams[0].0, first_response(), true);
    assert_eq!(count_requests(&mut streams).await, 1);
    // Those that are asked stay silent, so that the others get their turns.
    after(&state, Duration::from_millis(250)).await;
    assert_eq!(count_requests(&mut streams).await, 16);
    after(&state, Duration::from_millis(250)).await;
    assert_eq!(count_requests(&mut streams).await, 40 - 33);
}

#[tokio::test(start_paused = true)]
async fn agents_that_send_slowly_do_not_hold_the_turns_of_others() {
    let state = State::new(Config::default());
    let (agents, mut streams, _waiting) = forty_windows(&state);
    assert_eq!(count_requests(&mut streams).await, 16);
    let mut asked = Vec::new();
    for _ in 0..32 {
        // Counting takes 40 ms: each agent sends again before it counts as silent.
        after(&state, Duration::from_millis(5)).await;
        for (agent, stream) in agents.iter().zip(&streams).take(16) {
            let part = ResponsePart {
                more: true,
                ..first_response()
            };
            state.on_part(agent, stream.0, part, true);
        }
        asked.push(count_requests(&mut streams).await);
    }
    assert_eq!(asked[..20], [0; 20], "{asked:?}");
    assert_eq!(asked.iter().sum::<usize>(), 40 - 16, "{asked:?}");
}
