//! The topology that the node knows: itself, the nodes of its route tables, and the calls to them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join, join_all},
};
use steadfast_fodc_model::identity::Identity;
use steadfast_wire::{
    banyandb::database::v1::{GetClusterStateRequest, GetClusterStateResponse, Node},
    fodc::{Call, StreamClusterTopologyRequest, StreamClusterTopologyResponse, Topology},
};
use tokio::sync::watch;
use tracing::warn;

use super::{
    call::{self, NodeError, NodeMessage},
    role::current_node,
};
use crate::{
    clock::Clock,
    uplink::{
        self,
        source::{self, Responses, Source},
    },
};

/// Answers with the topology of the node at the time of the query.
pub(crate) struct TopologySource {
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) identity: watch::Receiver<Identity>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The answers of one node.
struct Answers {
    own: Result<Node, NodeError>,
    state: Result<GetClusterStateResponse, NodeError>,
}

/// Time limit of each call, as in the original.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The label that tells the proxy which agent belongs to a node.
const POD: &str = "pod_name";

impl Source<source::Topology> for TopologySource {
    fn respond(
        &self,
        query: StreamClusterTopologyResponse,
        responses: Responses<source::Topology>,
    ) -> BoxFuture<'_, ()> {
        async move {
            // Any other message asks for nothing.
            if query.request_topology {
                self.answer(responses).await;
            }
        }
        .boxed()
    }
}

impl TopologySource {
    async fn answer(&self, responses: Responses<source::Topology>) {
        let asked = self.nodes.iter().map(|address| async {
            let (own, state) = join(current_node(*address), cluster_state(*address)).await;
            Answers { own, state }
        });
        let answers = join_all(asked).await;
        let pod = self.identity.borrow().pod();
        let (topology, errors) = merge(answers, &pod);
        let error = errors.join("; ");
        if !error.is_empty() {
            warn!(error, "topology is incomplete");
        }
        let mut response = StreamClusterTopologyRequest {
            timestamp: Some(uplink::timestamp(self.clock.now_ms())),
            topology: Some(topology),
            error: responses.error_text(error),
        };
        if let Err(error) = responses.send(&response).await {
            // Empty, but a response: the proxy would wait for one until its deadline.
            warn!(%error, "topology was not sent");
            response.topology = Some(Topology::default());
            response.error = responses.error_text(error.to_string());
            responses.send(&response).await.ok();
        }
    }
}

impl NodeMessage for GetClusterStateResponse {
    const NAME: &'static str = "banyandb.database.v1.GetClusterStateResponse";
}

async fn cluster_state(address: SocketAddr) -> Result<GetClusterStateResponse, NodeError> {
    call::call(address, TIMEOUT, |mut connection| async move {
        let path = "/banyandb.database.v1.ClusterStateService/GetClusterState";
        connection.unary(path, GetClusterStateRequest {}).await
    })
    .await
}

/// Merges the answers of all nodes, and returns the failures beside them.
fn merge(answers: Vec<Answers>, pod: &str) -> (Topology, Vec<String>) {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    let mut calls: BTreeMap<String, Call> = BTreeMap::new();
    let mut errors = Vec::new();
    let mut states = Vec::new();
    // All own nodes first: a table must not take the place of one.
    for Answers { own, state } in answers {
        let own = own.map_err(|error| errors.push(error.to_string())).ok();
        let own = own.map(|mut node| {
            node.labels.insert(POD.to_owned(), pod.to_owned());
            let name = name(&node).to_owned();
            nodes.insert(name.clone(), node);
            name
        });
        match state {
            Ok(state) => states.push((own, state)),
            // An older node: it knows itself, and nothing is missing.
            Err(error) if error.is_unimplemented() => {}
            Err(error) => errors.push(error.to_string()),
        }
    }
    for (own, state) in states {
        let tables = state.route_tables.into_values();
        for node in tables.flat_map(|table| table.registered) {
            let target = name(&node).to_owned();
            if let Some(source) = own.as_ref().filter(|own| **own != target) {
                let call = Call {
                    id: format!("{source}-{target}"),
                    target: target.clone(),
                    source: source.clone(),
                };
                calls.insert(call.id.clone(), call);
            }
            nodes.entry(target).or_insert(node);
        }
    }
    let topology = Topology {
        nodes: nodes.into_values().collect(),
        calls: calls.into_values().collect(),
    };
    (topology, errors)
}

fn name(node: &Node) -> &str {
    node.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

#[cfg(test)]
mod tests;
