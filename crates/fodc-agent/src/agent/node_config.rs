//! The settings of what the agent asks the database node beside it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use steadfast_fodc_model::identity::Identity;
use tokio::sync::watch;

use crate::{
    clock::Clock,
    node::{RoleDiscovery, TopologySource},
    uplink::source::Sources,
};

/// The services of the database node beside the agent. Without an uplink none is called.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeConfig {
    /// The addresses that serve the state of the cluster. With at least one, the role and the labels of
    /// the node are discovered, unless they are configured, and the proxy can ask for the topology.
    /// The first one whose node has a role counts.
    pub cluster_state: Vec<SocketAddr>,
    /// The time between two questions for the role. Default 30 s.
    pub cluster_state_interval: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            cluster_state: Vec::new(),
            cluster_state_interval: Duration::from_secs(30),
        }
    }
}

impl NodeConfig {
    /// Returns the sources that are configured.
    pub(super) fn sources(
        &self,
        identity: &watch::Sender<Identity>,
        clock: &Arc<dyn Clock>,
    ) -> Sources {
        let topology = TopologySource {
            nodes: self.cluster_state.clone(),
            identity: identity.subscribe(),
            clock: Arc::clone(clock),
        };
        Sources {
            topology: (!self.cluster_state.is_empty()).then(|| Arc::new(topology) as _),
            ..Sources::default()
        }
    }

    /// Returns the task that discovers the identity, if there is a service for it.
    pub(super) fn role_discovery(
        &self,
        identity: &watch::Sender<Identity>,
    ) -> Option<RoleDiscovery> {
        (!self.cluster_state.is_empty()).then(|| RoleDiscovery {
            nodes: self.cluster_state.clone(),
            interval: self.cluster_state_interval,
            configured: identity.borrow().clone(),
            identity: identity.clone(),
        })
    }
}
