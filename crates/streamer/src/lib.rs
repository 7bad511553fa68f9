//! Realtime subscriptions to document changes: both ends.

pub mod client;
pub mod connect;
mod event;
pub mod filter;
pub mod hub;
pub mod log;
pub mod matcher;
mod position;
pub mod publisher;
pub mod server;

pub use crate::{
    event::{Event, Operation},
    position::{Epoch, InvalidPosition, Position},
};
