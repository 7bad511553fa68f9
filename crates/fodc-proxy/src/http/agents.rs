//! `/agents`: the agents and their state. `/self-metrics`: the proxy's own counters.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::{
    body::Body,
    extract::State as Shared,
    http::{HeaderValue, Response, header},
};
use serde::Serialize;
use steadfast_net::{Tls, TlsFigure};
use steadfast_session::Time;

use super::{Api, TEXT, json};
use crate::{
    agents::AgentSummary,
    counters::{Counters, STREAM_KINDS},
    state::State,
};

/// The JSON of one agent.
#[derive(Serialize)]
struct Entry<'a> {
    agent_id: &'a str,
    name: &'a str,
    role: &'a str,
    labels: &'a BTreeMap<String, String>,
    container_names: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The form of its registration: `address` (the first version), `pod` (the releases) or
    /// `steadfast`.
    dialect: &'static str,
    status: &'static str,
    registered_seconds_ago: f64,
    heartbeat_seconds_ago: f64,
    heartbeats: u64,
    streams: &'a BTreeMap<&'static str, usize>,
    answered_seconds_ago: Option<f64>,
    owes_an_answer: bool,
    /// Nobody waits for it until it responds again.
    silent: bool,
    discarded_answers: u64,
    /// Another online agent has the same identity.
    duplicate: bool,
}

impl<'a> Entry<'a> {
    fn of(summary: &'a AgentSummary, now: Time) -> Self {
        let identity = &summary.agent.identity;
        let ago = |time: Time| now.since(time).as_millis() as f64 / 1e3;
        Self {
            agent_id: summary.agent.id.as_str(),
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
            status: summary.status,
            registered_seconds_ago: ago(summary.agent.registered),
            heartbeat_seconds_ago: ago(summary.agent.heartbeat),
            heartbeats: summary.agent.heartbeats,
            streams: &summary.streams,
            answered_seconds_ago: summary.responded.map(ago),
            owes_an_answer: summary.outstanding,
            silent: summary.unresponsive,
            discarded_answers: summary.discarded,
            duplicate: summary.is_duplicate,
        }
    }
}

pub(super) async fn list(Shared(api): Shared<Api>) -> Response<Body> {
    let now = api.state.now();
    // Copied under the lock and serialised without it: agents do not wait for the JSON of all
    // others.
    let summaries = api.state.agents().summaries(now);
    let entries: Vec<Entry<'_>> = summaries
        .iter()
        .map(|summary| Entry::of(summary, now))
        .collect();
    let mut body = serde_json::to_string(&entries).expect("an entry has a JSON form");
    body.push('\n');
    json(body)
}

pub(super) async fn self_metrics(Shared(api): Shared<Api>) -> Response<Body> {
    if let Some(tls) = &api.state.config.security.tls {
        tls.refresh().await;
    }
    let mut response = Response::new(Body::from(self_metrics_text(&api.state)));
    let kind = HeaderValue::from_static(TEXT);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn self_metrics_text(state: &State) -> String {
    let (online, total) = state.census();
    let mut text = String::new();
    let gauges = [
        ("agents_online", "Agents that are online.", online),
        ("agents_known", "Agents that are remembered.", total),
        (
            "answer_bytes",
            "Memory that responses take.",
            state.store.memory.used(),
        ),
        (
            "stream_bytes",
            "Memory that responses on the other streams take.",
            state.stream_memory.used(),
        ),
    ];
    for (name, help, value) in gauges {
        write_metric(&mut text, name, help, "gauge", value as u64);
    }
    for (name, help, value) in state.counters.all() {
        write_metric(&mut text, name, help, "counter", value);
    }
    write_stream_counters(&mut text, &state.counters);
    write_rights(&mut text, state);
    write_refusals(&mut text, state);
    write_tls(&mut text, state);
    text
}

fn write_tls(text: &mut String, state: &State) {
    let figures = state.config.security.tls.iter().flat_map(Tls::figures);
    let mut before = "";
    for TlsFigure {
        name,
        help,
        is_counter,
        reason,
        value,
        ..
    } in figures
    {
        let kind = if is_counter { "counter" } else { "gauge" };
        match reason {
            None => write_metric(text, name, help, kind, value as u64),
            Some(reason) => {
                // The failures follow each other, under one head.
                let is_first = std::mem::replace(&mut before, name) != name;
                let name = format!("steadfast_proxy_{name}");
                if is_first {
                    writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}")
                        .expect("writing to a string cannot fail");
                }
                writeln!(text, "{name}{{reason=\"{reason}\"}} {value}")
                    .expect("writing to a string cannot fail");
            }
        }
    }
}

fn write_stream_counters(text: &mut String, counters: &Counters) {
    for (name, help, value) in counters.streams.all() {
        let name = format!("steadfast_proxy_stream_{name}");
        write_head(text, &name, help);
        for kind in STREAM_KINDS {
            writeln!(text, "{name}{{stream=\"{kind}\"}} {}", value(kind))
                .expect("writing to a string cannot fail");
        }
    }
}

fn write_rights(text: &mut String, state: &State) {
    let counters = &state.counters;
    let name = "steadfast_proxy_registrations_refused_total";
    write_head(text, name, "Registrations refused.");
    for (reason, count) in counters.refused.all() {
        writeln!(text, "{name}{{reason=\"{reason}\"}} {count}")
            .expect("writing to a string cannot fail");
    }
    let name = "steadfast_proxy_access_refused_total";
    write_head(
        text,
        name,
        "Streams of agents and requests of readers that the policy refused or ended.",
    );
    write_reasons(text, name, "agents", counters.refused_agents.all());
    write_reasons(text, name, "http", state.pages.denials());
}

fn write_head(text: &mut String, name: &str, help: &str) {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter")
        .expect("writing to a string cannot fail");
}

fn write_reasons(
    text: &mut String,
    name: &str,
    listener: &str,
    reasons: impl Iterator<Item = (&'static str, u64)>,
) {
    for (reason, count) in reasons {
        writeln!(
            text,
            "{name}{{listener=\"{listener}\",reason=\"{reason}\"}} {count}"
        )
        .expect("writing to a string cannot fail");
    }
}

fn write_refusals(text: &mut String, state: &State) {
    let name = "steadfast_proxy_refused_total";
    write_head(
        text,
        name,
        "Connections, requests and messages that a listener refused.",
    );
    for (listener, refused) in [
        ("agents", &state.agents_refused),
        ("http", &state.http_refused),
    ] {
        write_reasons(text, name, listener, refused.all());
    }
}

fn write_metric(text: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    let name = format!("steadfast_proxy_{name}");
    writeln!(
        text,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
    )
    .expect("writing to a string cannot fail");
}
