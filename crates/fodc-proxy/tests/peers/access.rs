//! A proxy with a policy: the nodes that agents may be, and who may read and diagnose.

mod limits;
mod pages;
mod renewal;

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use steadfast_access::NewToken;
use steadfast_fodc_proxy::{Config, Proxy, StartError};
use steadfast_wire::fodc::{
    RegisterAgentRequest, StreamMetricsRequest, fodc_service_client::FodcServiceClient,
};
use tempfile::TempDir;
use tokio::{
    sync::mpsc::{Sender, channel},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use crate::{
    agent::{self, TIMEOUT, dial, end_of, labels, message, metric, pod, with_id},
    config, http,
};

/// Each agent may be the node that its token names; those of zone a only with that role and label. Agents
/// without a token may be old nodes.
const POLICY: &str = r#"
[[grants]]
role = "agent"
actions = ["register"]
pods = ["$sub"]

[[grants]]
role = "zone-a"
actions = ["register"]
pods = ["a-*"]
node_roles = ["ROLE_DATA"]
node_labels = { zone = ["a"] }

[[grants]]
role = "plain"
actions = ["register"]
pods = ["old-*"]

[[grants]]
role = "reader"
actions = ["read"]

[[grants]]
role = "doctor"
actions = ["diagnose"]

[[members]]
roles = ["agent"]
principals = ["token:db-*"]

[[members]]
roles = ["zone-a"]
principals = ["token:zone-a"]

[[members]]
roles = ["plain"]
principals = ["anonymous"]

[[members]]
roles = ["reader"]
principals = ["token:reader"]

[[members]]
roles = ["doctor"]
principals = ["token:doctor"]
"#;

/// A proxy with the policy and a token for each of these names.
struct Guarded {
    proxy: Proxy,
    path: PathBuf,
    tokens: HashMap<&'static str, NewToken>,
    /// What is sent for each name.
    bearers: HashMap<&'static str, String>,
    _folder: TempDir,
}

impl Guarded {
    async fn start(names: &[&'static str]) -> Self {
        Self::start_with(names, POLICY, config()).await
    }

    async fn start_with(names: &[&'static str], policy: &str, config: Config) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), names, policy, config).await
    }

    async fn start_in(
        folder: TempDir,
        names: &[&'static str],
        policy: &str,
        mut config: Config,
    ) -> Self {
        let path = folder.path().join("access.toml");
        let tokens: HashMap<_, _> = names
            .iter()
            .map(|name| (*name, NewToken::generate().unwrap()))
            .collect();
        let entries = tokens.iter().map(|(name, token)| token.entry(name) + "\n");
        fs::write(&path, entries.collect::<String>() + policy).unwrap();
        config.access = Some(path.clone());
        let bearers = tokens
            .iter()
            .map(|(name, token)| (*name, token.reveal().to_owned()))
            .collect();
        Self {
            proxy: crate::start_with(config).await,
            path,
            tokens,
            bearers,
            _folder: folder,
        }
    }

    /// Returns the header of a token; none for an empty name.
    fn authorize<T>(&self, name: &str, mut request: Request<T>) -> Request<T> {
        if !name.is_empty() {
            let token = self.bearers.get(name).map_or("unknown", String::as_str);
            let header = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", header);
        }
        request
    }

    async fn client(&self) -> FodcServiceClient<Channel> {
        dial(self.proxy.grpc_address()).await
    }

    /// Registers with a token. Returns the id of the agent and its stream, or the message and the status
    /// of the refusal.
    async fn register(
        &self,
        token: &str,
        first: RegisterAgentRequest,
    ) -> Result<Registered, (String, Status)> {
        let (heartbeats, outgoing) = channel(64);
        heartbeats.send(first).await.unwrap();
        let request = self.authorize(token, Request::new(ReceiverStream::new(outgoing)));
        let mut client = self.client().await;
        let call = timeout(TIMEOUT, client.register_agent(request))
            .await
            .unwrap();
        let mut stream = call.map_err(|status| (String::new(), status))?.into_inner();
        let response = timeout(TIMEOUT, stream.message()).await.unwrap();
        let response = response.unwrap().expect("a response to the registration");
        if !response.success {
            return Err((response.message, end_of(&mut stream).await));
        }
        Ok(Registered {
            id: response.agent_id,
            profile: response.profile,
            client,
            heartbeats,
            stream,
        })
    }

    /// Returns the request that opens a stream of an agent with a token, and what holds it open.
    fn opening<T: Send + 'static>(
        &self,
        token: &str,
        id: &str,
    ) -> (Sender<T>, Request<ReceiverStream<T>>) {
        let (responses, outgoing) = channel(1);
        (responses, self.authorize(token, with_id(id, outgoing)))
    }

    async fn get(&self, path: &str, token: &str) -> http::Response {
        let address = self.proxy.http_address();
        match self.tokens.get(token) {
            Some(token) => http::get_with_token(address, path, token.reveal()).await,
            None if token.is_empty() => http::get(address, path).await,
            None => http::get_with_token(address, path, "unknown").await,
        }
    }

    /// Replaces the policy file as the documentation says.
    fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let text = change(fs::read_to_string(&self.path).unwrap());
        let beside = self.path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &self.path).unwrap();
    }
}

struct Registered {
    id: String,
    profile: Option<steadfast_wire::fodc::ProxyProfile>,
    client: FodcServiceClient<Channel>,
    heartbeats: Sender<RegisterAgentRequest>,
    stream: Streaming<steadfast_wire::fodc::RegisterAgentResponse>,
}

fn in_zone(pod_name: &str, role: &str, zone: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        labels: labels(&[("zone", zone)]).into_iter().collect(),
        ..pod(pod_name, role)
    }
}

