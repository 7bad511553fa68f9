//! The gRPC transport: tonic's framing on a hyper connection of our own.
//!
//! A tonic `Channel` redials on its own and leaves its tasks behind. A [`Connection`] here is one
//! socket, one HTTP/2 connection and their tasks, and [`transport::Connection::kill`] ends them
//! together.

mod classify;
mod codec;
mod connection;
mod observed_body;
mod request_body_guard;
mod tasks;

use std::{future::Future, sync::Arc, time::Duration};

use steadfast_session::End;

use crate::{dial::Dialer, transport};

pub use self::connection::{Connection, GrpcInbound};
pub use crate::dial::{Address, InvalidAddress};

/// A transport to gRPC servers over HTTP/2, in plain text or TLS.
///
/// ```
/// use steadfast::grpc::{Grpc, Options};
///
/// let mut options = Options::default();
/// options.max_message_bytes = 16 << 20;
/// let server = Grpc::new("127.0.0.1:9000".parse()?).with_options(options);
/// # Ok::<(), steadfast::grpc::InvalidAddress>(())
/// ```
#[derive(Clone, Debug)]
pub struct Grpc {
    dialer: Arc<Dialer>,
    options: Options,
}

/// The settings of a [`Grpc`] transport.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The HTTP/2 window of a stream, in bytes. Default 1 MiB.
    pub stream_window: u32,
    /// The HTTP/2 window of the connection, in bytes. Default 128 MiB.
    ///
    /// Keep it at least 101 times the window of a stream. Otherwise a reader that falls behind on
    /// small messages loses its connection (docs/decisions/0004).
    pub connection_window: u32,
    /// The largest message accepted, in bytes. Default 4 MiB, as in grpc-go.
    pub max_message_bytes: usize,
    /// The age of unacknowledged data at which Linux declares the connection dead
    /// (`TCP_USER_TIMEOUT`). It backs up the timeouts of the session. `None` leaves it to the
    /// system. Default 90 s.
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
    /// Creates a transport to the server at `address`. An `https://` address is trusted as the system
    /// trusts; [`Grpc::with_dialer`] takes other settings of TLS, several servers and proxies.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self::with_dialer(address.into())
    }

    /// Creates a transport to the servers of `dialer`.
    #[must_use]
    pub fn with_dialer(dialer: Dialer) -> Self {
        Self {
            dialer: Arc::new(dialer),
            options: Options::default(),
        }
    }

    /// Replaces the settings.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }
}

impl transport::Transport for Grpc {
    type Connection = Connection;

    fn connect(&self) -> impl Future<Output = Result<Connection, End>> + Send + 'static {
        Connection::dial(Arc::clone(&self.dialer), self.options.clone())
    }
}
