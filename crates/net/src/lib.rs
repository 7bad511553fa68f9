#![doc = include_str!("../README.md")]

mod calls;
mod gzip;
pub mod http1;
pub mod http2;
mod listener;
mod response_queue;
mod socket;
mod tasks;

pub use self::{
    gzip::{Gzip, accepts_gzip},
    listener::{AtLimit, Listener, ListenerOptions, OpenConnections},
    response_queue::{Amount, Observer, QueueFull, ResponseQueue, Responses},
    socket::Socket,
    tasks::Tasks,
};