#[tokio::test]
async fn token_decides_which_node_an_agent_may_be() {
    let guarded = Guarded::start(&["db-0", "db-1", "zone-a", "reader"]).await;
    let other_node = Some((Code::PermissionDenied, "you may not register as this node"));
    for (token, first, refusal) in [
        ("db-0", pod("db-0", "any"), None),
        ("db-0", pod("db-1", "any"), other_node),
        ("db-0", pod("DB-0", "any"), other_node),
        ("db-0", agent::seed("db-0", 1, "any"), other_node),
        ("zone-a", in_zone("a-0", "ROLE_DATA", "a"), None),
        ("zone-a", in_zone("a-0", "ROLE_UNSPECIFIED", "a"), None),
        ("zone-a", in_zone("a-0", "ROLE_LIAISON", "a"), other_node),
        ("zone-a", in_zone("a-0", "ROLE_DATA", "b"), other_node),
        ("zone-a", pod("a-0", "ROLE_DATA"), other_node),
        ("", pod("old-0", "any"), None),
        ("", pod("db-0", "any"), other_node),
        (
            "stranger",
            pod("old-0", "any"),
            Some((Code::Unauthenticated, "")),
        ),
        (
            "reader",
            pod("old-0", "any"),
            Some((Code::PermissionDenied, "")),
        ),
    ] {
        let shown = format!("{token:?} {first:?}");
        let registered = guarded.register(token, first).await;
        let refused = registered.as_ref().err();
        let refused = refused.map(|(message, status)| (status.code(), message.as_str()));
        assert_eq!(refused, refusal, "{shown}");
    }
    let page = guarded.get("/self-metrics", "reader").await;
    for line in [
        "steadfast_proxy_registrations_refused_total{reason=\"forbidden\"} 8",
        "steadfast_proxy_registrations_refused_total{reason=\"invalid\"} 1",
        "steadfast_proxy_registrations_refused_total{reason=\"full\"} 0",
        "steadfast_proxy_access_refused_total{listener=\"agents\",reason=\"forbidden\"} 1",
        "steadfast_proxy_access_refused_total{listener=\"agents\",reason=\"invalid\"} 1",
    ] {
        assert!(page.has_line(line), "{line}\n{}", page.body);
    }
}

#[tokio::test]
async fn heartbeat_cannot_make_an_agent_another_node() {
    let guarded = Guarded::start(&["zone-a"]).await;
    let first = in_zone("a-0", "ROLE_UNSPECIFIED", "a");
    let mut agent = guarded.register("zone-a", first).await.unwrap();
    // What is granted, and an empty heartbeat, change nothing about the stream.
    for heartbeat in [
        RegisterAgentRequest::default(),
        in_zone("a-0", "ROLE_DATA", "a"),
        in_zone("a-0", "ROLE_DATA", "b"),
    ] {
        agent.heartbeats.send(heartbeat).await.unwrap();
    }
    let end = end_of(&mut agent.stream).await;
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
}

