//! `/cluster/lifecycle`: the groups of the database with their data, and the reports of the nodes.

mod json;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::join};
use prost::Message as _;
use steadfast_session::Time;
use steadfast_wire::fodc::{
    GroupLifecycleInfo, LifecycleReport, StreamLifecycleRequest, StreamLifecycleResponse,
};
use tokio::time::Instant;

use super::{
    lanes::{Lifecycle, QueryError},
    registry::{AgentId, Identity},
    samples::Reservation,
    schema_consistency::{Evidence, GroupEvidence, NodeObjects, Round, SchemaHistory},
    schema_registry::{self, RegistrySchema},
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
    /// An agent has failed and sent no schema: that of its node is not known.
    lacks_schema: bool,
    /// The registry, with which the nodes are compared.
    registry: Option<RegistrySchema>,
    /// The times at which the agents were queried, and at which all had responded.
    began: Time,
    ended: Time,
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
    objects: NodeObjects,
    /// The nodes whose objects are above.
    nodes: BTreeMap<String, Evidence>,
}

/// Time limit of a query: that of the original, whose agents take up to 40 s.
const TIMEOUT: Duration = Duration::from_secs(50);

/// The error of a group whose objects did not all arrive at the agent of a node.
const TORN: &str = "torn stream";

/// Queries all online agents, and reads the registry meanwhile.
///
/// # Cancel safety
///
/// Dropping the future releases the agents.
pub(super) async fn collect(state: &Arc<State>) -> Lifecycles {
    let query = StreamLifecycleResponse {
        request_lifecycle: true,
    };
    let began = state.now();
    let agents = state.agents().online(began);
    let (_, registered) = state.census();
    let mut all = Lifecycles {
        registered,
        missing: Missing::new(agents.len()),
        began,
        ..Lifecycles::default()
    };
    let deadline = Instant::now() + TIMEOUT;
    let collecting = async {
        let mut responses = query_all::<Lifecycle>(state, agents, &query, deadline);
        while let Some(response) = responses.next().await {
            all.add(response);
        }
    };
    let ((), reading) = join(collecting, schema_registry::read(state, deadline)).await;
    all.ended = state.now();
    all.registry = reading.schema;
    // A cluster whose agents report no schema does not miss the registry.
    if all.groups.values().any(|group| !group.nodes.is_empty()) {
        if all.registry.is_none() && reading.failures.is_empty() {
            let reason = "no agent with the role ROLE_LIAISON is online";
            all.missing
                .note("schema registry".to_owned(), reason.to_owned());
        }
        for (name, reason) in reading.failures {
            all.missing.note(name, reason);
        }
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
        let has_failed = !message.error.is_empty();
        if has_failed {
            self.missing
                .add(identity, &QueryError::Source(message.error));
        }
        let pod = if message.pod_name.is_empty() {
            identity.name.clone()
        } else {
            message.pod_name
        };
        let data = message.lifecycle_data.unwrap_or_default();
        let mut groups = data.groups.iter();
        self.lacks_schema |= has_failed && groups.all(|it| it.schema_consistency.is_none());
        let evidence = if identity.has_profile() {
            Evidence::Fresh
        } else {
            Evidence::MaybeCached(hash(&data.groups))
        };
        for info in data.groups {
            let rank = (
                !info.data_info.is_empty(),
                identity.name.clone(),
                Some(agent.clone()),
            );
            self.groups
                .entry(info.name.clone())
                .or_default()
                .add(info, rank, evidence);
        }
        self.reports.insert((pod, agent.clone()), data.reports);
    }

    /// Returns the groups with everything the agents said about their schema, and the verdict.
    pub(super) fn into_groups(self, history: &mut SchemaHistory) -> Vec<GroupLifecycleInfo> {
        let is_partial = self.lacks_schema || self.missing.responded() < self.missing.requested();
        let round = Round {
            began: self.began,
            ended: self.ended,
        };
        let names: BTreeSet<_> = self.groups.keys().cloned().collect();
        let groups = self.groups.into_iter().map(|(name, group)| {
            let registry = self.registry.as_ref();
            let is_torn = group.errors.iter().any(|error| error.starts_with(TORN));
            let evidence = GroupEvidence {
                name: &name,
                registry: registry.and_then(|registry| registry.group(&name)),
                objects: group.objects,
                nodes: &group.nodes,
                is_partial: is_partial || is_torn,
            };
            GroupLifecycleInfo {
                errors: group.errors.into_iter().collect(),
                schema_consistency: history.judge(round, evidence),
                ..group.info
            }
        });
        let groups = groups.collect();
        // A group may be absent because an agent is.
        if is_partial {
            history.on_partial_round(&names);
        } else {
            history.retain(&names);
        }
        groups
    }
}

impl Group {
    fn add(
        &mut self,
        mut info: GroupLifecycleInfo,
        rank: (bool, String, Option<AgentId>),
        evidence: Evidence,
    ) {
        self.errors.extend(info.errors.drain(..));
        let schema = info.schema_consistency.take();
        for object in schema.into_iter().flat_map(|schema| schema.objects) {
            let nodes = object.node_fingerprints.iter();
            let nodes = nodes.map(|found| (found.node.clone(), evidence));
            self.nodes.extend(nodes);
            let fingerprints = self.objects.entry((object.kind, object.name)).or_default();
            fingerprints.extend(object.node_fingerprints);
        }
        if rank >= self.rank {
            self.info = info;
            self.rank = rank;
        }
    }
}

/// Returns a hash of everything in these groups.
fn hash(groups: &[GroupLifecycleInfo]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for group in groups {
        hasher.write(&group.encode_to_vec());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
