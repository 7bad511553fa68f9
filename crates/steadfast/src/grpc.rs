//! The gRPC transport: tonic's framing on a hyper connection that is ours to cut.
//!
//! A tonic `Channel` redials behind its user's back and leaves its tasks behind. Here a
//! [`Connection`] is one socket, one HTTP/2 connection and the tasks of both, which
//! [`transport::Connection::kill`] ends together.

mod address;
mod classify;
mod codec;
mod connection;
mod lifeline;
mod socket;
mod tap;
mod tasks;

use std::{future::Future, time::Duration};

use steadfast_session::End;

use crate::transport;

pub use self::{
    address::{Address, InvalidAddress},
    connection::{Connection, GrpcInbound},
};

/// Dials gRPC servers in plain text (HTTP/2 with prior knowledge).
#[derive(Clone, Debug)]
pub struct Grpc {
    address: Address,
    options: Options,
}

/// Settings of a [`Grpc`] transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// HTTP/2 window of a stream, bytes. Default 1 MiB.
    pub stream_window: u32,
    /// HTTP/2 window of the connection, bytes. At least 101 times the stream's, or a reader that
    /// falls behind on small messages loses its connection (docs/decisions/0004). Default 128 MiB.
    pub connection_window: u32,
    /// Largest message taken, bytes. Default 4 MiB, as grpc-go has it.
    pub max_message_bytes: usize,
    /// Unacknowledged data that old means the connection is dead (`TCP_USER_TIMEOUT`, Linux); the
    /// second line behind the session's own deadlines. `None` leaves it to the system. Default 90 s.
    pub user_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            connection_window: 128 << 20,
            max_message_bytes: 4 << 20,
            user_timeout: Some(Duration::from_secs(90)),
        }
    }
}

impl Grpc {
    /// A transport to `address`.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            options: Options::default(),
        }
    }

    /// Changes the settings.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }
}

impl transport::Transport for Grpc {
    type Connection = Connection;

    fn connect(
        &self,
        _refresh: bool,
    ) -> impl Future<Output = Result<Connection, End>> + Send + 'static {
        Connection::dial(self.address.clone(), self.options.clone())
    }
}
