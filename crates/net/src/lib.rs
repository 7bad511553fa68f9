#![doc = include_str!("../README.md")]

pub mod access;
mod calls;
mod client_key;
mod connection;
mod descriptors;
mod gzip;
mod hosts;
pub mod http1;
pub mod http2;
mod listener;
mod log_limiter;
mod operations;
mod permit;
mod refusals;
mod request_body;
mod request_rate;
mod response_queue;
mod security;
mod short_frames;
mod socket;
mod tasks;
mod tls;
mod unfinished;
mod with_peer;
mod write_timeout;

pub use self::{
    calls::CallSpawner,
    client_key::{ClientKey, KeyedPermit, KeyedPermits},
    gzip::{Gzip, accepts_gzip},
    hosts::{CheckedBody, HostCheck, host, names_this_machine, without_port},
    listener::{AtLimit, Listener, ListenerOptions, OpenConnections},
    operations::OperationsListener,
    refusals::{Refusal, Refusals},
    request_body::RequestBody,
    request_rate::{MessageRate, RequestRate, RequestRates},
    response_queue::{Amount, Observer, QueueFull, ResponseQueue, Responses},
    security::{PlaintextExposed, Security},
    socket::{Peer, Socket},
    tasks::Tasks,
    tls::{Tls, TlsFigure, TlsStats},
    unfinished::UnfinishedLimits,
};
pub use steadfast_tls::{
    TlsCounters, TlsError,
    server::{ClientAuth, HandshakeFailure, Protocol, ServerTlsOptions},
};
