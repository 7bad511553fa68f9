//! The schema registry of the cluster, as an agent of a liaison node reports it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use steadfast_wire::fodc::{
    SchemaRegistryGroup, StreamSchemaRegistryRequest, StreamSchemaRegistryResponse,
};
use tokio::time::{Instant, sleep};

use super::{
    lanes::{QueryError, SchemaRegistry},
    registry::{AgentId, Identity},
    samples::Reservation,
    schema_consistency::Fingerprints,
    state::State,
    stream_queries::query,
};

/// The objects of all groups in the registry.
#[derive(Debug, Default)]
pub(super) struct RegistrySchema {
    groups: BTreeMap<String, GroupSchema>,
    /// Memory for the messages whose content is above.
    memory: Vec<Reservation>,
}

/// The objects of one group.
#[derive(Debug, Default)]
struct GroupSchema {
    fingerprints: Fingerprints,
    /// The group was not read, or not to its end.
    failed: bool,
}

/// The result of asking the liaison agents.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// `None` if no agent has sent all of it.
    pub(super) schema: Option<RegistrySchema>,
    /// Agents that failed, and groups that an agent could not read, with the reasons.
    pub(super) failures: Vec<(String, String)>,
}

/// The role of the agents that are asked.
const LIAISON: &str = "ROLE_LIAISON";

/// Time after which the next agent is asked, too, while one has not sent everything. The original asks one
/// after the other with 50 s each, so that its page waits as often as agents hang.
const NEXT_AGENT: Duration = Duration::from_secs(10);

/// Asks the agents of liaison nodes in the order of their ids, until one has sent the whole registry.
///
/// # Cancel safety
///
/// Dropping the future releases the agents.
pub(super) async fn read(state: &Arc<State>, deadline: Instant) -> Reading {
    let mut liaisons = state.agents().online(state.now());
    liaisons.retain(|(_, identity)| identity.role == LIAISON);
    let mut liaisons = liaisons.into_iter();
    let mut reads = FuturesUnordered::new();
    let mut reading = Reading::default();
    loop {
        if let Some((agent, identity)) = liaisons.next() {
            reads.push(read_from(state, agent, identity, deadline));
        }
        tokio::select! {
            read = reads.next() => match read {
                None => return reading,
                Some((_, Ok(schema))) => {
                    reading.schema = Some(schema);
                    return reading;
                }
                Some((identity, Err(error))) => {
                    state.counters.streams.of("schema").failed.add(1);
                    let reason = format!("schema registry: {error}");
                    reading.failures.push((identity.name.clone(), reason));
                }
            },
            () = sleep(NEXT_AGENT), if liaisons.len() > 0 => {}
        }
    }
}

async fn read_from(
    state: &Arc<State>,
    agent: AgentId,
    identity: Arc<Identity>,
    deadline: Instant,
) -> (Arc<Identity>, Result<RegistrySchema, QueryError>) {
    let read = async {
        let message = StreamSchemaRegistryResponse {
            request_registry: true,
        };
        let mut pending = query::<SchemaRegistry>(state, &agent, message)?;
        let mut schema = RegistrySchema::default();
        while let Some(message) = pending.next(deadline).await? {
            schema.add(message.body)?;
            schema.memory.push(message.reservation);
        }
        Ok(schema)
    };
    let read = read.await;
    (identity, read)
}

impl RegistrySchema {
    /// Adds a chunk. A group without a name has the error of the whole registry.
    pub(super) fn add(&mut self, message: StreamSchemaRegistryRequest) -> Result<(), QueryError> {
        let Some(group) = message.group else {
            return Ok(());
        };
        let SchemaRegistryGroup {
            group,
            objects,
            error,
        } = group;
        if group.is_empty() && !error.is_empty() {
            return Err(QueryError::Source(error));
        }
        let schema = self.groups.entry(group).or_default();
        schema.failed |= !error.is_empty();
        let objects = objects.into_iter();
        let objects = objects.map(|object| ((object.kind, object.name), object.fingerprint));
        schema.fingerprints.extend(objects);
        Ok(())
    }

    /// Returns the fingerprints of a group; `None` if the group was not read. One that the registry does
    /// not have is empty.
    pub(super) fn group(&self, name: &str) -> Option<&Fingerprints> {
        static EMPTY: Fingerprints = Fingerprints::new();
        match self.groups.get(name) {
            None => Some(&EMPTY),
            Some(GroupSchema { failed: true, .. }) => None,
            Some(GroupSchema { fingerprints, .. }) => Some(fingerprints),
        }
    }
}

#[cfg(test)]
mod tests;
