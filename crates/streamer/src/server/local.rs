//! The way to a server for other parts of its process: a listener on loopback with a secret of its own.
//!
//! It has neither TLS nor a policy. Whoever knows the secret is a part of the process, and the secret is
//! nowhere but in its memory.

use std::{io, net::Ipv4Addr, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use hyper_util::service::TowerToHyperService;
use steadfast::{
    CallCredentials, Metadata,
    dial::{Dialer, Proxies},
};
use steadfast_net::{
    Listener, ListenerOptions, Protocol, Security, Tasks,
    access::{LocalAccess, unauthenticated},
    http2,
};
use tokio::net::TcpListener;
use tonic::service::Routes;

/// The way to a server for other parts of its process, which may do everything.
#[derive(Clone, Debug)]
pub struct LocalServer {
    dialer: Dialer,
    credentials: CallCredentials,
}

impl LocalServer {
    /// Starts the listener.
    pub(super) fn start(routes: Routes, http2: &http2::Options, tasks: &Tasks) -> io::Result<Self> {
        let access = LocalAccess::generate();
        let access = access.ok_or_else(|| io::Error::other("the system has no randomness"))?;
        let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        tcp.set_nonblocking(true)?;
        let options = ListenerOptions {
            // A process needs a few, and its clients are limited where they arrive.
            max_connections: 256,
            max_client_connections: 256,
            request_rate: None,
            security: Security::default(),
            protocol: Protocol::Http2,
            ..ListenerOptions::default()
        };
        let listener = Listener::new(TcpListener::from_std(tcp)?, options, tasks)?;
        let dialer = Dialer::new([listener.address().into()]).proxies(Proxies::none());
        let metadata = Metadata::new().with("authorization", access.authorization());
        let metadata = metadata.map_err(io::Error::other)?;
        let credentials = CallCredentials::from(metadata);
        let trusting = routes
            .into_axum_router()
            .layer(middleware::from_fn_with_state(Arc::new(access), trust));
        let (scope, http2) = (tasks.clone(), http2.clone());
        tasks.spawn(listener.serve(move |socket| {
            let service = TowerToHyperService::new(trusting.clone());
            http2::serve(socket, service, &http2, &scope)
        }));
        Ok(Self {
            dialer,
            credentials,
        })
    }

    /// Returns the way for a client.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        self.dialer.clone()
    }

    /// Returns the credentials for a client.
    #[must_use]
    pub fn credentials(&self) -> CallCredentials {
        self.credentials.clone()
    }
}

/// Refuses every request without the secret: all users of the machine can connect.
async fn trust(
    State(access): State<Arc<LocalAccess>>,
    mut request: Request,
    next: Next,
) -> Response {
    match access.identify(request.headers()) {
        Ok(peer) => {
            request.extensions_mut().insert(peer);
            next.run(request).await
        }
        Err(cause) => unauthenticated(&cause).into_http(),
    }
}
