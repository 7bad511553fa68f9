//! A listener for pages of operations.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body::Body;
use hyper::{Request, Response, service::Service};
use tokio::net::TcpListener;

use crate::{
    AtLimit, HostCheck, Listener, ListenerOptions, Protocol, Refusals, RequestBody, Security,
    Tasks, http1,
};

/// A running listener for pages of operations, such as metrics and readiness, over HTTP/1. Dropping it cuts
/// every connection.
#[derive(Debug)]
pub struct OperationsListener {
    address: SocketAddr,
    tasks: Tasks,
}

/// Longest wait for a request and its head, and for a client that accepts no byte of a response.
const TIMEOUT: Duration = Duration::from_secs(30);

impl OperationsListener {
    /// Starts to listen with a number of open connections, of which one client has at most half: one that
    /// keeps its own open must not keep scrapers out. Later ones wait: a scraper prefers a late page to a
    /// refusal. Requests on loopback must name this machine; see [`HostCheck`].
    ///
    /// # Errors
    ///
    /// Returns the system's error if the address of the listener cannot be read, or an error if other
    /// machines could connect without TLS and that is not allowed.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn start<S, B>(
        tcp: TcpListener,
        service: S,
        max_connections: usize,
        security: Security,
        refusals: Refusals,
    ) -> io::Result<Self>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>> + Send,
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let service = HostCheck::new(service, tcp.local_addr()?, &security, refusals.clone());
        let options = ListenerOptions {
            max_connections,
            max_client_connections: max_connections / 2,
            at_limit: AtLimit::Wait,
            for_operations: true,
            write_timeout: Some(TIMEOUT),
            security,
            protocol: Protocol::Http1,
            refusals,
            ..ListenerOptions::default()
        };
        let tasks = Tasks::new();
        let listener = Listener::new(tcp, options, &tasks)?;
        let address = listener.address();
        let scope = tasks.clone();
        tasks.spawn(
            listener.serve(move |socket| http1::serve(socket, service.clone(), TIMEOUT, &scope)),
        );
        Ok(Self { address, tasks })
    }

    /// Returns the address of the listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more requests, lets those under way end until `grace` is over, and cuts the rest.
    pub async fn stop(self, grace: Duration) {
        self.tasks.drain(grace).await;
    }
}

impl Drop for OperationsListener {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}
