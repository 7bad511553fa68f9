//! Realtime subscriptions to document changes: client, publisher and server.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod log;
#[cfg(feature = "client")]
pub mod publisher;
#[cfg(feature = "server")]
pub mod server;

#[cfg(feature = "server")]
pub use steadfast_streamer_core::hub;
pub use steadfast_streamer_core::{
    Bounds, Epoch, Event, InvalidPosition, Operation, Position, filter,
};

#[cfg(feature = "server")]
pub use crate::server::Server;
#[cfg(feature = "client")]
pub use crate::{
    client::{Client, Item, Subscription},
    filter::Filter,
    publisher::{Entry, Publisher},
};
