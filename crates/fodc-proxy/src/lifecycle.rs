//! `/cluster/lifecycle`: the groups of the database with their data, and the reports of the nodes.

mod json;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use steadfast_wire::fodc::{
    ConsistencyStatus, GroupLifecycleInfo, LifecycleReport, NodeFingerprint, ObjectConsistency,
    SchemaConsistency, StreamLifecycleRequest, StreamLifecycleResponse,
};
use tokio::time::Instant;

use super::{
    lanes::{Lifecycle, QueryError},
    registry::{AgentId, Identity},
    samples::Reservation,
    state::State,
    stream_queries::{Missing, StreamResponse, query_all},
};

/// The lifecycle data of all agents.
#[derive(Debug, Default)]
pub(super) struct Lifecycles {
    groups: BTreeMap<String, Group>,
    /// By pod name and agent.
    reports: BTreeMap<(String, AgentId), Vec<LifecycleReport>>,
    /// The number of registered agents, online or not.
    pub(super) registered: usize,
    pub(super) missing: Missing,
    /// Memory for the messages whose content is above.
    memory: Vec<Reservation>,
}

/// A group as the agents report it.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The report that counts for everything but the errors and the schema: of those with data the one
    /// of the last agent, by name.
    info: GroupLifecycleInfo,
    rank: (bool, String, Option<AgentId>),
    errors: BTreeSet<String>,
    /// The schema objects in the memory of the nodes, by kind and name.
    objects: BTreeMap<(String, String), Vec<NodeFingerprint>>,
}

/// Time limit of a query: that of the original, whose agents take up to 40 s.
const TIMEOUT: Duration = Duration::from_secs(50);

/// Queries all online agents.
///
/// # Cancel safety
///
/// Dropping the future releases the agents.
pub(super) async fn collect(state: &Arc<State>) -> Lifecycles {
    let query = StreamLifecycleResponse {
        request_lifecycle: true,
    };
    let agents = state.agents().online(state.now());
    let (_, registered) = state.census();
    let mut all = Lifecycles {
        registered,
        missing: Missing::new(agents.len()),
        ..Lifecycles::default()
    };
    let deadline = Instant::now() + TIMEOUT;
    let mut responses = query_all::<Lifecycle>(state, agents, &query, deadline);
    while let Some(response) = responses.next().await {
        all.add(response);
    }
    all
}

impl Lifecycles {
    fn add(&mut self, mut response: StreamResponse<Lifecycle>) {
        for message in response.take_messages(&mut self.missing) {
            self.memory.push(message.reservation);
            self.add_message(&response.agent, &response.identity, message.body);
        }
    }

    fn add_message(
        &mut self,
        agent: &AgentId,
        identity: &Identity,
        message: StreamLifecycleRequest,
    ) {
        if !message.error.is_empty() {
            self.missing
                .add(identity, &QueryError::Source(message.error));
        }
        let pod = if message.pod_name.is_empty() {
            identity.name.clone()
        } else {
            message.pod_name
        };
        let data = message.lifecycle_data.unwrap_or_default();
        for info in data.groups {
            let rank = (
                !info.data_info.is_empty(),
                identity.name.clone(),
                Some(agent.clone()),
            );
            self.groups
                .entry(info.name.clone())
                .or_default()
                .add(info, rank);
        }
        self.reports.insert((pod, agent.clone()), data.reports);
    }

    /// Returns the groups with everything the agents said about their schema.
    pub(super) fn into_groups(self) -> Vec<GroupLifecycleInfo> {
        self.groups.into_values().map(Group::into_info).collect()
    }
}

impl Group {
    fn add(&mut self, mut info: GroupLifecycleInfo, rank: (bool, String, Option<AgentId>)) {
        self.errors.extend(info.errors.drain(..));
        let schema = info.schema_consistency.take();
        for object in schema.into_iter().flat_map(|schema| schema.objects) {
            let fingerprints = self.objects.entry((object.kind, object.name)).or_default();
            fingerprints.extend(object.node_fingerprints);
        }
        if rank >= self.rank {
            self.info = info;
            self.rank = rank;
        }
    }

    fn into_info(self) -> GroupLifecycleInfo {
        let objects = self.objects.into_iter().map(|((kind, name), mut nodes)| {
            nodes.sort_by(|a, b| a.node.cmp(&b.node));
            nodes.dedup();
            ObjectConsistency {
                kind,
                name,
                registry_fingerprint: 0,
                node_fingerprints: nodes,
            }
        });
        let objects: Vec<_> = objects.collect();
        // Nothing is known about the registry, with which the nodes would be compared.
        let schema_consistency = (!objects.is_empty()).then(|| SchemaConsistency {
            status: ConsistencyStatus::Unknown.into(),
            objects,
            issues: Vec::new(),
        });
        GroupLifecycleInfo {
            errors: self.errors.into_iter().collect(),
            schema_consistency,
            ..self.info
        }
    }
}

#[cfg(test)]
mod tests;
