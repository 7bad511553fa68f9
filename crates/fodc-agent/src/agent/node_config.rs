//! The settings of what the agent asks the database node beside it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use steadfast_fodc_model::identity::Identity;
use tokio::sync::watch;

use crate::{
    clock::Clock,
    node::{LifecycleSource, RoleDiscovery, SchemaRegistrySource, TopologySource},
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
    /// The address that serves the groups of the node, with their data and schema.
    pub lifecycle: Option<SocketAddr>,
    /// The directory of the reports about moves between stages.
    pub lifecycle_reports: Option<PathBuf>,
    /// The time for which the node is not asked for its groups again. Default 10 min.
    pub lifecycle_cache_ttl: Duration,
    /// The address that serves the schema registry: that of a liaison node. A proxy asks agents of liaison
    /// nodes only.
    pub schema_registry: Option<SocketAddr>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            cluster_state: Vec::new(),
            cluster_state_interval: Duration::from_secs(30),
            lifecycle: None,
            lifecycle_reports: None,
            lifecycle_cache_ttl: Duration::from_secs(600),
            schema_registry: None,
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
        let has_lifecycle = self.lifecycle.is_some() || self.lifecycle_reports.is_some();
        let lifecycle = LifecycleSource {
            node: self.lifecycle,
            reports: self.lifecycle_reports.clone(),
            cache_ttl: self.lifecycle_cache_ttl,
            identity: identity.subscribe(),
            clock: Arc::clone(clock),
            cache: Mutex::default(),
        };
        let schema = self
            .schema_registry
            .map(|node| SchemaRegistrySource { node });
        Sources {
            schema: schema.map(|source| Arc::new(source) as _),
            topology: (!self.cluster_state.is_empty()).then(|| Arc::new(topology) as _),
            lifecycle: has_lifecycle.then(|| Arc::new(lifecycle) as _),
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
