//! A TCP proxy on loopback that breaks connections on purpose.
//!
//! A [`Proxy`] stands between a client and a server and copies bytes. A [`Fault`] is injected for
//! existing connections, for later ones, or for both. It lasts as long as its [`FaultGuard`] lives, so
//! a test cannot leave the network broken.
//!
//! ```
//! use std::time::Duration;
//! use steadfast_chaos::{Direction, Fault, Proxy, Reach};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let upstream = server.local_addr()?;
//! let proxy = Proxy::start(upstream)?;
//! // … let clients connect to proxy.addr(), then drop the server's responses for a while:
//! let blackhole = proxy.inject(Fault::Blackhole(Direction::ToClient), Reach::Everything);
//! tokio::time::sleep(Duration::from_millis(1)).await;
//! drop(blackhole);
//! // … and cut all open connections.
//! proxy.reset();
//! proxy.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The proxy knows nothing of the protocol it carries. It never reads more than 64 KiB ahead of the
//! bytes it can pass on, so a fault fills the sender's buffers as a real one does.

mod conditions;
mod connection;
mod fault;
pub mod judge;
mod listener;
mod proxy;
mod pump;
mod registry;
mod stats;

pub use crate::{
    fault::{Direction, Fault, Reach},
    proxy::{FaultGuard, Proxy},
    stats::{Affected, Stats},
};
