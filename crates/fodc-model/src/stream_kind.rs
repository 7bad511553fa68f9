//! The streams on which the proxy queries an agent, other than the metrics stream.
//!
//! On each, the proxy sends queries and the agent responds. In the protocol the agent opens the call, so
//! that its responses are named requests and the proxy's queries responses.

use std::fmt;

use steadfast_wire::fodc::{
    StreamClusterTopologyRequest, StreamClusterTopologyResponse, StreamCrashDiagnosticsRequest,
    StreamCrashDiagnosticsResponse, StreamLifecycleRequest, StreamLifecycleResponse,
    StreamPressureProfilesRequest, StreamPressureProfilesResponse, StreamSchemaRegistryRequest,
    StreamSchemaRegistryResponse,
};

/// A kind of stream on which the proxy queries agents.
pub trait StreamKind: fmt::Debug + Sized + Send + Sync + 'static {
    /// The name of the method.
    const METHOD: &'static str;
    /// The name in logs, metrics and texts.
    const NAME: &'static str;
    /// The message from the proxy.
    type Query: prost::Message + Clone + Default + 'static;
    /// The message from the agent.
    type Response: prost::Message + Default + 'static;
}

/// The nodes and calls that the node knows: one message for each query.
#[derive(Debug)]
pub struct Topology;

/// The groups of the node, with their data, and its reports: one message for each query.
#[derive(Debug)]
pub struct Lifecycle;

/// The crashes of the process beside the agent: one message each, and one of our profile for the end.
#[derive(Debug)]
pub struct Crashes;

/// The profiles that were captured: their list, or the chunks of one.
#[derive(Debug)]
pub struct Profiles;

/// The fingerprints of the cluster's schema registry: groups in chunks, then the end.
#[derive(Debug)]
pub struct SchemaRegistry;

impl StreamKind for Topology {
    const METHOD: &'static str = "StreamClusterTopology";
    const NAME: &'static str = "topology";
    type Query = StreamClusterTopologyResponse;
    type Response = StreamClusterTopologyRequest;
}

impl StreamKind for Lifecycle {
    const METHOD: &'static str = "StreamLifecycle";
    const NAME: &'static str = "lifecycle";
    type Query = StreamLifecycleResponse;
    type Response = StreamLifecycleRequest;
}

impl StreamKind for Crashes {
    const METHOD: &'static str = "StreamCrashDiagnostics";
    const NAME: &'static str = "crash";
    type Query = StreamCrashDiagnosticsResponse;
    type Response = StreamCrashDiagnosticsRequest;
}

impl StreamKind for Profiles {
    const METHOD: &'static str = "StreamPressureProfiles";
    const NAME: &'static str = "pressure";
    type Query = StreamPressureProfilesResponse;
    type Response = StreamPressureProfilesRequest;
}

impl StreamKind for SchemaRegistry {
    const METHOD: &'static str = "StreamSchemaRegistry";
    const NAME: &'static str = "schema";
    type Query = StreamSchemaRegistryResponse;
    type Response = StreamSchemaRegistryRequest;
}
