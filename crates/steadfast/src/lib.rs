//! Keeps a gRPC stream up.
//!
//! A [`Link`] drives a session ([`steadfast_session`]) over a [`transport::Transport`]: it dials,
//! opens, greets, restores, notices when the peer is dead, and tries again, with one backoff, in
//! one loop. What is spoken on the stream is a [`steadfast_session::Protocol`]; for services that
//! are not ours there is [`Resume`]: what to say at the beginning of every stream, and what to
//! remember of the answers.
//!
//! ```no_run
//! use steadfast::{Builder, Resume, grpc::Grpc, transport::Call};
//! # #[derive(Clone, Copy, PartialEq, prost::Message)]
//! # struct Watch { #[prost(uint64, tag = "1")] after: u64 }
//! # #[derive(Clone, Copy, PartialEq, prost::Message)]
//! # struct Event { #[prost(uint64, tag = "1")] number: u64 }
//!
//! struct After(u64); // the number of the last event that was seen
//!
//! impl Resume for After {
//!     type Request = Watch;
//!     type Response = Event;
//!     fn requests(&mut self) -> Vec<Watch> { vec![Watch { after: self.0 }] }
//!     fn observe(&mut self, event: &Event) -> bool { self.0 = event.number; true }
//! }
//!
//! # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Grpc::new("127.0.0.1:9000".parse()?);
//! let call = Call::new("/tally.v1.Tally/Watch");
//! let mut events = Builder::new(call).resume(server, After(0))?;
//! while let Some(event) = events.next().await {
//!     println!("{}", event?.number); // goes on through whatever happens to the server
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `cargo run -p steadfast --example tally` shows it with a server that is killed twice.

mod borrowed;
mod counters;
mod driver;
mod gate;
#[cfg(feature = "grpc")]
pub mod grpc;
mod link;
mod notice;
mod outage;
mod outbound;
mod resume;
mod stream;
pub mod transport;

pub use steadfast_session as session;

pub use crate::{
    borrowed::{Borrowed, Shared},
    counters::Counters,
    gate::Gate,
    link::{Builder, Closed, ConnectError, Link},
    notice::Notice,
    outage::Outage,
    outbound::Outbound,
    resume::{Resume, Resumed, Resuming, Told},
};
