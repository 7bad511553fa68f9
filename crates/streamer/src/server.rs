//! The Streamer server: the hub, the log and their sockets put together.
//!
//! ```text
//!   gateway ──> stream_service (one receiving task a stream) ──┐
//!                                                              v
//!   publisher ──> publish_service ──> LogWriter ── commits ──> hub task ──> outgoing ──> gateway
//!                                                              │  ^
//!                                                              v  │
//!                                                            log reads
//! ```

mod hub_task;
mod incoming;
mod outgoing;
mod publish_service;
mod socket;
mod stream_service;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{
    StreamExt as _,
    future::{Fuse, FusedFuture as _, FutureExt as _},
};
use steadfast_wire::{
    publisher::publisher_service_server::PublisherServiceServer,
    streamer::streamer_service_server::StreamerServiceServer,
};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinHandle},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use self::{
    hub_task::{HubHandle, HubTask},
    publish_service::PublishService,
    socket::Socket,
    stream_service::StreamService,
};
use crate::{
    hub::{Hub, InvalidLimits, Limits, Origin, Stats},
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
    refuse: CancellationToken,
    stop: CancellationToken,
    /// Cuts every connection. A peer that does not read keeps one open for as long as it likes.
    cut: CancellationToken,
    transport: Fuse<JoinHandle<Result<(), tonic::transport::Error>>>,
    accepting: AbortHandle,
    hub_task: Fuse<JoinHandle<&'static str>>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The limits can not work together.
    #[error(transparent)]
    Limits(#[from] InvalidLimits),
    /// The system refused something.
    #[error("can not start the server")]
    Io(#[from] io::Error),
    /// The reflection service could not be built.
    #[error("can not describe the services")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// HTTP/2 windows (docs/decisions/0004).
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Calls that may be open on one connection.
const CALLS_PER_CONNECTION: u32 = 4_096;

/// What is left to do after the last stream has been told to end.
const GRACE: Duration = Duration::from_millis(500);

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            writer: WriterOptions::default(),
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
    /// When the limits can not work together, or the system refuses a thread.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(
        listener: TcpListener,
        log: Box<dyn Log>,
        options: ServerOptions,
    ) -> Result<Self, StartError> {
        let address = listener.local_addr()?;
        let reader = log.reader();
        let origin = Origin {
            server_id: options.server_id.clone(),
            epoch: reader.epoch(),
            bounds: reader.bounds(),
            seed: seed(),
        };
        let message_bytes = options.limits.message_bytes;
        let hub = Hub::new(origin, options.limits)?;
        let (handle, task, commits) = HubTask::new(hub, Arc::clone(&reader));
        let writer = LogWriter::spawn(log, options.writer, move |events| commits.tell(events))?;
        let (refuse, stop) = (CancellationToken::new(), CancellationToken::new());
        let cut = CancellationToken::new();
        let (stopping, without_hub) = (stop.clone(), refuse.clone());
        let hub_task = tokio::spawn(async move {
            let _refuse = without_hub.drop_guard();
            task.run(stopping).await
        });

        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(steadfast_wire::DESCRIPTORS)
            .build_v1()?;
        let streams = StreamerServiceServer::new(StreamService::new(handle.clone()))
            .max_decoding_message_size(message_bytes);
        let publishing = PublisherServiceServer::new(PublishService::new(
            writer.clone(),
            Arc::clone(&reader),
            options.publisher_in_flight,
            refuse.clone(),
        ))
        .max_decoding_message_size(message_bytes);
        let router = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_adaptive_window(Some(false))
            .http2_keepalive_interval(Some(options.ping_interval))
            .http2_keepalive_timeout(Some(options.ping_timeout))
            .max_concurrent_streams(CALLS_PER_CONNECTION)
            .add_service(health_service)
            .add_service(reflection)
            .add_service(streams)
            .add_service(publishing);
        let switch = cut.clone();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let incoming =
            incoming.map(move |accepted| accepted.map(|tcp| Socket::new(tcp, switch.clone())));
        let until = refuse.clone();
        let transport = tokio::spawn(async move {
            health
                .set_serving::<StreamerServiceServer<StreamService>>()
                .await;
            health
                .set_serving::<PublisherServiceServer<PublishService>>()
                .await;
            let not_serving = async {
                until.cancelled_owned().await;
                health
                    .set_not_serving::<StreamerServiceServer<StreamService>>()
                    .await;
                health
                    .set_not_serving::<PublisherServiceServer<PublishService>>()
                    .await;
            };
            router
                .serve_with_incoming_shutdown(incoming, not_serving)
                .await
        });
        Ok(Self {
            address,
            hub: handle,
            writer,
            refuse,
            stop,
            cut,
            accepting: transport.abort_handle(),
            transport: transport.fuse(),
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
            ended = &mut self.transport => match ended {
                Ok(Ok(())) => "its transport ended".to_owned(),
                Ok(Err(error)) => format!("its transport failed: {error}"),
                Err(error) => format!("its transport panicked: {error}"),
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
        self.refuse.cancel();
        self.hub.drain(grace, reason);
        if !self.transport.is_terminated() {
            let ended = tokio::time::timeout(grace + GRACE, &mut self.transport).await;
            if ended.is_err() {
                warn!("connections were still open at the drain deadline and were cut");
            }
        }
        self.cut.cancel();
        let closed = self.writer.shutdown(grace.max(GRACE)).await;
        self.stop.cancel();
        if !self.hub_task.is_terminated() {
            (&mut self.hub_task).await.ok();
        }
        closed
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.refuse.cancel();
        self.stop.cancel();
        self.cut.cancel();
        self.accepting.abort();
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
