//! The gRPC service that agents call. All seven streams are accepted at once and held open.

mod idle;
mod metrics;
mod queried;
mod register;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use pin_project_lite::pin_project;
use steadfast_access::Action;
use steadfast_net::{
    CallSpawner, RequestBody,
    access::{KnownPeer, unauthenticated},
};
use tokio::sync::watch;
use tonic::{Status, body::Body, service::Routes};
use tower_service::Service as _;
use tracing::{error, warn};
use uuid::Uuid;

use self::register::Registrant;
use super::{
    credentials::{AdmittedPeer, Credentials},
    frames::{Inbound, Outbound},
    lanes::{Crashes, LaneKind, Lifecycle, Profiles, SchemaRegistry, StreamKind as _, Topology},
    registry::AgentId,
    state::State,
};

/// Serves the calls of one connection.
#[derive(Clone, Debug)]
pub(super) struct Service {
    state: Arc<State>,
    /// Health, and reflection if it is on.
    others: Routes,
    /// Runs the handlers in the task of the connection.
    spawner: CallSpawner,
}

type Responded = Result<Response<Body>, Infallible>;

/// The response to a call: at once, or that of another service.
type Responding = Either<BoxFuture<'static, Responded>, Ready<Responded>>;

/// One call.
#[derive(Debug)]
struct Call {
    state: Arc<State>,
    inbound: Inbound,
    outbound: Outbound,
}

impl Service {
    pub(super) fn new(state: Arc<State>, others: Routes) -> Self {
        Self {
            state,
            others,
            spawner: CallSpawner::default(),
        }
    }

    /// Returns the service for a connection, whose handlers are spawned there.
    pub(super) fn spawning(&self, spawner: CallSpawner) -> Self {
        Self {
            spawner,
            ..self.clone()
        }
    }

    /// Responds to a call.
    ///
    /// This is no async function: what one holds is held by hyper for as long as the call is open, and
    /// agents hold theirs open for as long as they run.
    pub(super) fn serve(&self, request: Request<RequestBody>) -> Responding {
        let path = request.uri().path();
        let Some(method) = path.strip_prefix("/banyandb.fodc.v1.FODCService/") else {
            let mut others = self.others.clone();
            return Either::Left(Box::pin(others.call(request.map(Body::new))));
        };
        // Copied, because the request is moved below.
        let name = METHODS.iter().copied().find(|known| *known == method);
        Either::Right(ready(Ok(self.call(name, request))))
    }

    /// Begins a call of the service, or refuses it.
    fn call(&self, name: Option<&'static str>, request: Request<RequestBody>) -> Response<Body> {
        if let Some(refusal) = refuse_non_grpc(&request) {
            return refusal;
        }
        let Some(name) = name else {
            return Status::unimplemented("no such method").into_http();
        };
        let peer = match self.admit(name, &request) {
            Ok(peer) => peer,
            Err(refusal) => return refusal.into_http(),
        };
        // The only stream without an id: its response assigns one.
        if name == REGISTER {
            // Random, so that an id from before a restart of the proxy never names another agent.
            let id = AgentId::new(&Uuid::new_v4().to_string());
            let credentials = peer
                .as_ref()
                .map(|peer| Credentials::new(peer.known.clone()));
            let opened = Opened {
                limit: REGISTRATION_BYTES,
                id: id.clone(),
                peer,
                renewed: credentials.as_ref().map(|it| it.renewable.subscribe()),
            };
            let agent = Box::new(Registrant { id, credentials });
            return self.run(opened, request, |mut call| async move {
                register::run(&mut call, &agent).await
            });
        }
        let Some(id) = agent_id(request.headers()) else {
            self.state.counters.unnamed_streams.add(1);
            warn!(
                method = name,
                "a stream without an agent id was refused: {NO_AGENT_ID}"
            );
            return Status::unauthenticated(NO_AGENT_ID).into_http();
        };
        // To a peer, the agents of others are unknown. No agent has the empty id.
        let known = peer.as_ref().map(|peer| &peer.known);
        let id = if self.state.may_connect(known, &id) {
            id
        } else {
            AgentId::new("")
        };
        let key = known.and_then(|_| agent_key(request.headers()));
        let opened = Opened {
            limit: self.state.config.max_message_bytes,
            id: id.clone(),
            peer,
            renewed: key.and_then(|key| self.state.agents().credentials(&id, key)),
        };
        match name {
            "StreamMetrics" => self.run(opened, request, |mut call| async move {
                metrics::run(&mut call, &id, name).await
            }),
            Topology::METHOD => self.query::<Topology>(opened, request, id),
            Lifecycle::METHOD => self.query::<Lifecycle>(opened, request, id),
            Crashes::METHOD => self.query::<Crashes>(opened, request, id),
            Profiles::METHOD => self.query::<Profiles>(opened, request, id),
            _ => self.query::<SchemaRegistry>(opened, request, id),
        }
    }

