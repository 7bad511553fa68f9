//! A TCP proxy on loopback that breaks connections on purpose.
//!
//! A [`Proxy`] stands between a client and a server and copies bytes. Faults are values: one is
//! injected for the connections that exist, for those to come, or for both, and lasts as long as
//! its [`Guard`] lives, so a test can not leave the network broken.
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
//! // … let clients connect to proxy.addr(), then take the answers away for a while:
//! let hole = proxy.inject(Fault::Blackhole(Direction::ToClient), Reach::Everything);
//! tokio::time::sleep(Duration::from_millis(1)).await;
//! drop(hole);
//! // … and cut whatever is connected now.
//! proxy.reset();
//! proxy.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The proxy knows nothing of the protocol it carries. It never reads more than 64 KiB ahead of what
//! it could pass on, so that a fault fills the sender's buffers as a real one does.

mod conditions;
mod connection;
mod proxy;
mod pump;

pub use crate::{
    conditions::{Direction, Fault, Reach},
    proxy::{ConnectionStats, Guard, Hit, Proxy, Stats},
};
