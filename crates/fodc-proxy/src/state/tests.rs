use std::time::Duration;

use http_body_util::BodyExt as _;
use steadfast_net::Responses;
use steadfast_wire::fodc::AgentProfile;

use super::*;
use crate::{
    asking::Why,
    gather::{Filter, gather},
};

fn pod(name: &str, instance: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        node_role: "r".to_owned(),
        pod_name: name.to_owned(),
        profile: (!instance.is_empty()).then(|| AgentProfile {
            version: 1,
            instance: instance.to_owned(),
        }),
        ..RegisterAgentRequest::default()
    }
}

fn id(text: &str) -> AgentId {
    AgentId::new(text)
}

async fn after(state: &State, span: Duration) {
    tokio::time::advance(span).await;
    state.tick(state.now());
}

fn asked(state: &State) -> Asked {
    let deadline = state.now() + Duration::from_secs(2);
    let agents = state.chosen(|_| true);
    let mut asked = state.ask(Question::Latest, &Names::default(), deadline, &agents);
    asked.pop().expect("one agent")
}

fn outcome(mut asked: Asked) -> Outcome<Answer> {
    asked.answer.try_recv().expect("told")
}

fn is_nothing(outcome: &Outcome<Answer>, because: Why) -> bool {
    matches!(outcome, Outcome::Nothing(why) if *why == because)
}

/// Whether something was sent.
async fn is_asked(responses: &mut Responses<bytes::Bytes>) -> bool {
    let frame = tokio::time::timeout(Duration::from_millis(1), responses.frame()).await;
    matches!(frame, Ok(Some(Ok(frame))) if frame.is_data())
}

#[tokio::test(start_paused = true)]
async fn silence_is_inherited_by_the_registration_that_replaces_and_ended_by_an_answer() {
    let state = State::new(Config::default());
    state.register(&id("a"), &pod("db-0", "i")).unwrap();
    let (line, mut responses) = Outbound::new();
    state.open_metrics(&id("a"), &line).unwrap();
    let late = asked(&state);
    assert!(is_asked(&mut responses).await);
    after(&state, Duration::from_secs(3)).await;
    assert!(is_nothing(&outcome(late), Why::Late));

    state.register(&id("b"), &pod("db-0", "i")).unwrap();
    let (line, mut responses) = Outbound::new();
    let generation = state.open_metrics(&id("b"), &line).unwrap();
    assert!(is_asked(&mut responses).await, "a probe, at once");
    assert!(is_nothing(&outcome(asked(&state)), Why::Silent));
    let answer = Reply {
        request_id: 1,
        bytes: 0,
        more: false,
        from: None,
        data: Answer::default(),
    };
    state.reply(&id("b"), generation, answer, true);
    let mut waiting = asked(&state);
    assert!(waiting.answer.try_recv().is_err(), "it is waited for again");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_makes_room_leaves_nothing_to_another() {
    let config = Config {
        max_agents: 1,
        ..Config::default()
    };
    let state = State::new(config);
    for name in ["a", "b"] {
        state.register(&id(name), &pod(name, "")).unwrap();
        let (line, _responses) = Outbound::new();
        state.open_metrics(&id(name), &line).unwrap();
        asked(&state);
        after(&state, Duration::from_secs(3)).await;
        state.leave(&id(name));
    }
    state.register(&id("c"), &pod("c", "")).unwrap();
    let portraits = state.portraits();
    let known: Vec<(&str, bool)> = portraits
        .iter()
        .map(|one| (one.agent.id.as_str(), one.silent))
        .collect();
    assert_eq!(known, [("b", true), ("c", false)]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_forgotten_after_its_cleanup_and_its_streams_end() {
    let state = State::new(Config::default());
    let end = state.register(&id("a"), &pod("db-0", "")).unwrap();
    let held = state.hold(&id("a"), "StreamLifecycle").unwrap();
    after(&state, Duration::from_secs(300)).await;
    assert_eq!(state.census(), (0, 1));
    assert!(!end.is_cancelled());
    after(&state, Duration::from_millis(1)).await;
    assert_eq!(state.census(), (0, 0));
    assert!(end.is_cancelled() && held.is_cancelled());
    assert!(
        state
            .heartbeat(&id("a"), RegisterAgentRequest::default())
            .is_err()
    );
    assert!(state.hold(&id("a"), "StreamLifecycle").is_none());
}

#[tokio::test(start_paused = true)]
async fn agents_that_were_asked_last_are_not_waited_for_a_second_time_either() {
    let state = State::new(Config::default());
    let mut held = Vec::new();
    for number in 0..100 {
        let agent = id(&number.to_string());
        state
            .register(&agent, &pod(&format!("db-{number}"), ""))
            .unwrap();
        let (line, responses) = Outbound::new();
        state.open_metrics(&agent, &line).unwrap();
        held.push((line, responses));
    }
    let patience = state.config.agent_deadline;
    let took = async || {
        let began = Instant::now();
        let gathered = gather(&state, Question::Latest, &Filter::default(), patience).await;
        assert_eq!(gathered.missing.len(), 100);
        began.elapsed()
    };
    assert!(took().await >= patience);
    assert!(took().await < patience / 2, "all are known to be silent");
}