    /// Returns the peer of a call, or the status that refuses it.
    fn admit(
        &self,
        method: &str,
        request: &Request<RequestBody>,
    ) -> Result<Option<AdmittedPeer>, Status> {
        let access = &self.state.access;
        let (reason, status) = match access.identify(request.headers(), request.extensions()) {
            Ok(None) => return Ok(None),
            Ok(Some(known)) if known.allows(Action::Register) => {
                let permit = self.state.agent_calls.admit(&known)?;
                return Ok(Some(AdmittedPeer { known, permit }));
            }
            Ok(Some(_)) => (
                "forbidden",
                Status::permission_denied("you may not register agents"),
            ),
            Err(cause) => (cause.label(), unauthenticated(&cause)),
        };
        let counters = &self.state.counters;
        counters.refused_agents.add(reason);
        if method == REGISTER {
            counters.refused.add(reason);
        }
        Err(status)
    }

    /// Serves a stream of the kind `K`.
    fn query<K: LaneKind>(
        &self,
        opened: Opened,
        request: Request<RequestBody>,
        id: AgentId,
    ) -> Response<Body> {
        self.run(opened, request, |mut call| async move {
            queried::run::<K>(&mut call, &id).await
        })
    }

    /// Responds with headers at once and serves the call beside the others of its connection. A panic there
    /// ends this call and nothing else.
    fn run<F: Future<Output = Status> + Send + 'static>(
        &self,
        opened: Opened,
        request: Request<RequestBody>,
        serve: impl FnOnce(Call) -> F,
    ) -> Response<Body> {
        let Opened {
            limit,
            id,
            peer,
            renewed,
        } = opened;
        let (outbound, responses) = Outbound::new();
        let state = Arc::clone(&self.state);
        let withdrawn = peer.map(|AdmittedPeer { known, permit }| {
            let withdrawn = Arc::clone(&state).withdrawn(known, renewed, id);
            let counted = async move {
                let _permit = permit;
                withdrawn.await
            };
            counted.boxed()
        });
        let serving = Serving {
            withdrawn,
            handler: serve(Call {
                state: Arc::clone(&state),
                inbound: Inbound::new(request.into_body(), limit),
                outbound: outbound.clone(),
            }),
        };
        self.spawner.spawn(guarded(state, outbound, serving));
        let mut response = Response::new(Body::new(responses));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        response
    }
}

/// The beginning of a call.
struct Opened {
    /// The longest message.
    limit: usize,
    id: AgentId,
    /// `None` if there is no policy.
    peer: Option<AdmittedPeer>,
    /// The credentials of the registration that it is a part of.
    renewed: Option<watch::Receiver<KnownPeer>>,
}

pin_project! {
    /// A handler, which is dropped when its agent may not have the stream any more.
    struct Serving<F> {
        // `None` if there is no policy.
        withdrawn: Option<BoxFuture<'static, Status>>,
        #[pin]
        handler: F,
    }
}

impl<F: Future<Output = Status>> Future for Serving<F> {
    type Output = Status;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Status> {
        let this = self.project();
        // First: what arrives after the end of the rights does not count any more.
        if let Some(withdrawn) = this.withdrawn
            && let Poll::Ready(status) = withdrawn.poll_unpin(cx)
        {
            return Poll::Ready(status);
        }
        this.handler.poll(cx)
    }
}

