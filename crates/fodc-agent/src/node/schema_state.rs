//! The schema objects in the memory of a node, as fingerprints.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    time::Duration,
};

use steadfast_wire::{
    banyandb::database::v1::{
        ObjectSnapshot, SchemaBody, StreamGroupSchemaStateRequest, StreamGroupSchemaStateResponse,
        stream_group_schema_state_response::Event,
    },
    fodc::{NodeFingerprint, ObjectConsistency},
};
use tonic::Status;

use super::{
    call::{self, NodeError, NodeMessage},
    fingerprint,
};

/// The state of one group.
#[derive(Debug, Default, PartialEq)]
pub(super) struct GroupState {
    pub(super) objects: Vec<ObjectConsistency>,
    pub(super) errors: Vec<String>,
}

/// The part of a node's answer that has arrived.
#[derive(Debug, Default)]
struct Reading {
    groups: BTreeMap<String, PartialGroup>,
    objects: usize,
    /// The length of all names and errors that are kept.
    bytes: usize,
}

/// A group whose trailer may not have arrived.
#[derive(Debug, Default)]
struct PartialGroup {
    /// The names and hashes of the index rules, in the order in which bodies refer to them.
    rules: Vec<(String, u64)>,
    objects: Vec<PartialObject>,
    trailer: Option<Trailer>,
}

#[derive(Debug)]
struct PartialObject {
    kind: String,
    name: String,
    cache: Option<Body>,
    runtime: Option<Body>,
}

/// The hash of a body, and its index rules.
#[derive(Debug)]
struct Body {
    hash: u64,
    rules: Vec<u32>,
}

#[derive(Debug)]
struct Trailer {
    node: String,
    objects: u32,
    errors: Vec<String>,
}

/// The number of objects and rules that are kept of one answer.
const OBJECTS_MAX: usize = 200_000;

/// The bytes of names, references and errors that are kept of one answer.
const BYTES_MAX: usize = 32 << 20;

impl NodeMessage for StreamGroupSchemaStateResponse {
    const NAME: &'static str = "banyandb.database.v1.StreamGroupSchemaStateResponse";
}

/// Reads the state of all groups, within `limit`.
pub(super) async fn read(
    address: SocketAddr,
    limit: Duration,
) -> Result<BTreeMap<String, GroupState>, NodeError> {
    call::call(address, limit, |mut connection| async move {
        let path = "/banyandb.database.v1.NodeSchemaStateService/StreamGroupSchemaState";
        let request = StreamGroupSchemaStateRequest::default();
        let mut events = connection.server_streaming(path, request).await?;
        let mut reading = Reading::default();
        while let Some(event) = events.message().await? {
            reading.take(event)?;
        }
        Ok(reading.finish())
    })
    .await
}

impl Reading {
    fn take(&mut self, event: StreamGroupSchemaStateResponse) -> Result<(), Status> {
        match event.event {
            Some(Event::Object(object)) => {
                self.objects += 1;
                self.bytes += object.group.len() + object.kind.len() + object.name.len();
                let bodies = object.cache.iter().chain(&object.runtime);
                let references = bodies.map(|body| body.bound_index_rule_refs.len());
                self.bytes += references.sum::<usize>() * size_of::<u32>();
                let group = self.groups.entry(object.group.clone()).or_default();
                group.objects.push(PartialObject::new(object));
            }
            Some(Event::RuleTable(table)) => {
                self.objects += table.rules.len();
                let group = self.groups.entry(table.group).or_default();
                for rule in &table.rules {
                    let name = fingerprint::rule_name(rule);
                    self.bytes += name.len();
                    group.rules.push((name, fingerprint::hash(rule)));
                }
            }
            Some(Event::Trailer(trailer)) => {
                let errors = trailer.errors.iter();
                self.bytes += errors
                    .map(|error| size_of::<String>() + error.len())
                    .sum::<usize>();
                self.bytes += trailer.group.len() + trailer.node.len();
                let group = self.groups.entry(trailer.group).or_default();
                group.trailer = Some(Trailer {
                    node: trailer.node,
                    objects: trailer.object_count,
                    errors: trailer.errors,
                });
            }
            // An event of a later version.
            None => {}
        }
        if self.objects > OBJECTS_MAX || self.groups.len() > OBJECTS_MAX {
            let text = format!("node has more than {OBJECTS_MAX} schema objects");
            return Err(Status::resource_exhausted(text));
        }
        if self.bytes > BYTES_MAX {
            let text = format!("names in the schema of the node exceed {BYTES_MAX} bytes");
            return Err(Status::resource_exhausted(text));
        }
        Ok(())
    }

    fn finish(self) -> BTreeMap<String, GroupState> {
        let groups = self.groups.into_iter();
        groups.map(|(name, group)| (name, group.finish())).collect()
    }
}

impl PartialGroup {
    fn finish(self) -> GroupState {
        let (received, rules) = (self.objects.len(), self.rules);
        let Some(trailer) = self.trailer else {
            return GroupState::torn(&format!("no trailer after {received} objects"));
        };
        if received != trailer.objects as usize {
            let text = format!("{received} of {} objects", trailer.objects);
            return GroupState::torn(&text);
        }
        let mut objects: BTreeMap<(String, String), ObjectConsistency> = BTreeMap::new();
        for object in self.objects {
            let Some(nodes) = object.fingerprints(&trailer.node, &rules) else {
                return GroupState::torn("a reference to a missing index rule");
            };
            // A node sends each object once; of two the first counts.
            if let Entry::Vacant(entry) = objects.entry((object.kind, object.name)) {
                let (kind, name) = entry.key().clone();
                entry.insert(ObjectConsistency {
                    kind,
                    name,
                    registry_fingerprint: 0,
                    node_fingerprints: vec![nodes],
                });
            }
        }
        GroupState {
            objects: objects.into_values().collect(),
            errors: trailer.errors,
        }
    }
}

impl GroupState {
    /// A part of a group would look like objects that the node does not have.
    fn torn(what: &str) -> Self {
        Self {
            objects: Vec::new(),
            errors: vec![format!("torn stream: {what}")],
        }
    }
}

impl PartialObject {
    fn new(object: ObjectSnapshot) -> Self {
        Self {
            kind: object.kind,
            name: object.name,
            cache: object.cache.map(Body::new),
            runtime: object.runtime.map(Body::new),
        }
    }

    /// Returns `None` if a body refers to a rule that was not sent. An absent body has the fingerprint 0.
    fn fingerprints(&self, node: &str, rules: &[(String, u64)]) -> Option<NodeFingerprint> {
        let fingerprint = |body: &Option<Body>| match body {
            Some(body) => body.fingerprint(rules),
            None => Some(0),
        };
        Some(NodeFingerprint {
            node: node.to_owned(),
            cache_fingerprint: fingerprint(&self.cache)?,
            runtime_fingerprint: fingerprint(&self.runtime)?,
        })
    }
}

impl Body {
    fn new(body: SchemaBody) -> Self {
        Self {
            hash: fingerprint::hash(&body.payload.unwrap_or_default().value),
            rules: body.bound_index_rule_refs,
        }
    }

    fn fingerprint(&self, rules: &[(String, u64)]) -> Option<u64> {
        let bound = self.rules.iter();
        let bound = bound.map(|index| rules.get(*index as usize).cloned());
        let bound: Option<Vec<_>> = bound.collect();
        Some(fingerprint::fingerprint(self.hash, bound?))
    }
}

#[cfg(test)]
mod tests;
