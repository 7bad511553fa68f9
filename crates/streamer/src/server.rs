//! The Streamer server: connects the hub and the log to sockets.
//!
//! ```text
//!   gateway ──> stream_service (one receiving task a stream) ──┐
//!                                                              v
//!   publisher ──> publish_service ──> LogWriter ── commits ──> hub task ──> ResponseQueue ──> gateway
//!   Puller ─────> puller_intake ────────^                      │  ^       operations <── HTTP/1
//!                                                              v  │
//!                                                            log reads ──> puller_feed ──> consumer
//! ```

mod access;
mod hub_handle;
mod hub_task;
mod incoming;
mod local;
pub mod operations;
mod publish_service;
mod puller_feed;
mod puller_intake;
mod stream_service;
mod time_lookup;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use hyper_util::service::TowerToHyperService;
use steadfast::session::ConfigFaults;
use steadfast_net::{
    AtLimit, Listener, ListenerOptions, Protocol, Tasks,
    access::{AccessControl, PolicyFile},
    http2,
};
use steadfast_wire::{
    publisher::publisher_service_server::PublisherServiceServer,
    puller::puller_service_server::PullerServiceServer,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService as _, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::info;

pub use self::{
    access::{policy_filter, policy_source},
    local::LocalServer,
};
pub use steadfast_net::access::PrincipalLimits;
pub use steadfast_net::{
    ClientAuth, RequestRate, Security, ServerTlsOptions, Tls, TlsError, UnfinishedLimits,
};

pub use self::puller_intake::{PullerCounters, PullerOptions, PullerStatus};
use self::{
    access::Admission,
    hub_handle::{HubHandle, HubMessage},
    hub_task::HubTask,
    operations::Sources,
    publish_service::PublishService,
    puller_feed::PullerFeed,
    puller_intake::{IntakeHandle, IntakeTask},
    stream_service::StreamService,
    time_lookup::TimeLookup,
};
use crate::{
    hub::{Hub, InitialState, InvalidLimits, Limits, Stats, StreamId},
    log::{Log, LogError, LogWriter, WriteError, WriterOptions},
};

/// Settings of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Limits of the hub.
    pub limits: Limits,
    /// Settings of the log's writer.
    pub writer: WriterOptions,
    /// Maximum number of open connections; further ones are closed at once. Default 65,536.
    pub max_connections: usize,
    /// Maximum number of open connections of one address, or of one /64 network of IPv6; further ones
    /// are closed at once. Default 32,768.
    pub max_client_connections: usize,
    /// Maximum time from the accept of a connection to its first call. Default 10 s.
    pub first_request_timeout: Duration,
    /// Time without a call after which a connection is ended. Default 10 min.
    pub idle_timeout: Duration,
    /// Maximum rate of calls of one address, or of one /64 network of IPv6. Default 2,000 per second,
    /// 20,000 at once.
    pub request_rate: Option<RequestRate>,
    /// Limits on messages that peers have begun and not finished. Default 32 MiB on a connection,
    /// 256 MiB in all, 30 s.
    pub unfinished: UnfinishedLimits,
    /// Offer gRPC reflection to everyone who can connect. Default false.
    pub reflection: bool,
    /// TLS, or the permission to do without where other machines can connect. Default plaintext on
    /// loopback addresses only.
    pub security: Security,
    /// Interval of the HTTP/2 pings that detect dead peers. Default 30 s.
    pub ping_interval: Duration,
    /// Timeout of a ping. Default 20 s.
    pub ping_timeout: Duration,
    /// Maximum number of unacknowledged entries of one publisher. Default 1,024.
    pub publisher_in_flight: u32,
    /// The Puller whose changes the server takes, besides those of publishers. Default none.
    pub puller: Option<PullerOptions>,
    /// Interval of the heartbeats to consumers of the Puller service. Default 30 s.
    pub puller_heartbeat: Duration,
    /// The policy file: who peers are, and what they may do. It is read again when it changes. Default
    /// none: everybody may do everything.
    pub access: Option<PathBuf>,
    /// Open a way for other parts of the process, which may do everything: [`Server::local`]. Default false.
    pub local: bool,
    /// Limits on the calls of one principal. Without a policy file there are none.
    pub principals: PrincipalLimits,
    /// Informative name that peers are told. Default: random.
    pub server_id: String,
}

