//! The schema registry of the cluster, which a liaison node serves: the fingerprint of every object.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use prost::Message;
use steadfast_wire::{
    banyandb::database::v1::{
        Catalog, Group, IndexRuleBinding, RegistryListRequest, RegistryListResponse, SchemaObject,
    },
    fodc::{
        SchemaObjectFingerprint, SchemaRegistryGroup, StreamSchemaRegistryRequest,
        StreamSchemaRegistryResponse,
    },
};
use tonic::Status;
use tracing::warn;

use super::{
    call::{self, NodeConnection, NodeMessage},
    fingerprint::{fingerprint, hash, rule_name},
};
use crate::uplink::source::{NotSent, Responses, SchemaRegistry, Source};

/// Answers with the fingerprints of all objects in the registry at the time of the query.
pub(crate) struct SchemaRegistrySource {
    /// The node's registry services.
    pub(crate) node: SocketAddr,
}

/// The index rules of a group: the names by which they are ordered, and their hashes, by name.
type Rules = BTreeMap<String, (String, u64)>;

/// Time limit of reading the whole registry, sending included. The original proxy waits 50 s.
const TIMEOUT: Duration = Duration::from_secs(40);

/// The number of objects in one message, as in the original.
const CHUNK: usize = 50;

const GROUPS: &str = "/banyandb.database.v1.GroupRegistryService/List";
const RULES: &str = "/banyandb.database.v1.IndexRuleRegistryService/List";
const BINDINGS: &str = "/banyandb.database.v1.IndexRuleBindingRegistryService/List";
const STREAMS: &str = "/banyandb.database.v1.StreamRegistryService/List";
const MEASURES: &str = "/banyandb.database.v1.MeasureRegistryService/List";
const TRACES: &str = "/banyandb.database.v1.TraceRegistryService/List";

impl NodeMessage for RegistryListResponse {
    const NAME: &'static str = "banyandb.database.v1.RegistryListResponse";
}

impl Source<SchemaRegistry> for SchemaRegistrySource {
    fn respond(
        &self,
        query: StreamSchemaRegistryResponse,
        responses: Responses<SchemaRegistry>,
    ) -> BoxFuture<'_, ()> {
        async move {
            // Any other message asks for nothing.
            if query.request_registry {
                self.answer(responses).await;
            }
        }
        .boxed()
    }
}

impl SchemaRegistrySource {
    async fn answer(&self, responses: Responses<SchemaRegistry>) {
        let sent = call::call(self.node, TIMEOUT, |connection| {
            send_groups(connection, &responses)
        });
        if let Err(error) = sent.await {
            warn!(%error, "schema registry is not read");
            // The group without a name stands for the whole registry.
            let failed = failed(String::new(), error.to_string());
            responses.send(&failed).await.ok();
        }
        let done = StreamSchemaRegistryRequest {
            group: None,
            done: true,
        };
        responses.send(&done).await.ok();
    }
}

/// Sends each group when it is read. One that cannot be read is sent with the reason.
async fn send_groups(
    mut connection: NodeConnection,
    responses: &Responses<SchemaRegistry>,
) -> Result<(), Status> {
    for encoded in list(&mut connection, GROUPS, "").await? {
        let group: Group = decode(&encoded)?;
        let name = group
            .metadata
            .as_ref()
            .map_or("", |metadata| &metadata.name);
        let error = match read_group(&mut connection, name, group.catalog(), &encoded).await {
            Ok(objects) => match send_chunks(name, objects, responses).await {
                Ok(()) => continue,
                Err(NotSent::StreamGone) => return Ok(()),
                Err(error) => error.to_string(),
            },
            // The proxy takes an empty error for none.
            Err(status) if status.message().is_empty() => status.code().to_string(),
            Err(status) => status.message().to_owned(),
        };
        warn!(group = name, error, "schema of a group is not read");
        // Chunks that were sent before do not count: the group has an error.
        let failed = failed(name.to_owned(), error);
        responses.send(&failed).await.ok();
    }
    Ok(())
}

