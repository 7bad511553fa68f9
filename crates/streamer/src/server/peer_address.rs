//! The address of the peer, as a part of each of its requests.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
};

use tonic::{
    codegen::{Service, http::Request},
    service::Routes,
};

/// The address of the peer that sent a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerAddress(pub(super) SocketAddr);

/// The services for one connection.
#[derive(Clone, Debug)]
pub(super) struct WithPeerAddress {
    routes: Routes,
    peer: Option<SocketAddr>,
}

impl WithPeerAddress {
    pub(super) fn new(routes: Routes, peer: Option<SocketAddr>) -> Self {
        Self { routes, peer }
    }
}

impl<B> Service<Request<B>> for WithPeerAddress
where
    Routes: Service<Request<B>>,
{
    type Response = <Routes as Service<Request<B>>>::Response;
    type Error = <Routes as Service<Request<B>>>::Error;
    type Future = <Routes as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.routes.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(PeerAddress(peer));
        }
        self.routes.call(request)
    }
}
