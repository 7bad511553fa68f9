//! Programs between a client and its server: a TLS terminator, a proxy, a Unix socket, and peers that
//! accept and then do nothing.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener},
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use super::server::{block_on_elsewhere, runtime};

/// The behaviour of a relay towards each connection.
#[derive(Clone)]
pub(crate) enum Front {
    /// Forwards the bytes.
    Plain,
    /// Ends TLS. The configuration can be replaced.
    Tls(Arc<Mutex<Arc<ServerConfig>>>),
    /// Reads the head of a CONNECT request, sends this, and forwards the bytes.
    Proxy(&'static str),
    /// Sends this and closes.
    Says(&'static str),
    /// Neither reads nor closes.
    Mute,
}

/// A relay to a server, on a runtime of its own.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicU64>,
    heads: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
}

impl Front {
    pub(crate) fn tls(config: Arc<ServerConfig>) -> Self {
        Self::Tls(Arc::new(Mutex::new(config)))
    }
}

impl Relay {
    pub(crate) fn start(front: Front, server: SocketAddr) -> Self {
        let runtime = runtime();
        let listener = block_on_elsewhere(&runtime, TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicU64::new(0));
        let heads = Arc::default();
        let (counter, noted) = (Arc::clone(&accepted), Arc::clone(&heads));
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::AcqRel);
                tokio::spawn(serve(front.clone(), stream, server, Arc::clone(&noted)));
            }
        });
        Self {
            addr,
            accepted,
            heads,
            runtime: Some(runtime),
        }
    }

    /// Returns the number of connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    /// Returns the heads of the requests to a proxy.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Accepts on a Unix socket, too.
    pub(crate) fn listen_unix(&self, path: PathBuf) {
        let runtime = self.runtime.as_ref().unwrap();
        let server = self.addr;
        let bound = block_on_elsewhere(runtime, async move { UnixListener::bind(path) });
        let listener = bound.unwrap();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(stream, server));
            }
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(
    front: Front,
    mut stream: TcpStream,
    server: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
) {
    match front {
        Front::Plain => forward(stream, server).await,
        Front::Tls(config) => {
            let config = Arc::clone(&config.lock().unwrap());
            match TlsAcceptor::from(config)
                .accept(stream)
                .into_fallible()
                .await
            {
                Ok(stream) => forward(stream, server).await,
                Err((_, stream)) => end(stream).await,
            }
        }
        Front::Proxy(response) => {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    return;
                };
                head.push(byte.into());
            }
            heads.lock().unwrap().push(head);
            if stream.write_all(response.as_bytes()).await.is_ok() && response.contains(" 200 ") {
                forward(stream, server).await;
            }
        }
        Front::Says(text) => {
            stream.write_all(text.as_bytes()).await.ok();
            end(stream).await;
        }
        Front::Mute => {
            // Held open, so that an orderly close would stay half done.
            std::future::pending::<()>().await;
            drop(stream);
        }
    }
}

/// Closes after what the client still sends: closing before it would reset the connection, and what was
/// said with it.
async fn end(mut stream: TcpStream) {
    stream.shutdown().await.ok();
    tokio::io::copy(&mut stream, &mut tokio::io::sink())
        .await
        .ok();
}

async fn forward(mut stream: impl AsyncRead + AsyncWrite + Unpin, server: SocketAddr) {
    if let Ok(mut onward) = TcpStream::connect(server).await {
        copy_bidirectional(&mut stream, &mut onward).await.ok();
    }
}
