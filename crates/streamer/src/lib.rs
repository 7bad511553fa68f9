#![cfg_attr(
    all(feature = "client", feature = "server"),
    doc = include_str!("../README.md")
)]
#![cfg_attr(
    not(all(feature = "client", feature = "server")),
    doc = "Realtime subscriptions to document changes."
)]

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
    Bounds, Direction, Epoch, Event, InvalidPosition, Operation, Position, Previous, Terms, filter,
};

pub use crate::filter::Filter;
#[cfg(feature = "client")]
pub use crate::{
    client::{
        Change, Client, Gap, GapReason, Item, LiveSet, LiveWindow, Resync, ResyncReason, Snapshot,
        Subscription, WindowUpdate,
    },
    publisher::{Entry, PublishError, Published, Publisher},
};
#[cfg(feature = "server")]
pub use crate::{
    log::{MemoryLog, SegmentLog, StoreOptions},
    server::{Server, ServerOptions},
};
