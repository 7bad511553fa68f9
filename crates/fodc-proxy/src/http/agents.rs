//! `/agents`: who is known and how each is; `/self-metrics`: the proxy's own numbers.

use std::{collections::BTreeMap, fmt::Write as _, sync::atomic::Ordering};

use axum::{
    body::Body,
    extract::State as Shared,
    http::{HeaderValue, Response, header},
};
use serde::Serialize;
use steadfast_session::Time;

use super::{Api, TEXT, json};
use crate::{
    registry::Status,
    state::{Portrait, State},
};

/// One agent, as people read it.
#[derive(Serialize)]
struct Entry<'a> {
    agent_id: &'a str,
    name: &'a str,
    role: &'a str,
    labels: &'a BTreeMap<String, String>,
    container_names: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// What its registration looks like: `address` (the first version), `pod` (the releases), or
    /// `steadfast`.
    dialect: &'static str,
    status: &'static str,
    registered_seconds_ago: f64,
    heartbeat_seconds_ago: f64,
    heartbeats: u64,
    streams: &'a BTreeMap<&'static str, usize>,
    answered_seconds_ago: Option<f64>,
    owes_an_answer: bool,
    /// It is not waited for until it answers again.
    silent: bool,
    discarded_answers: u64,
    /// Another agent that is online says that it is the same one.
    duplicate: bool,
}

impl<'a> Entry<'a> {
    fn of(portrait: &'a Portrait, now: Time) -> Self {
        let identity = &portrait.agent.identity;
        let ago = |time: Time| now.since(time).as_millis() as f64 / 1e3;
        Self {
            agent_id: portrait.agent.id.as_str(),
            name: &identity.name,
            role: &identity.role,
            labels: &identity.labels,
            container_names: &identity.containers,
            address: identity
                .address
                .as_ref()
                .map(|(ip, port)| format!("{ip}:{port}")),
            dialect: match (&identity.instance, identity.has_pod) {
                (Some(_), _) => "steadfast",
                (None, true) => "pod",
                (None, false) => "address",
            },
            status: match portrait.status {
                Status::Online => "online",
                Status::Unconnected => "unconnected",
            },
            registered_seconds_ago: ago(portrait.agent.registered),
            heartbeat_seconds_ago: ago(portrait.agent.heartbeat),
            heartbeats: portrait.agent.heartbeats,
            streams: &portrait.streams,
            answered_seconds_ago: portrait.answered.map(ago),
            owes_an_answer: portrait.owes,
            silent: portrait.silent,
            discarded_answers: portrait.discarded,
            duplicate: portrait.double,
        }
    }
}

pub(super) async fn list(Shared(api): Shared<Api>) -> Response<Body> {
    let portraits = api.state.portraits();
    let now = api.state.now();
    let entries: Vec<Entry<'_>> = portraits.iter().map(|one| Entry::of(one, now)).collect();
    let mut body = serde_json::to_string(&entries).expect("entries have nothing that JSON has not");
    body.push('\n');
    json(body)
}

pub(super) async fn own_metrics(Shared(api): Shared<Api>) -> Response<Body> {
    let mut response = Response::new(Body::from(own(&api.state)));
    let kind = HeaderValue::from_static(TEXT);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn own(state: &State) -> String {
    let (online, total) = state.census();
    let counters = &state.counters;
    let mut text = String::new();
    let gauges = [
        ("agents_online", "Agents whose heartbeats come.", online),
        ("agents_known", "Agents that are remembered.", total),
        (
            "answer_bytes",
            "Memory that answers take.",
            state.store.memory.used(),
        ),
    ];
    for (name, help, value) in gauges {
        one(&mut text, name, help, "gauge", value as u64);
    }
    let counted = [
        (
            "registrations_total",
            "Registrations accepted.",
            &counters.registrations,
        ),
        (
            "registrations_refused_total",
            "Registrations refused.",
            &counters.refused,
        ),
        (
            "agents_replaced_total",
            "Agents that a newer one replaced.",
            &counters.replaced,
        ),
        (
            "agents_forgotten_total",
            "Agents silent for too long.",
            &counters.forgotten,
        ),
        ("heartbeats_total", "Heartbeats.", &counters.heartbeats),
        (
            "requests_total",
            "Questions sent to agents.",
            &counters.requests,
        ),
        ("replies_total", "Messages with answers.", &counters.replies),
        ("samples_total", "Samples taken.", &counters.samples),
        (
            "samples_rejected_total",
            "Metrics that were no metrics.",
            &counters.rejected,
        ),
        (
            "messages_dropped_total",
            "Messages on streams that are only held.",
            &counters.dropped,
        ),
        (
            "unknown_agents_total",
            "Streams of agents that are not known.",
            &counters.strangers,
        ),
        ("panics_total", "Handlers that panicked.", &counters.panics),
    ];
    for (name, help, value) in counted {
        one(
            &mut text,
            name,
            help,
            "counter",
            value.load(Ordering::Relaxed),
        );
    }
    text
}

fn one(text: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    let name = format!("steadfast_proxy_{name}");
    writeln!(
        text,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
    )
    .expect("a string takes everything");
}