/// Runs a handler until it ends or panics, and ends its call accordingly.
///
/// Not an async function, which would reserve space for `serving` twice; for the same reason, handlers
/// borrow their call. An agent holds seven of them.
fn guarded<F: Future<Output = Status>>(
    state: Arc<State>,
    outbound: Outbound,
    serving: F,
) -> impl Future<Output = ()> + use<F> {
    AssertUnwindSafe(serving).catch_unwind().map(move |served| {
        let status = served.unwrap_or_else(|_| {
            error!("the handler of a call panicked");
            state.counters.panics.add(1);
            Status::internal("the handler failed")
        });
        // No effect if the call has ended before, as one whose agent does not read.
        outbound.end(status);
    })
}

impl State {
    /// Returns the status of a stream that was ended with its agent: the one of the proxy's end, which ends
    /// all agents, or else `other`.
    fn end_status(&self, other: impl FnOnce() -> Status) -> Status {
        if self.tasks.is_draining() {
            Status::unavailable("the proxy is stopping")
        } else {
            other()
        }
    }
}

/// The method of the registration.
const REGISTER: &str = "RegisterAgent";

const METHODS: [&str; 7] = [
    REGISTER,
    "StreamMetrics",
    Topology::METHOD,
    Lifecycle::METHOD,
    Crashes::METHOD,
    Profiles::METHOD,
    SchemaRegistry::METHOD,
];

/// The longest registration or heartbeat. The proxy keeps its content for as long as the agent.
const REGISTRATION_BYTES: usize = 64 << 10;

/// The longest id that is looked up.
const ID_BYTES: usize = 128;

/// The refusal of a stream that names no agent. The agent logs it.
const NO_AGENT_ID: &str = "no agent id in the metadata: send the one from the registration as \
    `agent_id` or `agent-id`; a relay may have dropped it, as nginx does without \
    `underscores_in_headers on`";

fn agent_id(headers: &HeaderMap) -> Option<AgentId> {
    // The second spelling passes relays that drop names with an underscore.
    let value = headers.get("agent_id").or_else(|| headers.get("agent-id"));
    let text = value?.to_str().ok()?;
    let usable = !text.is_empty() && text.len() <= ID_BYTES;
    usable.then(|| AgentId::new(text))
}

/// Returns the key of the registration that a stream is a part of.
fn agent_key(headers: &HeaderMap) -> Option<Uuid> {
    let value = headers.get("agent-key")?;
    Uuid::try_parse_ascii(value.as_bytes()).ok()
}

/// Returns the response to a request that is not a gRPC call.
fn refuse_non_grpc(request: &Request<RequestBody>) -> Option<Response<Body>> {
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        // A prefix, because `application/grpc+proto` is gRPC as well.
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let status = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !grpc {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    Some(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::config::Config;

    #[test]
    fn idle_handlers_are_small() {
        fn size<F: Future<Output = Status>>(_: impl FnOnce(Call) -> F) -> usize {
            size_of::<F>()
        }
        let id = || AgentId::new("a");
        let id_of_metrics = id();
        let metrics = |mut call: Call| async move {
            metrics::run(&mut call, &id_of_metrics, "StreamMetrics").await
        };
        let id_of_topology = id();
        let topology = |mut call: Call| async move {
            queried::run::<Topology>(&mut call, &id_of_topology).await
        };
        let agent = Box::new(Registrant {
            id: id(),
            credentials: None,
        });
        let registration = |mut call: Call| async move { register::run(&mut call, &agent).await };
        // A thousand agents hold seven thousand of them, mostly of the second kind.
        let sizes = [size(metrics), size(topology), size(registration)];
        let limits = [900, 600, 800];
        assert!(
            sizes.iter().zip(limits).all(|(size, limit)| *size <= limit),
            "{sizes:?}"
        );
    }

    #[tokio::test]
    async fn panicking_handler_ends_only_its_call() {
        let state = Arc::new(State::new(Config::default()));
        let (outbound, responses) = Outbound::new();
        let panicking = async { panic!("on purpose") };
        guarded(Arc::clone(&state), outbound, panicking).await;
        let trailers = responses
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned()
            .unwrap();
        assert_eq!(trailers["grpc-status"], "13");
        let panics = state.counters.panics.get();
        assert_eq!(panics, 1);
    }
}
