//! What a listener demands before anything is served.

use std::{io, net::SocketAddr};

use tracing::{info, warn};

use crate::Tls;

/// The protection of a listener: TLS, or none on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// TLS; `None` is plaintext.
    pub tls: Option<Tls>,
    /// Allows plaintext also where other machines can connect.
    pub insecure: bool,
}

/// The error of a plaintext listener that other machines can connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "other machines can connect to {0}, and without TLS everyone on the way can read and change what is \
     sent; give a certificate and a key (--tls-cert and --tls-key), listen on a loopback address such as \
     127.0.0.1:{port}, or accept that with --insecure",
    port = .0.port()
)]
pub struct PlaintextExposed(pub SocketAddr);

impl Security {
    /// Refuses a plaintext listener at an address that is not loopback, unless that is wanted.
    ///
    /// # Errors
    ///
    /// Returns an error that names the three ways out.
    pub fn check(&self, address: SocketAddr) -> Result<(), PlaintextExposed> {
        if self.tls.is_some() || self.insecure || address.ip().to_canonical().is_loopback() {
            Ok(())
        } else {
            Err(PlaintextExposed(address))
        }
    }

    /// Checks the address of a listener that starts, and says in the log who can connect to it.
    pub(crate) fn announce(&self, address: SocketAddr) -> io::Result<()> {
        self.check(address)
            .map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
        let ip = address.ip().to_canonical();
        if ip.is_loopback() {
            return Ok(());
        }
        let scope = match ip {
            ip if !ip.is_unspecified() => "machines that reach this address can connect",
            ip if ip.is_ipv4() => {
                "all IPv4 addresses of this machine: whoever reaches one can connect"
            }
            _ => "all addresses of this machine, IPv4 too: whoever reaches one can connect",
        };
        if self.tls.is_none() {
            warn!(%address, "listening without TLS (--insecure) on {scope}, read and change what is sent");
        } else if ip.is_unspecified() {
            warn!(%address, "listening with TLS on {scope}");
        } else {
            info!(%address, "listening with TLS: {scope}");
        }
        Ok(())
    }
}