/// A running server. Dropping it cuts every connection; [`Server::drain`] shuts it down in order.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    hub: HubHandle,
    writer: LogWriter,
    /// The tasks of the listener, of its connections, and of their calls.
    tasks: Tasks,
    accepting: Fuse<JoinHandle<Option<()>>>,
    hub_task: Fuse<JoinHandle<&'static str>>,
    stop_hub: CancellationToken,
    puller: Option<Arc<IntakeHandle>>,
    local: Option<LocalServer>,
    sources: Sources,
}

/// The reason why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] InvalidLimits),
    /// The system did not provide a resource.
    #[error("cannot start the server")]
    Io(#[from] io::Error),
    /// The state of the intake could not be read.
    #[error("cannot read the log")]
    Log(#[from] LogError),
    /// The settings of the session with the Puller contradict each other.
    #[error("cannot start the intake from the Puller")]
    Puller(#[from] ConfigFaults),
    /// The policy file has faults.
    #[error("the policy file cannot be used:\n{0}")]
    Access(#[from] steadfast_access::Faults),
    /// The reflection service could not be built.
    #[error("cannot build the reflection service")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Flow-control window of a stream. Small, because it bounds the memory that one stream can occupy.
const STREAM_WINDOW: u32 = 64 << 10;
/// Flow-control window of a connection. More than 101 stream windows: below that, h2 closes the
/// connection if one stream leaves many small messages unread (docs/decisions/0004).
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Maximum number of concurrent calls on one connection.
const MAX_CALLS: u32 = 4_096;

/// Additional time after the grace period: to flush the last messages and to close the log.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The services whose health is reported.
const SERVICES: [&str; 3] = [
    StreamService::NAME,
    PublisherServiceServer::<PublishService>::NAME,
    PullerServiceServer::<PullerFeed>::NAME,
];

/// Longest wait for connections to close by themselves after their streams have ended.
const FLUSH_TIME: Duration = Duration::from_secs(2);

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            writer: WriterOptions::default(),
            max_connections: 65_536,
            max_client_connections: 32_768,
            first_request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            request_rate: Some(RequestRate::default()),
            unfinished: UnfinishedLimits::default(),
            reflection: false,
            security: Security::default(),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(20),
            publisher_in_flight: 1_024,
            puller: None,
            puller_heartbeat: Duration::from_secs(30),
            access: None,
            local: false,
            principals: PrincipalLimits::default(),
            server_id: uuid::Uuid::new_v4().to_string(),
        }
    }
}

impl Server {
    /// Starts serving `log` on `listener`.
    ///
    /// # Errors
    ///
    /// Returns an error if the limits contradict each other, if other machines could connect without TLS
    /// and that is not allowed, or if the system does not provide a thread.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a server has its own options"
    )]
    pub fn start(
        listener: TcpListener,
        log: Box<dyn Log>,
        options: ServerOptions,
    ) -> Result<Self, StartError> {
        let tasks = Tasks::new();
        let listener = Listener::new(listener, listener_options(&options), &tasks)?;
        let (address, connections) = (listener.address(), listener.connections());

        // The hub takes the log's bounds before the writer can commit: it receives every event after
        // them exactly once.
        let reader = log.reader();
        let initial = InitialState {
            server_id: options.server_id.clone(),
            terms: reader.terms(),
            bounds: reader.bounds(),
            seed: seed(),
        };
        let (head, head_reader) = watch::channel(initial.bounds.head);
        let stored = reader.producer(puller_intake::PRODUCER)?;
        let (marker, lost_before) = puller_intake::stored_marker(&stored, initial.bounds.head);
        let (access, policy) = AccessControl::load(options.access.as_deref().map(policy_source))?;
        let mut hub = Hub::new(initial, options.limits.clone())?;
        if access.is_restricted() {
            hub = hub.restricted();
        }
        let (hub, task, commits) = HubTask::new(hub, Arc::clone(&reader), access.clone());
        let times = TimeLookup::new(Arc::clone(&reader), task.head());
        let stop_hub = CancellationToken::new();
        if let Some(policy) = policy {
            follow(policy, &hub, &stop_hub);
        }
        // Before the first stream, and also if there is no intake now: positions from before the loss
        // are still out there.
        if let Some(before) = lost_before {
            hub.send(HubMessage::Lost(before));
        }
        let writer = LogWriter::spawn(log, options.writer, move |events| {
            commits.send(events);
            if let Some(last) = events.last() {
                head.send_replace(last.offset);
            }
        })?;
        let consumer = format!("steadfast-{}", uuid::Uuid::new_v4());
        let intake = options.puller.clone().map(|from| {
            let log = puller_intake::Log {
                writer: writer.clone(),
                reader: Arc::clone(&reader),
                hub: hub.clone(),
                consumer: consumer.clone(),
            };
            IntakeTask::start(from, marker, stored.last_sequence, log)
        });
        let puller = intake.transpose()?.map(|intake| run_intake(intake, &tasks));
        let admission = Admission::new(&access, options.principals, &connections);
        let feed = PullerFeed::new(
            Arc::clone(&reader),
            head_reader,
            options.puller_heartbeat,
            &consumer,
            tasks.drain_token(),
            admission.clone(),
        );
        let sources = Sources {
            server_id: options.server_id.clone(),
            address,
            started: Instant::now(),
            hub: hub.clone(),
            writer: writer.clone(),
            reader,
            publishing: Arc::default(),
            connections,
            tls: options.security.tls.clone(),
            puller: puller.clone(),
            access,
            drain: tasks.drain_token(),
        };
        let routes = services(&options, &sources, (feed, admission, times), &tasks)?;

        let (stopped, drain) = (stop_hub.clone(), tasks.drain_token().drop_guard());
        // Not one of `tasks`: it must outlive the calls, whose last messages it sends.
        let hub_task = tokio::spawn(async move {
            // When the hub ends, even by a panic, no further connection is accepted.
            let _drain = drain;
            task.run(stopped).await
        });
        let (scope, http2) = (tasks.clone(), http2_options(&options));
        let local = options
            .local
            .then(|| LocalServer::start(routes.clone(), &http2, &tasks));
        let local = local.transpose()?;
        let accepting = tasks.spawn(listener.serve(move |socket| {
            let service = TowerToHyperService::new(routes.clone());
            http2::serve(socket, service, &http2, &scope)
        }));
        Ok(Self {
            address,
            hub,
            writer,
            tasks,
            accepting: accepting.fuse(),
            hub_task: hub_task.fuse(),
            stop_hub,
            puller,
            local,
            sources,
        })
    }

    /// Returns the address that the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the way for other parts of the process, if [`ServerOptions::local`] is set.
    #[must_use]
    pub fn local(&self) -> Option<&LocalServer> {
        self.local.as_ref()
    }

    /// Returns the hub's gauges and counters, or `None` if the hub has stopped.
    pub async fn stats(&self) -> Option<Stats> {
        self.hub.stats().await
    }

    /// Returns the status of the intake from a Puller, or `None` if there is none.
    #[must_use]
    pub fn puller(&self) -> Option<PullerStatus> {
        self.puller.as_deref().map(IntakeHandle::status)
    }

    /// Waits until the server stops because of a failure, and returns a description of it. All streams
    /// have then ended, and new ones are rejected. Resolves once only.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn failed(&mut self) -> String {
        tokio::select! {
            // If both have ended, the hub is the cause: its end drains the server and so ends the
            // listener.
            biased;
            ended = &mut self.hub_task => match ended {
                Ok(reason) => reason.to_owned(),
                Err(error) => format!("its hub panicked: {error}"),
            },
            ended = &mut self.accepting => match ended {
                Ok(_) => "its listener ended".to_owned(),
                Err(error) => format!("its listener panicked: {error}"),
            },
        }
    }

    /// Shuts the server down in order: stops accepting connections, announces the drain to every
    /// stream, serves the streams for at most `grace`, ends the remaining ones, commits what is queued
    /// and closes the log.
    ///
    /// # Errors
    ///
    /// Returns an error if the log did not close cleanly. Acknowledged entries are durable even then.
    pub async fn drain(mut self, grace: Duration, reason: &str) -> Result<(), WriteError> {
        info!(reason, grace_ms = grace.as_millis() as u64, "draining");
        // Before the streams learn of it: a client that reconnects must not arrive here again.
        self.tasks.start_drain();
        let drained = self.hub.drain(grace, reason);
        let streams_ended = async {
            drained.await.ok();
            tokio::time::sleep(FLUSH_TIME).await;
        };
        tokio::select! {
            () = self.tasks.drain(grace + CLOSE_TIMEOUT) => {}
            // Every stream has its status. A connection that is still open belongs to a peer that is
            // dead or ignores GOAWAY, and would stay open until the deadline.
            () = streams_ended => self.tasks.drain(Duration::ZERO).await,
        }
        // After the calls, which may have queued entries until their end.
        let closed = self.writer.shutdown(grace.max(CLOSE_TIMEOUT)).await;
        // The hub may have ended by itself by now, since the writer held the only sender of its
        // commits.
        self.stop_hub.cancel();
        // If `failed` has returned its result, it would never resolve again.
        if !self.hub_task.is_terminated() {
            (&mut self.hub_task).await.ok();
        }
        closed
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cut();
        self.stop_hub.cancel();
    }
}

