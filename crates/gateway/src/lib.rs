#![doc = include_str!("../README.md")]

mod assets;
mod classic;
mod collected;
mod driver;
mod http;
mod idempotency;
pub mod limits;
pub mod machine;
mod metrics;
pub mod operations;
mod options;
mod origin;
pub mod rights;
pub mod server;
mod shared;
mod socket;
mod sockets;
mod sse;
mod status;
mod streamer_status;
pub mod subscription;
pub mod upstream;
mod v1;
mod websocket;

pub use self::{
    limits::Limits,
    operations::Operations,
    options::GatewayOptions,
    server::Gateway,
    status::{GatewayStatus, SocketStatus, Status},
    streamer_status::StreamerStatus,
    upstream::UpstreamOptions,
};
