//! Keeps a gRPC stream up.
//!
//! A [`Link`] drives a session ([`steadfast_session`]) over a [`transport::Transport`]. It connects,
//! opens the stream, restores the state of the application on it, detects a dead peer, and
//! reconnects. One loop with one backoff does all of this.
//!
//! The meaning of the messages is up to a [`session::Protocol`]. For a service that knows nothing of
//! this library, implement the smaller [`Resume`]: the requests to send first on every stream, and
//! the position to remember from the responses.
//!
//! ```no_run
//! use steadfast::{LinkOptions, Observed, Resume, grpc::Grpc, transport::Call};
//! # #[derive(Clone, Copy, PartialEq, prost::Message)]
//! # struct WatchRequest { #[prost(uint64, tag = "1")] after: u64 }
//! # #[derive(Clone, Copy, PartialEq, prost::Message)]
//! # struct Reading { #[prost(uint64, tag = "1")] sequence: u64 }
//!
//! struct Watch { after: u64 } // the sequence number seen last
//!
//! impl Resume for Watch {
//!     type Request = WatchRequest;
//!     type Response = Reading;
//!     fn requests(&mut self) -> Vec<WatchRequest> {
//!         vec![WatchRequest { after: self.after }]
//!     }
//!     fn observe(&mut self, reading: &Reading) -> Observed {
//!         self.after = reading.sequence;
//!         Observed::New
//!     }
//! }
//!
//! # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Grpc::new("127.0.0.1:9000".parse()?);
//! let call = Call::new("/temperature.v1.Sensors/Watch");
//! let mut readings = LinkOptions::new().resume(call, server, Watch { after: 0 })?;
//! while let Some(reading) = readings.next().await {
//!     println!("{}", reading?.sequence); // continues across restarts of the server
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `cargo run -p steadfast --example resume_watch` runs this against a server that is killed twice.

mod backpressure;
mod counters;
mod driver;
#[cfg(feature = "grpc")]
pub mod grpc;
mod link;
mod options;
mod outage;
mod outbound;
mod resume;
mod shared;
mod state_event;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;

pub use steadfast_session as session;

pub use crate::{
    backpressure::Backpressure,
    counters::Counters,
    link::{Closed, CommandError, CommandPermit, ConnectError, Link},
    options::LinkOptions,
    outage::Outage,
    outbound::Outbound,
    resume::{Observed, Resume, ResumeEvent, Resumed, Resuming},
    shared::{SharedConnection, SharedTransport},
    state_event::StateEvent,
};
