//! The listening socket and the accept loop.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    select,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{connection::arm_reset, registry::Registry};

/// A loopback port that belongs to the proxy, with a listener on it while connections are admitted.
#[derive(Debug)]
pub(crate) struct Port {
    addr: SocketAddr,
    listener: Option<TcpListener>,
    /// Bound but never listening: it keeps the port ours while connections are refused.
    _reservation: Socket,
}

/// The wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

impl Port {
    pub(crate) fn bind() -> io::Result<Self> {
        let reservation = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = reservation
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("a TCP socket without an internet address"))?;
        Ok(Self {
            addr,
            listener: Some(listen(addr)?),
            _reservation: reservation,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts connections until stopped, then ends all of them.
    pub(crate) async fn serve(mut self, registry: Arc<Registry>, stop: CancellationToken) {
        let mut accepting = registry.accepting();
        let mut tasks = JoinSet::new();
        loop {
            let listening = *accepting.borrow_and_update();
            self.set_listening(listening);
            select! {
                () = stop.cancelled() => break,
                changed = accepting.changed() => if changed.is_err() { break },
                // Ended tasks stay in the set until they are joined.
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = accept(self.listener.as_ref()) => {
                    let Ok(client) = accepted else {
                        // Either the client has gone or the process is out of sockets. The pause
                        // keeps the second case from spinning.
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    };
                    // A fault may have come after this client was accepted. A client that dials
                    // after the injection must see the refusal, so this one must, too.
                    if !*accepting.borrow() {
                        arm_reset(&client);
                        continue;
                    }
                    let (registration, upstream) = registry.register();
                    tasks.spawn(async move {
                        registration.connection().serve(client, upstream).await;
                    });
                }
            }
        }
        self.set_listening(false);
        tasks.shutdown().await;
    }

    fn set_listening(&mut self, listening: bool) {
        if !listening {
            // The system refuses only without a listener. It also resets what waits in the backlog.
            self.listener = None;
        } else if self.listener.is_none() {
            // Fails only if the system is out of sockets. The next change tries again.
            self.listener = listen(self.addr).ok();
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Both options are needed to bind the port a second time, beside the reservation.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(addr)?;
    socket.set_nonblocking(true)?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}