/// Runs the intake from a Puller until the server drains.
fn run_intake((handle, task): (IntakeHandle, IntakeTask), tasks: &Tasks) -> Arc<IntakeHandle> {
    let stopped = tasks.drain_token();
    // A server without its source would look healthy and deliver nothing: it drains when the intake ends,
    // even by a panic.
    let drain = tasks.drain_token().drop_guard();
    tasks.spawn(async move {
        let _drain = drain;
        task.run(stopped).await;
    });
    Arc::new(handle)
}

/// Follows the policy file until the hub stops.
fn follow(policy: PolicyFile, hub: &HubHandle, stop_hub: &CancellationToken) {
    let hub = hub.clone();
    let on_change = move |access| hub.send(HubMessage::AccessChanged(access, StreamId(0)));
    // Not one of the tasks of the server: streams last while it drains, and so do the rules for them.
    tokio::spawn(policy.follow(on_change, stop_hub.clone()));
}

fn listener_options(options: &ServerOptions) -> ListenerOptions {
    ListenerOptions {
        max_connections: options.max_connections,
        max_client_connections: options.max_client_connections,
        at_limit: AtLimit::Close,
        // HTTP/2 pings detect dead peers, and the hub ends a stream whose queue is not read
        // (`Limits::stall_timeout`). A slow application is not a dead peer.
        write_timeout: None,
        peer_timeout: None,
        security: options.security.clone(),
        protocol: Protocol::Http2,
        first_request_timeout: options.first_request_timeout,
        request_rate: options.request_rate,
        unfinished: options.unfinished,
        ..ListenerOptions::default()
    }
}

