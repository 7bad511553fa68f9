//! The pure machines of the Streamer: realtime subscriptions to document changes.
//!
//! * [`hub::Hub`]: the server without its sockets. It owns streams and subscriptions and decides which of them receives an event.
//! * [`client::Core`]: the client without its link. It keeps the wanted subscriptions and their positions.
//! * [`publisher::Core`]: the publisher without its link. It keeps the entries that are not acknowledged.
//! * [`filter`] and [`matcher`]: the conditions of a subscription, and the index that finds the subscriptions an event
//!   satisfies.
//!
//! This crate never reads a clock, never opens a socket or a file, and never starts a task. Equal inputs give equal
//! outputs, so that the simulation can replay a run from its seed.

pub mod client;
mod convert;
mod event;
pub mod filter;
pub mod hub;
pub mod matcher;
mod position;
pub mod publisher;

pub use crate::{
    event::{Event, Operation},
    position::{Bounds, Epoch, InvalidPosition, Position},
};
