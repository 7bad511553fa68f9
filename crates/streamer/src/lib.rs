//! Realtime subscriptions to document changes: both ends.

pub mod client;
pub mod connect;
mod event;
pub mod filter;
pub mod hub;
pub mod log;
pub mod matcher;
mod position;

pub use crate::{
    event::{Event, Operation},
    position::{Epoch, InvalidPosition, Position},
};