/// Reads the objects of a group: the group, its index rules, and its streams, measures or traces.
async fn read_group(
    connection: &mut NodeConnection,
    group: &str,
    catalog: Catalog,
    encoded: &[u8],
) -> Result<Vec<SchemaObjectFingerprint>, Status> {
    let mut objects = vec![object(
        "group",
        group.to_owned(),
        fingerprint(hash(encoded), []),
    )];
    let mut rules = Rules::new();
    for rule in list(connection, RULES, group).await? {
        let (name, hash) = (object_name(&rule)?, hash(&rule));
        objects.push(object("indexRule", name.clone(), fingerprint(hash, [])));
        rules.insert(name, (rule_name(&rule), hash));
    }
    let bindings = list(connection, BINDINGS, group).await?;
    let (kind, path) = match catalog {
        Catalog::Stream => ("stream", STREAMS),
        Catalog::Measure => ("measure", MEASURES),
        Catalog::Trace => ("trace", TRACES),
        // Their schema is not compared.
        Catalog::Property | Catalog::Unspecified => return Ok(objects),
    };
    let bound = bound_rules(&bindings, catalog)?;
    for resource in list(connection, path, group).await? {
        let name = object_name(&resource)?;
        let names = bound.get(&name).into_iter().flatten();
        // A binding may name a rule that was deleted.
        let rules = names.filter_map(|name| rules.get(name).cloned());
        let fingerprint = fingerprint(hash(&resource), rules);
        objects.push(object(kind, name, fingerprint));
    }
    Ok(objects)
}

/// Returns the names of the index rules of each resource of a catalog.
fn bound_rules(
    bindings: &[Bytes],
    catalog: Catalog,
) -> Result<BTreeMap<String, Vec<String>>, Status> {
    let mut bound = BTreeMap::<String, Vec<String>>::new();
    for binding in bindings {
        let binding: IndexRuleBinding = decode(binding)?;
        if let Some(subject) = binding.subject
            && subject.catalog() == catalog
        {
            bound.entry(subject.name).or_default().extend(binding.rules);
        }
    }
    Ok(bound)
}

/// Sends the objects of a group in messages of at most [`CHUNK`]. A group always has one, itself.
async fn send_chunks(
    group: &str,
    objects: Vec<SchemaObjectFingerprint>,
    responses: &Responses<SchemaRegistry>,
) -> Result<(), NotSent> {
    for objects in objects.chunks(CHUNK) {
        let message = StreamSchemaRegistryRequest {
            group: Some(SchemaRegistryGroup {
                group: group.to_owned(),
                objects: objects.to_vec(),
                error: String::new(),
            }),
            done: false,
        };
        responses.send(&message).await?;
    }
    Ok(())
}

/// Returns the message about a group that was not read.
fn failed(group: String, error: String) -> StreamSchemaRegistryRequest {
    StreamSchemaRegistryRequest {
        group: Some(SchemaRegistryGroup {
            group,
            objects: Vec::new(),
            error,
        }),
        done: false,
    }
}

/// Returns the encoded objects of one kind.
async fn list(
    connection: &mut NodeConnection,
    path: &'static str,
    group: &str,
) -> Result<Vec<Bytes>, Status> {
    let request = RegistryListRequest {
        group: group.to_owned(),
    };
    let RegistryListResponse { objects } = connection.unary(path, request).await?;
    Ok(objects)
}

fn object(kind: &str, name: String, fingerprint: u64) -> SchemaObjectFingerprint {
    SchemaObjectFingerprint {
        kind: kind.to_owned(),
        name,
        fingerprint,
    }
}

fn object_name(encoded: &Bytes) -> Result<String, Status> {
    let object: SchemaObject = decode(encoded)?;
    Ok(object.metadata.unwrap_or_default().name)
}

fn decode<M: Message + Default>(encoded: &Bytes) -> Result<M, Status> {
    M::decode(encoded.clone())
        .map_err(|error| Status::internal(format!("schema object cannot be decoded: {error}")))
}
