//! Realtime subscriptions to document changes: both ends.

mod event;
pub mod log;
mod position;

pub use crate::{
    event::{Event, Operation},
    position::{Epoch, InvalidPosition, Position},
};
