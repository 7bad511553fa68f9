//! `/cluster/topology`: the nodes that the agents know, and the calls between them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use prost_types::Timestamp;
use serde::Serialize;
use steadfast_wire::{
    banyandb::{
        common::v1::Metadata,
        database::v1::{Node, Role},
    },
    fodc::{Call, StreamClusterTopologyRequest, StreamClusterTopologyResponse},
};
use tokio::time::Instant;

use super::{
    agents::NodeAgent,
    go_json,
    lanes::{DECODED_FACTOR, QueryError, Topology},
    registry::{AgentId, Identity},
    samples::Reservation,
    state::State,
    stream_queries::{Missing, StreamResponse, query_all},
};

/// The topologies of all agents.
#[derive(Debug)]
pub(super) struct Cluster {
    nodes: BTreeMap<String, Reported<Node>>,
    calls: BTreeMap<String, Reported<Call>>,
    pub(super) missing: Missing,
    /// Memory for the entries above.
    memory: Reservation,
}

/// An entry as one agent reported it. Of several the greatest counts, so that the result does not depend
/// on the order of arrival.
#[derive(Debug)]
struct Reported<T> {
    /// The pod's label is present: only an agent that reports its own node adds it.
    has_pod: bool,
    agent: (String, AgentId),
    entry: T,
}

/// Time limit of a query, as in the original.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The label that an agent adds to its own node.
const POD: &str = "pod_name";

/// Queries all online agents.
///
/// # Cancel safety
///
/// Dropping the future releases the agents.
pub(super) async fn collect(state: &Arc<State>) -> Cluster {
    let query = StreamClusterTopologyResponse {
        request_topology: true,
    };
    let agents = state.agents().online(state.now());
    let mut cluster = Cluster::new(agents.len(), state.stream_memory.empty_reservation());
    let deadline = Instant::now() + TIMEOUT;
    let mut responses = query_all::<Topology>(state, agents, &query, deadline);
    while let Some(response) = responses.next().await {
        cluster.add(response);
    }
    cluster
}

impl Cluster {
    fn new(asked: usize, memory: Reservation) -> Self {
        Self {
            nodes: BTreeMap::new(),
            calls: BTreeMap::new(),
            missing: Missing::new(asked),
            memory,
        }
    }

    fn add(&mut self, mut response: StreamResponse<Topology>) {
        for message in response.take_messages(&mut self.missing) {
            self.add_message(&response.agent, &response.identity, message.body);
        }
    }

    fn add_message(
        &mut self,
        agent: &AgentId,
        identity: &Identity,
        message: StreamClusterTopologyRequest,
    ) {
        if !message.error.is_empty() {
            self.missing
                .add(identity, &QueryError::Source(message.error));
        }
        let topology = message.topology.unwrap_or_default();
        let by = (identity.name.clone(), agent.clone());
        let mut complete = true;
        for node in topology.nodes {
            let name = node.metadata.as_ref().map(|metadata| metadata.name.clone());
            let name = name.unwrap_or_default();
            let has_pod = node.labels.contains_key(POD);
            complete &= merge(&mut self.nodes, name, has_pod, &by, node, &mut self.memory);
        }
        for call in topology.calls {
            let id = call.id.clone();
            complete &= merge(&mut self.calls, id, false, &by, call, &mut self.memory);
        }
        if !complete {
            self.missing.add(identity, &QueryError::MemoryExhausted);
        }
    }

    /// Returns the JSON of the page. `agents` are the registered agents by pod name.
    pub(super) fn json(&self, agents: &HashMap<String, NodeAgent>) -> Vec<u8> {
        let nodes = self.nodes.values();
        go_json::page(&Page {
            nodes: nodes
                .map(|node| NodeJson::new(&node.entry, agents))
                .collect(),
            calls: self
                .calls
                .values()
                .map(|call| CallJson::new(&call.entry))
                .collect(),
        })
    }
}