#[tokio::test]
async fn agents_without_a_token_are_refused_unless_named() {
    let policy = POLICY.replace("[\"anonymous\"]", "[\"token:nobody\"]");
    let guarded = Guarded::start_with(&["reader"], &policy, config()).await;
    let (_, status) = guarded.register("", pod("old-0", "r")).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "credentials are required");
    let page = guarded.get("/self-metrics", "reader").await;
    let line = "steadfast_proxy_registrations_refused_total{reason=\"missing\"} 1";
    assert!(page.has_line(line), "{}", page.body);
}

/// Opens a stream of each kind with a token, and runs a block with its name and both directions of the call.
macro_rules! each_stream {
    ($guarded:expr, $token:expr, $id:expr, |$name:ident, $call:ident| $check:block) => {
        each_stream!(@ $guarded, $token, $id, |$name, $call| $check,
            stream_metrics stream_cluster_topology stream_lifecycle stream_crash_diagnostics
            stream_pressure_profiles stream_schema_registry)
    };
    (@ $guarded:expr, $token:expr, $id:expr, |$name:ident, $call:ident| $check:block, $($method:ident)*) => {$({
        let (open, request) = $guarded.opening($token, $id);
        let mut client = $guarded.client().await;
        let $name = stringify!($method);
        let call = timeout(TIMEOUT, client.$method(request)).await.unwrap();
        let $call = call.map(|response| (open, response.into_inner()));
        $check
    })*};
}

#[tokio::test]
async fn every_stream_of_an_agent_needs_its_token() {
    let guarded = Guarded::start(&["db-0", "db-1", "reader"]).await;
    let mut agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    for (token, code) in [
        ("stranger", Code::Unauthenticated),
        ("reader", Code::PermissionDenied),
    ] {
        each_stream!(guarded, token, &agent.id, |name, call| {
            let status = call.err().map(|status| status.code());
            assert_eq!(status, Some(code), "{name} {token}");
        });
    }
    // The token of another agent, or none, opens streams that the proxy does not connect with this one.
    for token in ["db-1", ""] {
        each_stream!(guarded, token, &agent.id, |name, call| {
            assert!(call.is_ok(), "{name} {token:?}");
        });
    }
    let unknown = |page: &http::Response| page.has_line("steadfast_proxy_unknown_agents_total 12");
    let page = guarded.get("/self-metrics", "reader").await;
    assert!(unknown(&page), "{}", page.body);
    let agents = guarded.get("/agents", "reader").await;
    assert!(agents.body.contains("\"streams\":{}"), "{}", agents.body);
    // Its own token connects them.
    let (responses, request) = guarded.opening("db-0", &agent.id);
    let mut queries = agent
        .client
        .stream_metrics(request)
        .await
        .unwrap()
        .into_inner();
    let answering = tokio::spawn(async move {
        while let Ok(Some(_)) = queries.message().await {
            let samples: StreamMetricsRequest = message(vec![metric("up", &[], 1.0)]);
            responses.send(samples).await.ok();
        }
    });
    let page = loop {
        let page = guarded.get("/metrics", "reader").await;
        if page.missing().is_none() && page.body.contains("up{") {
            break page;
        }
    };
    assert!(page.body.contains("pod_name=\"db-0\""), "{}", page.body);
    answering.abort();
}

