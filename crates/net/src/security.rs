//! What a listener demands before anything is served.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tracing::{info, warn};

use crate::Tls;

/// The protection of a listener: TLS, or none on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// TLS; `None` is plaintext.
    pub tls: Option<Tls>,
    /// Allows plaintext also where other machines can connect.
    pub insecure: bool,
    /// The hosts that requests for pages of a listener on loopback may name, beside those of this machine;
    /// see [`HostCheck`](crate::HostCheck).
    pub allow_hosts: Vec<String>,
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
        let text = exposure(ip, self.tls.is_some());
        if self.tls.is_some() && !ip.is_unspecified() {
            info!(%address, "{text}");
        } else {
            warn!(%address, "{text}");
        }
        Ok(())
    }
}

/// Returns the sentence that says who can connect to a listener that is not on loopback.
fn exposure(ip: IpAddr, tls: bool) -> String {
    let listening = match ip {
        ip if !ip.is_unspecified() => "at one address of this machine",
        ip if ip.is_ipv4() => "at all IPv4 addresses of this machine",
        _ => "at all addresses of this machine, IPv4 too",
    };
    let (how, also) = if tls {
        ("with TLS", "")
    } else {
        (
            "without TLS (--insecure)",
            ", and everyone on the way can read and change what is sent",
        )
    };
    format!("listening {how} {listening}: whoever reaches it can connect{also}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposure_is_one_sentence_in_each_case() {
        let path = ", and everyone on the way can read and change what is sent";
        for (ip, listening) in [
            ("10.0.0.1", "at one address of this machine"),
            ("2001:db8::1", "at one address of this machine"),
            ("0.0.0.0", "at all IPv4 addresses of this machine"),
            ("::", "at all addresses of this machine, IPv4 too"),
        ] {
            let ip = ip.parse().expect("an address");
            let reached = format!("{listening}: whoever reaches it can connect");
            assert_eq!(exposure(ip, true), format!("listening with TLS {reached}"));
            let insecure = format!("listening without TLS (--insecure) {reached}{path}");
            assert_eq!(exposure(ip, false), insecure);
        }
    }
}
