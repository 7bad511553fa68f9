//! Connects to a host by name.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::error::{ConnectFailures, ScrapeError};

/// The addresses of one name that are tried.
const ADDRESSES: usize = 4;

/// Connects to the first address that accepts; each gets an equal share of `within`. The error lists
/// the fault of every address.
pub(super) async fn connect(
    host: &str,
    port: u16,
    within: Duration,
) -> Result<TcpStream, ScrapeError> {
    let addresses = resolve(host, port).await?;
    // In shares: an address that drops packets would otherwise use up the time of all others.
    let share = within / addresses.len().try_into().unwrap_or(1);
    let mut failures = Vec::with_capacity(addresses.len());
    for address in addresses {
        failures.push(match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A request must not wait for the acknowledgement of the one before.
                stream.set_nodelay(true).ok();
                return Ok(stream);
            }
            Ok(Err(error)) => (address, error),
            Err(_) => {
                let text = format!("no response within {share:?}");
                (address, io::Error::new(io::ErrorKind::TimedOut, text))
            }
        });
    }
    Err(ScrapeError::Connect(ConnectFailures(failures)))
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ScrapeError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    // In a pod, a lookup often returns `::1` although nobody listens there or the interface is
    // missing, so 127.0.0.1 comes first and nothing is looked up.
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ]);
    }
    let unresolved = |error| ScrapeError::Resolve {
        host: host.to_owned(),
        error,
    };
    let found = lookup_host((host, port))
        .await
        .map_err(|error| unresolved(Some(error)))?;
    let mut addresses: Vec<_> = found.take(ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(unresolved(None));
    }
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn localhost_reaches_a_listener_on_ipv4_only() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect("localhost", port, Duration::from_secs(10)).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap().port(), port);
    }

    #[tokio::test]
    async fn localhost_reaches_a_listener_on_ipv6_only() {
        let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else {
            // The machine has no IPv6: there is nothing to reach.
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let stream = connect("LOCALHOST", port, Duration::from_secs(10)).await;
        assert!(stream.unwrap().peer_addr().unwrap().is_ipv6());
    }

    #[tokio::test]
    async fn connect_error_lists_every_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let failed = connect("localhost", port, Duration::from_secs(10)).await;
        let text = failed.unwrap_err().to_string();
        assert!(text.starts_with("cannot connect: "), "{text}");
        assert!(text.contains(&format!("127.0.0.1:{port}: ")), "{text}");
        assert!(text.contains(&format!("; [::1]:{port}: ")), "{text}");
    }
}
