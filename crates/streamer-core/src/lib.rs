#![doc = include_str!("../README.md")]

mod arena;
pub mod client;
mod convert;
mod event;
pub mod filter;
pub mod hub;
mod index_table;
pub mod matcher;
mod position;
pub mod publisher;
pub mod puller;
mod terms;
mod window;

pub use crate::{
    convert::UnknownOperation,
    event::{Event, Operation, Previous},
    position::{Bounds, Epoch, InvalidPosition, Position},
    terms::Terms,
    window::{Direction, Place, Window},
};
