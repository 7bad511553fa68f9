//! A database node with scripted services.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use steadfast_wire::{
    banyandb::{
        common::v1::Metadata,
        database::v1::{
            GetClusterStateRequest, GetClusterStateResponse, GetCurrentNodeRequest,
            GetCurrentNodeResponse, GroupStateTrailer, Node, ObjectSnapshot, Role, RouteTable,
            SchemaBody, StreamGroupSchemaStateRequest, StreamGroupSchemaStateResponse,
            cluster_state_service_server::{ClusterStateService, ClusterStateServiceServer},
            node_query_service_server::{NodeQueryService, NodeQueryServiceServer},
            node_schema_state_service_server::{
                NodeSchemaStateService, NodeSchemaStateServiceServer,
            },
            stream_group_schema_state_response::Event,
        },
    },
    fodc::{
        GroupLifecycleInfo, InspectAllRequest, InspectAllResponse,
        group_lifecycle_service_server::{GroupLifecycleService, GroupLifecycleServiceServer},
    },
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A running node. Dropping it stops it.
pub(crate) struct StubNode {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// What the node answers.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) node: Node,
    pub(crate) tables: Vec<(&'static str, Vec<Node>)>,
    /// The groups, or the error of the service.
    pub(crate) groups: Option<Vec<GroupLifecycleInfo>>,
    /// Calls of `InspectAll` so far.
    pub(crate) inspected: usize,
    /// The number of objects that the trailer of each group names; each has one.
    pub(crate) objects: u32,
}

#[derive(Clone)]
struct Services(Arc<Mutex<State>>);

/// Returns a node of this name.
pub(crate) fn node(name: &str, roles: &[Role], labels: &[(&str, &str)]) -> Node {
    let labels = labels.iter();
    Node {
        metadata: Some(Metadata {
            name: name.to_owned(),
            ..Metadata::default()
        }),
        roles: roles.iter().map(|role| i32::from(*role)).collect(),
        labels: labels
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Node::default()
    }
}

/// Returns an address on which nothing listens.
pub(crate) async fn free_address() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap()
}

impl StubNode {
    pub(crate) async fn start(node: Node) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), node).await
    }

    pub(crate) async fn start_at(address: SocketAddr, node: Node) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            node,
            objects: 1,
            ..State::default()
        }));
        let services = Services(Arc::clone(&state));
        let server = tonic::transport::Server::builder()
            .add_service(NodeQueryServiceServer::new(services.clone()))
            .add_service(ClusterStateServiceServer::new(services.clone()))
            .add_service(GroupLifecycleServiceServer::new(services.clone()))
            .add_service(NodeSchemaStateServiceServer::new(services))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.unwrap() });
        Self {
            address,
            state,
            task,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for StubNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl NodeQueryService for Services {
    async fn get_current_node(
        &self,
        _: Request<GetCurrentNodeRequest>,
    ) -> Result<Response<GetCurrentNodeResponse>, Status> {
        let state = self.0.lock().unwrap();
        Ok(Response::new(GetCurrentNodeResponse {
            node: Some(state.node.clone()),
        }))
    }
}

#[tonic::async_trait]
impl ClusterStateService for Services {
    async fn get_cluster_state(
        &self,
        _: Request<GetClusterStateRequest>,
    ) -> Result<Response<GetClusterStateResponse>, Status> {
        let tables = self.0.lock().unwrap().tables.clone().into_iter();
        let tables = tables.map(|(kind, registered)| {
            let table = RouteTable {
                registered,
                ..RouteTable::default()
            };
            (kind.to_owned(), table)
        });
        Ok(Response::new(GetClusterStateResponse {
            route_tables: tables.collect(),
        }))
    }
}

#[tonic::async_trait]
impl GroupLifecycleService for Services {
    async fn inspect_all(
        &self,
        _: Request<InspectAllRequest>,
    ) -> Result<Response<InspectAllResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        state.inspected += 1;
        let groups = state.groups.clone();
        let groups = groups.ok_or_else(|| Status::internal("the groups cannot be inspected"))?;
        Ok(Response::new(InspectAllResponse { groups }))
    }
}

#[tonic::async_trait]
impl NodeSchemaStateService for Services {
    type StreamGroupSchemaStateStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<StreamGroupSchemaStateResponse, Status>>>;

    /// Sends one stream of each group, which is not applied, and the trailer.
    async fn stream_group_schema_state(
        &self,
        request: Request<StreamGroupSchemaStateRequest>,
    ) -> Result<Response<Self::StreamGroupSchemaStateStream>, Status> {
        assert_eq!(request.into_inner().group, "", "all groups");
        let state = self.0.lock().unwrap();
        let groups = state.groups.iter().flatten();
        let events = groups.flat_map(|group| {
            let object = Event::Object(ObjectSnapshot {
                group: group.name.clone(),
                kind: "stream".to_owned(),
                name: "s".to_owned(),
                cache: Some(SchemaBody::default()),
                runtime: None,
            });
            let trailer = Event::Trailer(GroupStateTrailer {
                group: group.name.clone(),
                node: "a".to_owned(),
                object_count: state.objects,
                errors: Vec::new(),
            });
            [object, trailer].map(|event| Ok(StreamGroupSchemaStateResponse { event: Some(event) }))
        });
        let events: Vec<_> = events.collect();
        Ok(Response::new(tokio_stream::iter(events)))
    }
}
