//! The proxy as a test uses it.

use std::{io, net::SocketAddr, sync::Arc};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    conditions::Cut,
    fault::{Fault, Reach},
    listener::Port,
    registry::Registry,
    stats::{Affected, Stats},
};

/// A proxy on a loopback port of its own.
///
/// Dropping it ends its tasks and sockets as soon as the runtime schedules them;
/// [`Proxy::shutdown`] waits for that. A guard that outlives its proxy has no effect.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    registry: Arc<Registry>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// A fault in force. Dropping it ends the fault.
#[derive(Debug)]
#[must_use = "the fault ends when its guard is dropped"]
pub struct FaultGuard {
    registry: Arc<Registry>,
    id: u64,
    affected: Affected,
}

impl Proxy {
    /// Listens on a free loopback port and forwards connections to `upstream`.
    ///
    /// # Errors
    ///
    /// If no loopback port can be bound.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let port = Port::bind()?;
        let addr = port.addr();
        let registry = Arc::new(Registry::new(upstream));
        let stop = CancellationToken::new();
        let task = tokio::spawn(port.serve(registry.clone(), stop.clone()));
        Ok(Self {
            addr,
            registry,
            stop,
            task: AbortOnDropHandle::new(task),
        })
    }

    /// Returns the address for clients to connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Forwards later connections to another server. Open connections stay with theirs.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.registry.set_upstream(upstream);
    }

    /// Puts a fault in force until the guard is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use steadfast_chaos::{Direction, Fault, Proxy, Reach};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let proxy = Proxy::start(server.local_addr()?)?;
    /// let slow = proxy.inject(
    ///     Fault::Delay(Direction::Both, Duration::from_millis(50)),
    ///     Reach::Later,
    /// );
    /// assert_eq!(slow.affected().connections, 0, "no connection is open yet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn inject(&self, fault: Fault, reach: Reach) -> FaultGuard {
        let (id, affected) = self.registry.inject(fault, reach);
        FaultGuard {
            registry: self.registry.clone(),
            id,
            affected,
        }
    }

    /// Resets every open connection, once.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn reset(&self) -> Affected {
        self.registry.cut(Cut::Reset)
    }

    /// Ends every open connection in order (FIN to both sides), once.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn close(&self) -> Affected {
        self.registry.cut(Cut::Close)
    }

    /// Returns the counters of the proxy.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.registry.stats()
    }

    /// Ends every connection and task, and waits for that.
    pub async fn shutdown(self) {
        self.stop.cancel();
        // An error is a panic of the proxy's own task, which the runtime has reported.
        self.task.await.ok();
    }
}

impl FaultGuard {
    /// Returns the connections and bytes that the fault affected when it was injected.
    #[must_use]
    pub fn affected(&self) -> Affected {
        self.affected
    }
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        self.registry.remove(self.id);
    }
}
