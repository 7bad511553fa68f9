//! A transport for tests: no sockets, and every delay in tokio's clock, which a test may pause.
//!
//! A script plays the peer of each stream:
//!
//! ```
//! use steadfast::{LinkOptions, Observed, Resume, testing::ScriptedTransport, transport::Call};
//! # #[derive(Clone, Copy, PartialEq, prost::Message)]
//! # struct Number { #[prost(uint64, tag = "1")] value: u64 }
//! # struct Watch;
//! # impl Resume for Watch {
//! #     type Request = Number;
//! #     type Response = Number;
//! #     fn requests(&mut self) -> Vec<Number> { vec![Number { value: 1 }] }
//! #     fn observe(&mut self, _: &Number) -> Observed { Observed::New }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let transport = ScriptedTransport::new(async |mut peer| {
//!     while let Some(request) = peer.receive::<Number>().await {
//!         peer.send(&Number { value: request.value + 1 });
//!     }
//! });
//! let call = Call::new("/example.v1.Numbers/Watch");
//! let mut numbers = LinkOptions::new().resume(call, transport.clone(), Watch)?;
//! assert_eq!(numbers.next().await.transpose()?, Some(Number { value: 2 }));
//! assert_eq!(transport.dials().len(), 1);
//! # Ok(())
//! # }
//! ```

mod scripted;

pub use self::scripted::{
    Dial, DialOutcome, OpenedStream, Peer, ScriptedConnection, ScriptedInbound, ScriptedTransport,
};
