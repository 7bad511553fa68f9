//! The Streamer server: the hub, the log and their sockets put together.
//!
//! ```text
//!   gateway ──> stream_service (one receiving task a stream) ──┐
//!                                                              v
//!   publisher ──> publish_service ──> LogWriter ── commits ──> hub task ──> ResponseQueue ──> gateway
//!                                                              │  ^
//!                                                              v  │
//!                                                            log reads
//! ```

mod hub_handle;
mod hub_task;
mod incoming;
mod publish_service;
mod stream_service;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use hyper_util::service::TowerToHyperService;
use steadfast_net::{AtLimit, Listener, ListenerOptions, Tasks, http2};
use steadfast_wire::{
    publisher::publisher_service_server::PublisherServiceServer,
    streamer::streamer_service_server::StreamerServiceServer,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::info;

use self::{
    hub_handle::HubHandle, hub_task::HubTask, publish_service::PublishService,
    stream_service::StreamService,
};
use crate::{
    hub::{Hub, InitialState, InvalidLimits, Limits, Stats},
    log::{Log, LogWriter, WriteError, WriterOptions},
};

/// Settings of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// What it takes on.
    pub limits: Limits,
    /// How its log is written.
    pub writer: WriterOptions,
    /// The number of open connections; more are closed at once. Default 65,536.
    pub max_connections: usize,
    /// How often HTTP/2 pings look for peers that are gone. Default 30 s.
    pub ping_interval: Duration,
    /// How long a ping may go unanswered. Default 20 s.
    pub ping_timeout: Duration,
    /// Entries of one publisher that may be unanswered. Default 1,024.
    pub publisher_in_flight: u32,
    /// Name told to peers; informative. Default: random.
    pub server_id: String,
}

/// A running server. Dropping it cuts everything; [`Server::drain`] ends it in order.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    hub: HubHandle,
    writer: LogWriter,
    /// The listener, and all connections and calls.
    tasks: Tasks,
    listening: Fuse<JoinHandle<Option<()>>>,
    stop_hub: CancellationToken,
    hub_task: Fuse<JoinHandle<&'static str>>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The limits cannot work together.
    #[error(transparent)]
    Limits(#[from] InvalidLimits),
    /// The system refused something.
    #[error("cannot start the server")]
    Io(#[from] io::Error),
    /// The reflection service could not be built.
    #[error("cannot describe the services")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Flow control: small stream windows bound what one peer can make the server hold, and the connection
/// window never limits (docs/decisions/0004).
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// The number of calls that may be open on one connection.
const MAX_CALLS: u32 = 4_096;

/// What is left to do after the last stream has been told to end.
const GRACE: Duration = Duration::from_millis(500);

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            writer: WriterOptions::default(),
            max_connections: 65_536,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(20),
            publisher_in_flight: 1_024,
            server_id: uuid::Uuid::new_v4().to_string(),
        }
    }
}

