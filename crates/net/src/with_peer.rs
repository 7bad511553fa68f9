//! The peer of a connection, as a part of each of its requests.

use hyper::{Request, service::Service};

use crate::Peer;

/// A service whose requests have their [`Peer`] as an extension.
#[derive(Clone, Debug)]
pub(crate) struct WithPeer<S> {
    service: S,
    peer: Peer,
}

impl<S> WithPeer<S> {
    pub(crate) fn new(service: S, peer: &Peer) -> Self {
        let peer = peer.clone();
        Self { service, peer }
    }
}

impl<S, B> Service<Request<B>> for WithPeer<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.service.call(request)
    }
}
