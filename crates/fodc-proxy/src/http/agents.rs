//! `/agents`: the agents and their state. `/self-metrics`: the proxy's own counters.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::State as Shared,
    http::{HeaderValue, Response, header},
};
use serde::Serialize;
use steadfast_exposition::{Kind, Numbers, Writer};
use steadfast_net::Tls;
use steadfast_session::Time;

use super::{Api, TEXT, json};
use crate::{
    agents::AgentSummary,
    counters::{Counters, STREAM_KINDS},
    state::State,
};

/// The prefix of the proxy's own metrics.
const PREFIX: &str = "steadfast_proxy";

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
    let mut page = Writer::new(Numbers::Plain);
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
        write_metric(&mut page, name, help, Kind::Gauge, value as f64);
    }
    for (name, help, value) in state.counters.all() {
        write_metric(&mut page, name, help, Kind::Counter, value as f64);
    }
    write_stream_counters(&mut page, &state.counters);
    write_rights(&mut page, state);
    write_refusals(&mut page, state);
    write_tls(&mut page, state);
    page.take()
}

fn write_tls(page: &mut Writer, state: &State) {
    let figures = state.config.security.tls.iter().flat_map(Tls::figures);
    for figure in figures {
        let name = format!("{PREFIX}_{}", figure.name);
        let kind = if figure.is_counter {
            Kind::Counter
        } else {
            Kind::Gauge
        };
        page.family(&name, kind, Some(&format!("{}.", figure.help)));
        let labels = figure.reason.map(|reason| ("reason", reason));
        page.sample(&name, labels, figure.value, None);
    }
}

fn write_stream_counters(page: &mut Writer, counters: &Counters) {
    for (name, help, value) in counters.streams.all() {
        let name = format!("{PREFIX}_stream_{name}");
        page.family(&name, Kind::Counter, Some(help));
        for kind in STREAM_KINDS {
            page.sample(&name, [("stream", kind)], value(kind) as f64, None);
        }
    }
}

fn write_rights(page: &mut Writer, state: &State) {
    let counters = &state.counters;
    let name = format!("{PREFIX}_registrations_refused_total");
    page.family(&name, Kind::Counter, Some("Registrations refused."));
    for (reason, count) in counters.refused.all() {
        page.sample(&name, [("reason", reason)], count as f64, None);
    }
    let name = format!("{PREFIX}_access_refused_total");
    let help = "Streams of agents and requests of readers that the policy refused or ended.";
    page.family(&name, Kind::Counter, Some(help));
    write_reasons(page, &name, "agents", counters.refused_agents.all());
    write_reasons(page, &name, "http", state.pages.denials());
}

fn write_refusals(page: &mut Writer, state: &State) {
    let name = format!("{PREFIX}_refused_total");
    let help = "Connections, requests and messages that a listener refused.";
    page.family(&name, Kind::Counter, Some(help));
    for (listener, refused) in [
        ("agents", &state.agents_refused),
        ("http", &state.http_refused),
    ] {
        write_reasons(page, &name, listener, refused.all());
    }
}

fn write_reasons(
    page: &mut Writer,
    name: &str,
    listener: &str,
    reasons: impl Iterator<Item = (&'static str, u64)>,
) {
    for (reason, count) in reasons {
        let labels = [("listener", listener), ("reason", reason)];
        page.sample(name, labels, count as f64, None);
    }
}

/// Writes a metric without labels.
fn write_metric(page: &mut Writer, name: &str, help: &str, kind: Kind, value: f64) {
    let name = format!("{PREFIX}_{name}");
    page.family(&name, kind, Some(help));
    page.sample(&name, [], value, None);
}
