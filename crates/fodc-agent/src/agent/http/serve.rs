//! The agent's HTTP server.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use hyper_util::service::TowerToHyperService;
use steadfast_net::{
    AtLimit, Listener, ListenerOptions, Protocol, Refusals, Security, Tasks, http1,
};
use tokio::net::TcpListener;

/// The number of open connections. Later ones wait: a scraper prefers a late page to a refusal.
const MAX_CONNECTIONS: usize = 128;

/// The number of open connections of one client: one that keeps its own open must not keep scrapers out.
const MAX_CLIENT_CONNECTIONS: usize = 64;

/// Longest wait for a request and its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time in which a client may accept no byte of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A running HTTP server. Dropping it cuts every connection.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    tasks: Tasks,
}

impl Server {
    pub(crate) fn start(
        tcp: TcpListener,
        router: Router,
        security: Security,
        refusals: Refusals,
    ) -> io::Result<Self> {
        let options = ListenerOptions {
            max_connections: MAX_CONNECTIONS,
            max_client_connections: MAX_CLIENT_CONNECTIONS,
            at_limit: AtLimit::Wait,
            for_operations: true,
            write_timeout: Some(WRITE_TIMEOUT),
            security,
            protocol: Protocol::Http1,
            refusals,
            ..ListenerOptions::default()
        };
        let tasks = Tasks::new();
        let listener = Listener::new(tcp, options, &tasks)?;
        let address = listener.address();
        let scope = tasks.clone();
        tasks.spawn(listener.serve(move |socket| {
            let service = TowerToHyperService::new(router.clone());
            http1::serve(socket, service, HEAD_TIMEOUT, &scope)
        }));
        Ok(Self { address, tasks })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more requests, lets those under way end until `grace` is over, and cuts the rest.
    pub(crate) async fn stop(self, grace: Duration) {
        self.tasks.drain(grace).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}
