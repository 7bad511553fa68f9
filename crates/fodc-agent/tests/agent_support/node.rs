//! A database node with scripted services.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    extract::{Request as HttpRequest, State as Shared},
    http::Response as HttpResponse,
    routing::post,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use steadfast_wire::{
    banyandb::{
        common::v1::Metadata,
        database::v1::{
            GetClusterStateRequest, GetClusterStateResponse, GetCurrentNodeRequest,
            GetCurrentNodeResponse, GroupStateTrailer, Node, ObjectSnapshot, RegistryListRequest,
            RegistryListResponse, Role, RouteTable, SchemaBody, StreamGroupSchemaStateRequest,
            StreamGroupSchemaStateResponse,
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
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, UnaryService},
    service::Routes,
};
use tonic_prost::ProstCodec;

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
    /// The schema in memory, instead of one object for each group.
    pub(crate) schema: Option<Vec<Event>>,
    /// The encoded objects of the registry, by kind and group. Without a list of groups there is none.
    pub(crate) registry: BTreeMap<(&'static str, &'static str), Vec<Bytes>>,
    /// Each call of the registry waits for a permit, if there is a semaphore.
    pub(crate) registry_gate: Option<Arc<Semaphore>>,
    /// Calls of the registry that have begun.
    pub(crate) registry_calls: usize,
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
        let routes = Routes::new(NodeQueryServiceServer::new(services.clone()))
            .add_service(ClusterStateServiceServer::new(services.clone()))
            .add_service(GroupLifecycleServiceServer::new(services.clone()))
            .add_service(NodeSchemaStateServiceServer::new(services.clone()));
        let mut paths = routes.into_axum_router();
        for kind in REGISTRIES {
            let path = format!("/banyandb.database.v1.{kind}RegistryService/List");
            let list = async move |Shared(services), request| list(services, kind, request).await;
            paths = paths.route(&path, post(list).with_state(services.clone()));
        }
        let server = tonic::transport::Server::builder()
            .add_routes(Routes::from(paths))
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
        if let Some(events) = &state.schema {
            let events = events.iter().cloned();
            let events =
                events.map(|event| Ok(StreamGroupSchemaStateResponse { event: Some(event) }));
            return Ok(Response::new(tokio_stream::iter(
                events.collect::<Vec<_>>(),
            )));
        }
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

/// The kinds of objects that have a registry.
const REGISTRIES: [&str; 6] = [
    "Group",
    "IndexRule",
    "IndexRuleBinding",
    "Stream",
    "Measure",
    "Trace",
];

/// The registry of one kind.
struct Registry(Services, &'static str);

impl UnaryService<RegistryListRequest> for Registry {
    type Response = RegistryListResponse;
    type Future = BoxFuture<'static, Result<Response<RegistryListResponse>, Status>>;

    fn call(&mut self, request: Request<RegistryListRequest>) -> Self::Future {
        let (services, kind) = (self.0.clone(), self.1);
        Box::pin(async move {
            let group = request.into_inner().group;
            let gate = {
                let mut state = services.0.lock().unwrap();
                state.registry_calls += 1;
                state.registry_gate.clone()
            };
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            let state = services.0.lock().unwrap();
            if !state.registry.contains_key(&("Group", "")) {
                return Err(Status::unimplemented("this node has no registry"));
            }
            let objects = state.registry.iter();
            let mut objects =
                objects.filter(|((of, in_group), _)| *of == kind && *in_group == group);
            let objects = objects.next().map(|(_, objects)| objects.clone());
            Ok(Response::new(RegistryListResponse {
                objects: objects.unwrap_or_default(),
            }))
        })
    }
}

async fn list(services: Services, kind: &'static str, request: HttpRequest) -> HttpResponse<Body> {
    let codec = ProstCodec::<RegistryListResponse, RegistryListRequest>::default();
    Grpc::new(codec)
        .unary(Registry(services, kind), request)
        .await
}