impl Server {
    /// Starts serving `log` on `listener`.
    ///
    /// # Errors
    ///
    /// Returns an error if the limits cannot work together, or the system refuses a thread.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(
        listener: TcpListener,
        log: Box<dyn Log>,
        options: ServerOptions,
    ) -> Result<Self, StartError> {
        let tasks = Tasks::new();
        let listener = Listener::new(listener, listener_options(&options), &tasks)?;
        let address = listener.address();
        let http2 = http2_options(&options);
        let (publisher_in_flight, message_bytes) =
            (options.publisher_in_flight, options.limits.message_bytes);

        let reader = log.reader();
        let initial = InitialState {
            server_id: options.server_id,
            epoch: reader.epoch(),
            bounds: reader.bounds(),
            seed: seed(),
        };
        let hub = Hub::new(initial, options.limits)?;
        let (handle, task, commits) = HubTask::new(hub, Arc::clone(&reader));
        let writer = LogWriter::spawn(log, options.writer, move |events| commits.send(events))?;
        let streams = StreamService::new(handle.clone());
        let publishing = PublishService::new(
            writer.clone(),
            reader,
            publisher_in_flight,
            tasks.drain_token(),
        );
        let routes = routes(streams, publishing, message_bytes, &tasks)?;

        let stop_hub = CancellationToken::new();
        let (stopped, drain) = (stop_hub.clone(), tasks.drain_token().drop_guard());
        let hub_task = tokio::spawn(async move {
            // However the hub ends, by a panic too, no new connection is accepted.
            let _drain = drain;
            task.run(stopped).await
        });
        let scope = tasks.clone();
        let listening = tasks.spawn(listener.serve(move |socket| {
            let service = TowerToHyperService::new(routes.clone());
            http2::serve(socket, service, &http2, &scope)
        }));
        Ok(Self {
            address,
            hub: handle,
            writer,
            tasks,
            listening: listening.fuse(),
            stop_hub,
            hub_task: hub_task.fuse(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it holds and has done; `None` when it has stopped.
    pub async fn stats(&self) -> Option<Stats> {
        self.hub.stats().await
    }

    /// Resolves when the server has stopped by itself, which it does only when something failed, and
    /// says what. Its streams have ended then, and no new ones are taken. Once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn failed(&mut self) -> String {
        tokio::select! {
            biased;
            ended = &mut self.hub_task => match ended {
                Ok(why) => why.to_owned(),
                Err(error) => format!("its hub panicked: {error}"),
            },
            ended = &mut self.listening => match ended {
                Ok(_) => "its listener ended".to_owned(),
                Err(error) => format!("its listener panicked: {error}"),
            },
        }
    }

    /// Ends the server in order: takes no new connection, announces the stop to every stream,
    /// serves what it can until `grace` has passed, ends the streams that are left, commits what is
    /// queued and closes the log.
    ///
    /// # Errors
    ///
    /// When the log did not close well; everything acknowledged is in it all the same.
    pub async fn drain(mut self, grace: Duration, reason: &str) -> Result<(), WriteError> {
        info!(reason, grace_ms = grace.as_millis() as u64, "draining");
        self.tasks.start_drain();
        self.hub.drain(grace, reason);
        self.tasks.drain(grace + GRACE).await;
        let closed = self.writer.shutdown(grace.max(GRACE)).await;
        self.stop_hub.cancel();
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

fn listener_options(options: &ServerOptions) -> ListenerOptions {
    ListenerOptions {
        max_connections: options.max_connections,
        at_limit: AtLimit::Close,
        // HTTP/2 pings find dead peers, and the hub ends a stream whose queue is left untouched
        // (`Limits::stall_timeout`): a slow application is not dead.
        write_timeout: None,
        peer_timeout: None,
    }
}

fn http2_options(options: &ServerOptions) -> http2::Options {
    http2::Options {
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        max_calls: MAX_CALLS,
        ping: Some(http2::Ping {
            interval: options.ping_interval,
            timeout: options.ping_timeout,
        }),
    }
}

/// Returns all services. Health reports both as serving until the server drains.
fn routes(
    streams: StreamService,
    publishing: PublishService,
    message_bytes: usize,
    tasks: &Tasks,
) -> Result<Routes, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(steadfast_wire::DESCRIPTORS)
        .build_v1()?;
    let draining = tasks.drain_token();
    tasks.spawn(async move {
        health
            .set_serving::<StreamerServiceServer<StreamService>>()
            .await;
        health
            .set_serving::<PublisherServiceServer<PublishService>>()
            .await;
        draining.cancelled().await;
        health
            .set_not_serving::<StreamerServiceServer<StreamService>>()
            .await;
        health
            .set_not_serving::<PublisherServiceServer<PublishService>>()
            .await;
    });
    let streams = StreamerServiceServer::new(streams).max_decoding_message_size(message_bytes);
    let publishing =
        PublisherServiceServer::new(publishing).max_decoding_message_size(message_bytes);
    Ok(Routes::new(health_service)
        .add_service(reflection)
        .add_service(streams)
        .add_service(publishing))
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    seed[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    seed
}

#[cfg(test)]
mod tests;
