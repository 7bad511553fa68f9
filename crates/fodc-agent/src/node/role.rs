//! Role discovery: the role and the labels of the node, from the node itself.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use steadfast_fodc_model::identity::Identity;
use steadfast_wire::banyandb::database::v1::{
    GetCurrentNodeRequest, GetCurrentNodeResponse, Node, Role,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::call::{self, NodeError, NodeMessage};

/// The task that keeps the identity of the agent up to date.
pub(crate) struct RoleDiscovery {
    /// The services of the node, in the order in which they are asked.
    pub(crate) nodes: Vec<SocketAddr>,
    /// The time between two questions once the role is known.
    pub(crate) interval: Duration,
    /// The identity as configured. What it names is kept.
    pub(crate) configured: Identity,
    pub(crate) identity: watch::Sender<Identity>,
}

/// The time between two questions until the role is known.
const UNRESOLVED_INTERVAL: Duration = Duration::from_secs(1);

/// Time limit of one question, as in the original.
const TIMEOUT: Duration = Duration::from_secs(5);

impl RoleDiscovery {
    /// Asks at each tick until `stop`. There is no other retry.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(self) {
        let mut interval = self.interval.min(UNRESOLVED_INTERVAL);
        let mut failure = None;
        loop {
            let tick = Instant::now();
            let found = self.ask().await;
            report(&found, &mut failure);
            if let Ok(node) = found
                && self.adopt(node)
            {
                interval = self.interval;
            }
            sleep_until(tick + interval).await;
        }
    }

    /// Asks the nodes in their order, and returns the first whose role is known; otherwise the first
    /// that answers at all.
    async fn ask(&self) -> Result<Node, NodeError> {
        let mut first: Option<Result<Node, NodeError>> = None;
        for address in &self.nodes {
            match current_node(*address).await {
                Ok(node) if role(&node).is_some() => return Ok(node),
                found
                    if first
                        .as_ref()
                        .is_none_or(|first| first.is_err() && found.is_ok()) =>
                {
                    first = Some(found);
                }
                Ok(_) | Err(_) => {}
            }
        }
        first.expect("an address is configured")
    }

    /// Takes over the role and the labels of a node. Returns false while its role is not known.
    fn adopt(&self, node: Node) -> bool {
        let Some(role) = role(&node) else {
            return false;
        };
        let role = match self.configured.role.as_str() {
            "" | Identity::ROLE_UNKNOWN => role.to_owned(),
            configured => configured.to_owned(),
        };
        let mut labels: BTreeMap<String, String> = node.labels;
        // A registration with an unnamed label is refused.
        labels.remove("");
        labels.extend(self.configured.labels.clone());
        self.identity.send_if_modified(|identity| {
            let is_new = identity.role != role || identity.labels != labels;
            if is_new {
                info!(role, ?labels, "node has a new identity");
                identity.role.clone_from(&role);
                identity.labels = labels;
            }
            is_new
        });
        true
    }
}

/// Logs a failure once, until it is another one.
fn report(found: &Result<Node, NodeError>, last: &mut Option<String>) {
    let failure = match found {
        Ok(node) if role(node).is_some() => None,
        Ok(_) => Some("node has neither the role of a liaison nor of a data node".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    match &failure {
        Some(error) if failure != *last => info!(error, "role of the node is not known"),
        Some(error) => debug!(error, "role of the node is still not known"),
        None => {}
    }
    *last = failure;
}

impl NodeMessage for GetCurrentNodeResponse {
    const NAME: &'static str = "banyandb.database.v1.GetCurrentNodeResponse";
}

/// Asks the node at an address for itself.
pub(super) async fn current_node(address: SocketAddr) -> Result<Node, NodeError> {
    let response = call::call(address, TIMEOUT, |mut connection| async move {
        let path = "/banyandb.database.v1.NodeQueryService/GetCurrentNode";
        connection.unary(path, GetCurrentNodeRequest {}).await
    });
    let GetCurrentNodeResponse { node } = response.await?;
    // A response without a node is that of a node without anything known about it.
    Ok(node.unwrap_or_default())
}

/// Returns the first role that an agent can have.
fn role(node: &Node) -> Option<&'static str> {
    let known = node
        .roles
        .iter()
        .filter_map(|role| Role::try_from(*role).ok());
    known
        .filter(|role| matches!(role, Role::Liaison | Role::Data))
        .map(|role| role.as_str_name())
        .next()
}

#[cfg(test)]
mod tests;
