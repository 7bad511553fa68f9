//! Serving HTTP/2.

use std::{error::Error, time::Duration};

use http_body::Body;
use hyper::{Request, Response, server::conn::http2, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::{
    RequestBody, Socket, Tasks,
    calls::{CallSpawner, WithCalls},
    connection::{self, Requests},
    short_frames::ShortFrames,
    with_peer::WithPeer,
};

/// Settings of HTTP/2 connections.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that a peer may send on one call before they are read.
    pub stream_window: u32,
    /// Bytes that a peer may send on all calls of a connection before they are read.
    pub connection_window: u32,
    /// Whether the buffer that a connection is read into keeps its size of 8 KiB. Otherwise the first DATA frame
    /// of 16 KiB makes it grow, for good; and more is read at once.
    pub short_frames: bool,
    /// The number of calls that may be open on one connection.
    pub max_calls: u32,
    /// Time without any open call after which a connection is ended; at most twice as long.
    pub idle_timeout: Duration,
    /// Pings that look for dead peers; `None` sends none.
    pub ping: Option<Ping>,
}

/// HTTP/2 pings, sent while nothing arrives.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    /// The time between two pings.
    pub interval: Duration,
    /// The longest wait for an acknowledgement; the connection is closed after it.
    pub timeout: Duration,
}

/// The limit on the bytes of a call's headers.
const HEADER_BYTES: u32 = 16 << 10;

/// Serves one connection until the peer leaves, is silent for too long, or the server drains. A draining
/// connection takes no new call and ends with its last one.
///
/// The calls run in the same task: what those that are ready send is written together. A call must not
/// block the thread, nor compute for long.
pub fn serve<S, B>(
    socket: Socket,
    service: S,
    options: &Options,
    tasks: &Tasks,
) -> impl Future<Output = ()> + use<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Future: Send + 'static>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    serve_spawning(socket, service, CallSpawner::default(), options, tasks)
}

/// Does the same as [`serve`] for a service that spawns handlers through `calls`. They run in the task of
/// the connection as well.
pub fn serve_spawning<S, B>(
    socket: Socket,
    service: S,
    calls: CallSpawner,
    options: &Options,
    tasks: &Tasks,
) -> impl Future<Output = ()> + use<S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Future: Send + 'static>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let requests = Requests::new(socket.permit());
    let mut http2 = http2::Builder::new(calls.clone());
    http2
        // hyper needs it for the pings below.
        .timer(TokioTimer::new())
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        // Otherwise hyper grows the windows with the round trip, beyond the limits above.
        .adaptive_window(false)
        .max_header_list_size(HEADER_BYTES)
        .max_concurrent_streams(options.max_calls);
    if let Some(ping) = options.ping {
        http2
            .keep_alive_interval(ping.interval)
            .keep_alive_timeout(ping.timeout);
    }
    let service = WithPeer::new(service, socket.peer());
    let io = TokioIo::new(ShortFrames::new(socket, options.short_frames));
    let connection = http2.serve_connection(io, requests.limit(service));
    let connection = WithCalls::new(connection, calls);
    connection::run(
        connection,
        // Sends GOAWAY.
        |connection| connection.get_mut().connection().graceful_shutdown(),
        requests,
        Some(options.idle_timeout),
        tasks.clone(),
    )
}