/// Inserts an entry unless a greater one is present. Returns false if there is no memory for it.
fn merge<T: prost::Message>(
    entries: &mut BTreeMap<String, Reported<T>>,
    key: String,
    has_pod: bool,
    agent: &(String, AgentId),
    entry: T,
    memory: &mut Reservation,
) -> bool {
    let reported = Reported {
        has_pod,
        agent: agent.clone(),
        entry,
    };
    let rank = |reported: &Reported<T>| (reported.has_pod, reported.agent.clone());
    let known = entries.get(&key);
    if known.is_some_and(|known| rank(known) > rank(&reported)) {
        return true;
    }
    // What it replaces is not given back: agents agree, and replace little.
    let bytes = reported.entry.encoded_len().saturating_mul(DECODED_FACTOR);
    let fits = known.is_some() || memory.grow(bytes);
    if fits {
        entries.insert(key, reported);
    }
    fits
}

#[derive(Serialize)]
struct Page<'a> {
    nodes: Vec<NodeJson<'a>>,
    calls: Vec<CallJson<'a>>,
}

/// A node in the shape of Go's structure, which leaves out zero values, except the roles.
#[derive(Serialize)]
struct NodeJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<MetadataJson<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    grpc_address: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    http_address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<TimestampJson>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    property_repair_gossip_grpc_address: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    property_schema_grpc_address: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    property_schema_gossip_grpc_address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<String>,
    roles: Vec<String>,
}

#[derive(Serialize)]
struct MetadataJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    id: i64,
    #[serde(skip_serializing_if = "is_zero")]
    create_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    mod_revision: i64,
}

#[derive(Serialize)]
struct TimestampJson {
    #[serde(skip_serializing_if = "is_zero")]
    seconds: i64,
    #[serde(skip_serializing_if = "is_zero")]
    nanos: i64,
}

#[derive(Serialize)]
struct CallJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    target: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl<'a> NodeJson<'a> {
    fn new(node: &'a Node, agents: &HashMap<String, NodeAgent>) -> Self {
        let agent = node.labels.get(POD).and_then(|pod| agents.get(pod));
        Self {
            metadata: node.metadata.as_ref().map(MetadataJson::new),
            grpc_address: &node.grpc_address,
            http_address: &node.http_address,
            created_at: node.created_at.as_ref().map(TimestampJson::new),
            labels: &node.labels,
            property_repair_gossip_grpc_address: &node.property_repair_gossip_grpc_address,
            property_schema_grpc_address: &node.property_schema_grpc_address,
            property_schema_gossip_grpc_address: &node.property_schema_gossip_grpc_address,
            status: agent.map(|agent| {
                if agent.is_online {
                    "online"
                } else {
                    "unconnected"
                }
            }),
            last_heartbeat: agent.map(|agent| go_json::rfc3339(&agent.last_heartbeat.timestamp())),
            roles: node.roles.iter().copied().map(role_name).collect(),
        }
    }
}

impl<'a> MetadataJson<'a> {
    fn new(metadata: &'a Metadata) -> Self {
        Self {
            group: &metadata.group,
            name: &metadata.name,
            id: metadata.id.into(),
            create_revision: metadata.create_revision,
            mod_revision: metadata.mod_revision,
        }
    }
}

impl TimestampJson {
    fn new(time: &Timestamp) -> Self {
        Self {
            seconds: time.seconds,
            nanos: time.nanos.into(),
        }
    }
}

impl<'a> CallJson<'a> {
    fn new(call: &'a Call) -> Self {
        Self {
            id: &call.id,
            target: &call.target,
            source: &call.source,
        }
    }
}

/// Returns the name of a role, or its number if it has none, as Go does.
pub(super) fn role_name(role: i32) -> String {
    Role::try_from(role).map_or_else(|_| role.to_string(), |role| role.as_str_name().to_owned())
}

#[cfg(test)]
mod tests;