fn http2_options(options: &ServerOptions) -> http2::Options {
    http2::Options {
        stream_window: STREAM_WINDOW,
        short_frames: false,
        connection_window: CONNECTION_WINDOW,
        max_calls: MAX_CALLS,
        idle_timeout: options.idle_timeout,
        ping: Some(http2::Ping {
            interval: options.ping_interval,
            timeout: options.ping_timeout,
        }),
    }
}

/// Returns all services of the server.
fn services(
    options: &ServerOptions,
    sources: &Sources,
    (feed, admission, times): (PullerFeed, Admission, TimeLookup),
    tasks: &Tasks,
) -> Result<Routes, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    tasks.spawn(report_health(health, tasks.drain_token()));
    let message_bytes = options.limits.message_bytes;
    let streams = StreamService::new(sources.hub.clone(), times, admission.clone(), message_bytes);
    let publishing = PublisherServiceServer::new(PublishService::new(
        sources.writer.clone(),
        Arc::clone(&sources.reader),
        options.publisher_in_flight,
        tasks.drain_token(),
        Arc::clone(&sources.publishing),
        admission,
    ));
    let routes = Routes::new(health_service)
        .add_service(streams)
        .add_service(PullerServiceServer::new(feed))
        .add_service(publishing.max_decoding_message_size(message_bytes));
    if !options.reflection {
        return Ok(routes);
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(steadfast_wire::DESCRIPTORS)
        .build_v1()?;
    Ok(routes.add_service(reflection))
}

/// Reports all services as serving until the server drains.
async fn report_health(health: HealthReporter, drain: CancellationToken) {
    for service in SERVICES {
        health
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    drain.cancelled().await;
    for service in SERVICES {
        health
            .set_service_status(service, ServingStatus::NotServing)
            .await;
    }
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    seed[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    seed
}

#[cfg(test)]
mod tests;
