//! Limits on what one client may hold.

/// Limits of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Open connections. Default 65,536.
    pub connections: usize,
    /// Open connections of one address, or of one /64 network of IPv6. Default 32,768.
    pub client_connections: usize,
    /// Sockets and streams of one principal. Default 16,384.
    pub sockets_per_principal: usize,
    /// Subscriptions of one socket. Default 256.
    pub subscriptions_per_socket: usize,
    /// Subscriptions of one principal, on all its sockets. Default 65,536.
    pub subscriptions_per_principal: usize,
    /// Messages that a socket may send per second, over some time. Default 100.
    pub messages_per_second: u32,
    /// Messages that a socket may send at once. Default 2,000: a client that connects again repeats all its
    /// subscriptions.
    pub message_burst: u32,
    /// Bytes of a frame of a client. Default 64 KiB.
    pub frame_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            client_connections: 32_768,
            sockets_per_principal: 16_384,
            subscriptions_per_socket: 256,
            subscriptions_per_principal: 65_536,
            messages_per_second: 100,
            message_burst: 2_000,
            frame_bytes: 64 << 10,
        }
    }
}
