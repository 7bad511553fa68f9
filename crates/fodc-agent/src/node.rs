//! The database node beside the agent: what the agent asks its gRPC services.
//!
//! Each call dials, asks and hangs up, within one time limit. Nothing is retried within it: role
//! discovery asks again at its next tick, and a source when the proxy queries it again.

mod call;
mod fingerprint;
mod lifecycle;
mod role;
mod schema_registry;
mod schema_state;
mod topology;

pub(crate) use self::{
    lifecycle::LifecycleSource, role::RoleDiscovery, schema_registry::SchemaRegistrySource,
    topology::TopologySource,
};
