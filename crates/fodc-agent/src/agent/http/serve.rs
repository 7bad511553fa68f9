//! Serves a router on a listener, and ends when told to.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::debug;

use steadfast_fodc_model::{http1, write_timeout::WriteTimeout};

/// Connections held at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 128;

/// Limit on the wait for a request, and on its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after a connection could not be accepted because the system has no descriptors or no
/// memory left: asking at once again would burn the processor that has to free them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running HTTP server. Dropping it cuts every connection.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    connections: TaskTracker,
    accepting: AbortOnDropHandle<()>,
    /// Cancelled when connections have to end whatever they do, at the latest when this is dropped.
    cut: DropGuard,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, router: Router) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let connections = TaskTracker::new();
        let accepting = tokio::spawn(accept(
            listener,
            router,
            stop.clone(),
            cut.clone(),
            connections.clone(),
        ));
        Ok(Self {
            address,
            stop,
            connections,
            accepting: AbortOnDropHandle::new(accepting),
            cut: cut.drop_guard(),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, lets those under way end until `grace` is over, and cuts the rest.
    /// Afterwards no task and no socket is left.
    pub(crate) async fn stop(self, grace: Duration) {
        self.stop.cancel();
        self.accepting.await.ok();
        self.connections.close();
        timeout(grace, self.connections.wait()).await.ok();
        drop(self.cut);
        self.connections.wait().await;
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (
                slot.expect("the slots are never closed"),
                listener.accept().await,
            )
        };
        let Some((slot, accepted)) = stop.run_until_cancelled(next).await else {
            return;
        };
        match accepted {
            Ok((stream, _)) => {
                stream.set_nodelay(true).ok();
                let stream = WriteTimeout::new(stream, WRITE_TIMEOUT);
                let connection = http1::serve(stream, router.clone(), HEAD_TIMEOUT, stop.clone());
                let cut = cut.clone();
                connections.spawn(async move {
                    cut.run_until_cancelled(connection).await;
                    drop(slot);
                });
            }
            Err(error) => {
                debug!(%error, "can not accept a connection");
                stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}
