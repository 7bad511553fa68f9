//! Sockets as the system sees them, and peers that are less than a gRPC server.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::sleep;

/// Sockets of this machine that are connected, or trying, to that address, orphans included. Those
/// that only remember (`TIME_WAIT`) hold nothing and do not count.
pub(crate) fn towards(peer: SocketAddr) -> usize {
    rows(peer).len()
}

/// Bytes that wait in the send buffers of those sockets.
pub(crate) fn unsent(peer: SocketAddr) -> u64 {
    rows(peer).into_iter().sum()
}

/// The bytes in the send buffer of each.
fn rows(peer: SocketAddr) -> Vec<u64> {
    // While sockets come and go elsewhere, the system may show one twice, or pass one over; hardly in
    // two looks in a row.
    let mut rows = look(peer);
    rows.extend(look(peer));
    rows.into_values().collect()
}

/// The bytes in the send buffer of each, by its own address.
fn look(peer: SocketAddr) -> BTreeMap<String, u64> {
    const TIME_WAIT: &str = "06";
    let SocketAddr::V4(peer) = peer else {
        panic!("tests use IPv4 loopback")
    };
    let ip = u32::from_ne_bytes(peer.ip().octets());
    let remote = format!("{ip:08X}:{:04X}", peer.port());
    let row = |fields: Vec<&str>| {
        let unsent = fields[4].split(':').next().unwrap();
        let unsent = u64::from_str_radix(unsent, 16).unwrap();
        (fields[1].to_owned(), unsent)
    };
    fs::read_to_string("/proc/self/net/tcp")
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[2] == remote && fields[3] != TIME_WAIT)
        .map(row)
        .collect()
}

/// Waits until the number of sockets towards the address is as wanted.
pub(crate) async fn until_towards(peer: SocketAddr, wanted: usize) {
    let reached = async {
        while towards(peer) != wanted {
            sleep(Duration::from_millis(2)).await;
        }
    };
    super::within(&format!("{wanted} sockets towards {peer}"), reached).await;
}

/// An address that swallows connection requests: a listener whose backlog is full.
pub(crate) struct Unreachable {
    pub(crate) addr: SocketAddr,
    /// Sockets that fill it.
    pub(crate) fillers: usize,
    _listener: Socket,
    _filling: Vec<Socket>,
}

impl Unreachable {
    pub(crate) async fn start() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0))))
            .unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let mut filling = Vec::new();
        // What the system lets in beyond the backlog asked for differs; a few are always enough.
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&addr.into()).ok();
            filling.push(socket);
        }
        sleep(Duration::from_millis(20)).await;
        Self {
            addr,
            fillers: towards(addr),
            _listener: listener,
            _filling: filling,
        }
    }
}

/// A loopback port where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
