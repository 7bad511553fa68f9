//! The settings of a gateway.

use std::{path::PathBuf, time::Duration};

use steadfast_net::{RequestRate, Security};

use crate::{limits::Limits, streamer_status::StreamerStatus, upstream::UpstreamOptions};

/// Settings of a gateway.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GatewayOptions {
    /// The way to the Streamers.
    pub upstream: UpstreamOptions,
    /// The policy file: who clients are, and what they may do. It is read again when it changes. Default
    /// none: everybody may do everything.
    pub access: Option<PathBuf>,
    /// The origins of pages that may connect, beside that of the gateway itself: `https://app.example`, or
    /// only a host. The ports are not compared.
    pub allow_origins: Vec<String>,
    /// TLS, or the permission to do without where other machines can connect.
    pub security: Security,
    /// Limits on clients.
    pub limits: Limits,
    /// Requests of one address, or of one /64 network of IPv6.
    pub request_rate: Option<RequestRate>,
    /// Compress what is sent to clients of `steadfast.v1` that offer it. Default false.
    pub compress: bool,
    /// The time after which a silent socket of `steadfast.v1` is looked at. Default 25 s.
    pub heartbeat: Duration,
    /// The longest time in which a client may accept no byte. Default 10 s.
    pub write_timeout: Duration,
    /// The time within which clients come back after a drain. Default 5 s.
    pub retry_after: Duration,
    /// Serve the console and the JavaScript client. Default true.
    pub console: bool,
    /// The source of the Streamer's status for the console. Default none.
    pub streamer_status: Option<StreamerStatus>,
}

impl GatewayOptions {
    /// Returns the default settings for these Streamers.
    #[must_use]
    pub fn new(upstream: UpstreamOptions) -> Self {
        Self {
            upstream,
            access: None,
            allow_origins: Vec::new(),
            security: Security::default(),
            limits: Limits::default(),
            request_rate: Some(RequestRate::default()),
            compress: false,
            heartbeat: Duration::from_secs(25),
            write_timeout: Duration::from_secs(10),
            retry_after: Duration::from_secs(5),
            console: true,
            streamer_status: None,
        }
    }
}
