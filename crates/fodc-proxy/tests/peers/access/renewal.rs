//! Newer credentials on an open registration.

use std::time::Duration;

use steadfast_access::NewToken;
use steadfast_wire::fodc::{AgentProfile, RegisterAgentRequest, RegisterAgentResponse};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::{Guarded, POLICY, Registered};
use crate::{
    agent::{TIMEOUT, end_of, ours},
    config,
};

/// A proxy for which `db-0` has a token that expires after some time, and a newer one, `newer`.
async fn with_a_token_that_expires(after: Duration) -> Guarded {
    let newer = NewToken::generate().unwrap();
    let policy = format!("{}\n{POLICY}", newer.entry("db-0"));
    let mut guarded = Guarded::start_with(&["db-0", "db-1", "reader"], &policy, config()).await;
    let until = jiff::Timestamp::now() + after;
    let token = guarded.tokens["db-0"].entry("db-0");
    guarded.rewrite(|text| text.replace(&token, &format!("{token}\nexpires = {until}")));
    guarded.bearers.insert("newer", newer.reveal().to_owned());
    guarded
}

fn newer(authorization: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        profile: Some(AgentProfile {
            authorization: authorization.to_owned(),
            ..AgentProfile::default()
        }),
        ..RegisterAgentRequest::default()
    }
}

impl Guarded {
    fn bearer(&self, name: &str) -> String {
        format!("Bearer {}", self.bearers[name])
    }
}

impl Registered {
    async fn response(&mut self) -> Result<RegisterAgentResponse, Status> {
        let response = timeout(TIMEOUT, self.stream.message()).await.unwrap();
        response.map(|it| it.expect("a response"))
    }
}

#[tokio::test]
async fn newer_credentials_keep_the_streams_of_a_registration() {
    let valid = Duration::from_secs(4);
    let guarded = with_a_token_that_expires(valid).await;
    let until = jiff::Timestamp::now() + valid;
    let mut agent = loop {
        // The times of expiry are read with the policy, which takes half a second to be in force.
        let mut agent = guarded.register("db-0", ours("db-0", "one")).await.unwrap();
        let profile = agent.profile.take().expect("a profile");
        let expires = profile.expires_in_ms.expect("a policy is in force");
        if expires > 0 {
            assert!(expires <= 4_000, "{expires}");
            agent.profile = Some(profile);
            break agent;
        }
    };
    let key = agent.profile.as_ref().unwrap().stream_key.clone();
    let mut streams: Vec<(&str, Streaming<_>)> = Vec::new();
    let mut held = Vec::new();
    for (name, key) in [
        ("its key", Some(&*key)),
        ("no key", None),
        ("a foreign key", Some("00000000000000000000000000000000")),
    ] {
        let (open, mut request) = guarded.opening("db-0", &agent.id);
        if let Some(key) = key {
            let metadata = request.metadata_mut();
            metadata.insert("agent-key", key.parse().unwrap());
        }
        let call = agent.client.stream_cluster_topology(request).await;
        streams.push((name, call.unwrap().into_inner()));
        held.push(open);
    }
    let authorization = guarded.bearer("newer");
    agent.heartbeats.send(newer(&authorization)).await.unwrap();
    let renewed = agent.response().await.unwrap().profile.unwrap();
    assert_eq!(renewed.expires_in_ms, Some(0), "it does not expire");
    assert_eq!(renewed.stream_key, "", "it is told once");
    for (name, stream) in &mut streams[1..] {
        let end = end_of(stream).await;
        assert_eq!(end.code(), Code::Unauthenticated, "{name}: {end}");
    }
    assert!(jiff::Timestamp::now() >= until - Duration::from_secs(1));
    // The older ones have expired: a heartbeat is answered, and a query would be sent.
    let (_, mut stream) = streams.swap_remove(0);
    let silent = timeout(Duration::from_millis(600), stream.message()).await;
    assert!(silent.is_err(), "{silent:?}");
    agent.heartbeats.send(newer("")).await.unwrap();
    let heartbeat = agent.response().await.unwrap();
    assert_eq!(heartbeat.profile.unwrap().expires_in_ms, None);
    let page = guarded.get("/self-metrics", "reader").await;
    assert!(
        page.has_line("steadfast_proxy_renewals_total 1"),
        "{}",
        page.body
    );
    // What is revoked now are the newer ones.
    let entry = |text: &str| {
        let end = text.find("[[grants]]").unwrap();
        let start = text[..end].rfind("[[tokens]]").unwrap();
        text[start..end].to_owned()
    };
    guarded.rewrite(|text| text.replace(&entry(&text), ""));
    let end = end_of(&mut agent.stream).await;
    assert_eq!(end.code(), Code::Unauthenticated, "{end}");
    let end = end_of(&mut stream).await;
    let codes = [Code::Unauthenticated, Code::Aborted];
    assert!(codes.contains(&end.code()), "{end}");
}

#[tokio::test]
async fn newer_credentials_that_are_refused_end_the_registration() {
    let guarded = Guarded::start(&["db-0", "db-1", "reader"]).await;
    let own = guarded.bearer("db-0");
    for (sent, times, code, text) in [
        (
            guarded.bearer("db-1"),
            1,
            Code::Unauthenticated,
            "the credentials are those of another principal now",
        ),
        (
            "Bearer unknown".to_owned(),
            1,
            Code::Unauthenticated,
            "the credentials are not valid",
        ),
        (
            own,
            4,
            Code::ResourceExhausted,
            "newer credentials came more than 3 times at once, and then once in 1s; send them less often",
        ),
    ] {
        let first = ours("db-0", "one");
        let mut agent = guarded.register("db-0", first).await.unwrap();
        for _ in 0..times {
            agent.heartbeats.send(newer(&sent)).await.unwrap();
        }
        let end = end_of(&mut agent.stream).await;
        assert_eq!((end.code(), end.message()), (code, text));
    }
}

#[tokio::test]
async fn without_a_policy_no_credentials_are_spoken_of() {
    let proxy = crate::start_with(config()).await;
    let first = ours("db-0", "one");
    let mut agent = crate::agent::Agent::register(&proxy, first).await;
    let profile = agent.profile.take().unwrap();
    assert_eq!((profile.expires_in_ms, &*profile.stream_key), (None, ""));
    agent.heartbeats.send(newer("Bearer any")).await.unwrap();
    let response = timeout(TIMEOUT, agent.registration.message()).await;
    let response = response.unwrap().unwrap().expect("a response");
    assert_eq!(response.profile.unwrap().expires_in_ms, None);
}