/// Returns the part of the policy with the keys of an issuer, and a token for each of these values of the
/// claim `pod`, all of one subject.
fn jwt_tokens(folder: &std::path::Path, pods: &[&str]) -> (String, Vec<String>) {
    let key = Ed25519KeyPair::generate().unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let keys = format!(
        r#"{{"keys":[{{"kty":"OKP","kid":"k","crv":"Ed25519","x":"{}"}}]}}"#,
        encode(key.public_key().as_ref())
    );
    fs::write(folder.join("keys.json"), keys).unwrap();
    let expires = jiff::Timestamp::now().as_second() + 600;
    let tokens = pods.iter().map(|pod| {
        let claims =
            format!(r#"{{"iss":"i","aud":"a","sub":"fleet","exp":{expires},"pod":"{pod}"}}"#);
        let header = encode(br#"{"alg":"EdDSA","kid":"k"}"#);
        let signed = format!("{header}.{}", encode(claims.as_bytes()));
        format!("{signed}.{}", encode(key.sign(signed.as_bytes()).as_ref()))
    });
    let rules = "[jwt]\nkeys = \"keys.json\"\nissuer = \"i\"\naudience = \"a\"\n";
    (rules.to_owned(), tokens.collect())
}

#[tokio::test]
async fn same_grant_does_not_connect_streams_of_another_agent() {
    // Both principals may be this node; it is that of the one that registered.
    let policy = POLICY.replace("\"$sub\"", "\"db-*\"");
    let guarded = Guarded::start_with(&["db-0", "db-1", "reader"], &policy, config()).await;
    let agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    let line = "steadfast_proxy_unknown_agents_total 6";
    for token in ["db-1", "db-0"] {
        each_stream!(guarded, token, &agent.id, |name, call| {
            assert!(call.is_ok(), "{name} {token}");
        });
        let page = guarded.get("/self-metrics", "reader").await;
        assert!(page.has_line(line), "{token}: {}", page.body);
    }
}

#[tokio::test]
async fn claims_decide_which_agents_streams_are_connected() {
    let folder = tempfile::tempdir().unwrap();
    let (rules, tokens) = jwt_tokens(folder.path(), &["db-0", "db-1"]);
    let policy = POLICY.replace("$sub", "$claim.pod");
    let policy = policy.replace("\"token:db-*\"", "\"jwt:fleet\"") + &rules;
    let names = ["db-0", "db-1"];
    let mut guarded = Guarded::start_in(folder, &["reader"], &policy, config()).await;
    for (name, token) in names.into_iter().zip(tokens) {
        guarded.bearers.insert(name, token);
    }
    let agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    let refused = guarded.register("db-1", pod("db-0", "r")).await;
    assert_eq!(refused.err().unwrap().1.code(), Code::PermissionDenied);
    each_stream!(guarded, "db-1", &agent.id, |name, call| {
        assert!(call.is_ok(), "{name}");
    });
    let page = guarded.get("/self-metrics", "reader").await;
    let line = "steadfast_proxy_unknown_agents_total 6";
    assert!(page.has_line(line), "{}", page.body);
    // Its own claims connect it.
    each_stream!(guarded, "db-0", &agent.id, |name, call| {
        assert!(call.is_ok(), "{name}");
    });
    let page = guarded.get("/self-metrics", "reader").await;
    assert!(page.has_line(line), "{}", page.body);
}

#[tokio::test]
async fn token_of_one_node_leaves_places_for_others() {
    let mut config = config();
    config.max_agents = 18;
    let guarded = Guarded::start_with(&["db-0", "db-1", "reader"], POLICY, config).await;
    let mut registered = Vec::new();
    let mut refusals = Vec::new();
    for number in 0..18 {
        let first = pod("db-0", &format!("r{number}"));
        match guarded.register("db-0", first).await {
            Ok(agent) => registered.push(agent),
            Err((message, status)) => refusals.push((message, status.code())),
        }
    }
    assert_eq!(registered.len(), 16);
    for (message, code) in refusals {
        assert!(message.starts_with("16 agents with your"), "{message}");
        assert_eq!(code, Code::Unknown);
    }
    guarded.register("db-1", pod("db-1", "r")).await.unwrap();
    let page = guarded.get("/self-metrics", "reader").await;
    let line = "steadfast_proxy_registrations_refused_total{reason=\"node\"} 2";
    assert!(page.has_line(line), "{}", page.body);
    // The places of agents that have left are free.
    registered.clear();
    let again = async {
        while guarded.register("db-0", pod("db-0", "new")).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIMEOUT, again).await.unwrap();
}

#[tokio::test]
async fn withdrawn_rights_end_every_open_stream() {
    let guarded = Guarded::start(&["db-0", "reader"]).await;
    let mut agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    let (_metrics, request) = guarded.opening("db-0", &agent.id);
    let mut metrics = agent
        .client
        .stream_metrics(request)
        .await
        .unwrap()
        .into_inner();
    let (_topology, request) = guarded.opening("db-0", &agent.id);
    let topology = agent.client.stream_cluster_topology(request).await;
    let mut topology = topology.unwrap().into_inner();
    // A stream of an id that nobody has: it is held, and still ends with its token.
    let (_unknown, request) = guarded.opening("db-0", "nobody");
    let mut unknown = agent
        .client
        .stream_metrics(request)
        .await
        .unwrap()
        .into_inner();
    let token = guarded.tokens["db-0"].entry("db-0");
    guarded.rewrite(|text| text.replace(&token, ""));
    let registration = end_of(&mut agent.stream).await;
    assert_eq!(registration.code(), Code::Unauthenticated, "{registration}");
    for end in [
        end_of(&mut metrics).await,
        end_of(&mut topology).await,
        end_of(&mut unknown).await,
    ] {
        // With the registration, or for the same reason as it.
        let codes = [Code::Unauthenticated, Code::Aborted];
        assert!(codes.contains(&end.code()), "{end}");
    }
    let agents = guarded.get("/agents", "reader").await;
    assert!(agents.body.contains("unconnected"), "{}", agents.body);
}

/// Checks that a change of the policy ends every stream that was opened with a token, and not the
/// registration, which has another token of the same principal.
async fn check_streams_end_alone(
    guarded: &Guarded,
    token: &str,
    change: impl FnOnce(String) -> String,
    code: Code,
) {
    let first = agent::ours("db-0", "process");
    let mut agent = guarded.register("db-0", first).await.unwrap();
    let mut ends = Vec::new();
    each_stream!(guarded, token, &agent.id, |name, call| {
        let (open, mut stream) = call.unwrap();
        let end = async move {
            let _open = open;
            end_of(&mut stream).await
        };
        ends.push((name, end.boxed()));
    });
    guarded.rewrite(change);
    for (name, end) in ends {
        assert_eq!(end.await.code(), code, "{name}");
    }
    let heartbeat = RegisterAgentRequest::default();
    agent.heartbeats.send(heartbeat).await.unwrap();
    let response = timeout(TIMEOUT, agent.stream.message()).await.unwrap();
    assert!(response.unwrap().is_some_and(|it| it.success));
}

#[tokio::test]
async fn revoked_token_ends_its_streams_beside_a_newer_one() {
    let revoked = NewToken::generate().unwrap();
    let entry = revoked.entry("db-0");
    let policy = format!("{entry}\n{POLICY}");
    let mut guarded = Guarded::start_with(&["db-0"], &policy, config()).await;
    let bearer = revoked.reveal().to_owned();
    guarded.bearers.insert("revoked", bearer);
    let revoke = |text: String| text.replace(&entry, "");
    check_streams_end_alone(&guarded, "revoked", revoke, Code::Unauthenticated).await;
}

#[tokio::test]
async fn withdrawn_node_ends_the_streams_that_it_was_granted_to() {
    let folder = tempfile::tempdir().unwrap();
    let (rules, tokens) = jwt_tokens(folder.path(), &["db-0", "spare"]);
    let policy = format!(
        r#"{rules}
[[grants]]
role = "agent"
actions = ["register"]
pods = ["$claim.pod"]

[[grants]]
role = "spare"
actions = ["register"]
pods = ["db-*"]

[[members]]
roles = ["agent"]
principals = ["jwt:fleet"]

[[members]]
roles = ["spare"]
principals = ["jwt:fleet"]
claims = {{ pod = "spare" }}
"#
    );
    let mut guarded = Guarded::start_in(folder, &[], &policy, config()).await;
    for (name, token) in ["db-0", "spare"].into_iter().zip(tokens) {
        guarded.bearers.insert(name, token);
    }
    let withdraw = |text: String| text.replace("db-*", "other-*");
    check_streams_end_alone(&guarded, "spare", withdraw, Code::PermissionDenied).await;
}

#[tokio::test]
async fn registration_ends_when_its_node_is_not_granted_any_more() {
    let guarded = Guarded::start(&["db-0"]).await;
    let mut agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    guarded.rewrite(|text| {
        text.replace(
            "pods = [\"$sub\"]",
            "pods = [\"$sub\"]\nnode_roles = [\"s\"]",
        )
    });
    let end = end_of(&mut agent.stream).await;
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
}

#[tokio::test]
async fn expired_token_ends_the_streams_of_its_agent() {
    let guarded = Guarded::start(&["db-0"]).await;
    let until = jiff::Timestamp::now() + Duration::from_secs(3);
    let token = guarded.tokens["db-0"].entry("db-0");
    guarded.rewrite(|text| text.replace(&token, &format!("{token}\nexpires = {until}")));
    let mut agent = guarded.register("db-0", pod("db-0", "r")).await.unwrap();
    let end = end_of(&mut agent.stream).await;
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unauthenticated, "the credentials have expired")
    );
    assert!(jiff::Timestamp::now() >= until);
}

#[tokio::test]
async fn proxy_with_a_faulty_policy_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    fs::write(
        &path,
        "[[grants]]\nrole = 'agent'\nactions = ['register']\n",
    )
    .unwrap();
    let mut config = config();
    config.access = Some(path);
    let error = Proxy::start(config).await.err().unwrap();
    assert!(matches!(&error, StartError::Access(faults) if faults.0.len() == 1));
    assert!(
        error
            .to_string()
            .contains("access.toml:1:1: `pods` is missing"),
        "{error}"
    );
}
