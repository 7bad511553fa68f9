//! Sockets as the kernel lists them, and peers that accept no connection.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::sleep;

/// Counts the sockets of this machine that are connected or connecting to an address, orphans included.
/// Sockets in `TIME_WAIT` hold nothing and do not count.
pub(crate) fn towards(peer: SocketAddr) -> usize {
    rows(peer).len()
}

/// Counts the bytes in the send buffers of those sockets.
pub(crate) fn unsent(peer: SocketAddr) -> u64 {
    rows(peer).into_iter().sum()
}

/// Returns the bytes in the send buffer of each socket.
fn rows(peer: SocketAddr) -> Vec<u64> {
    // While other sockets come and go, the kernel may list one twice or skip one. Two reads in a row
    // hardly ever skip the same one.
    let mut rows = read_rows(peer);
    rows.extend(read_rows(peer));
    rows.into_values().collect()
}

/// Reads the kernel's list once. Returns the bytes in each send buffer by the socket's own address.
fn read_rows(peer: SocketAddr) -> BTreeMap<String, u64> {
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

/// Waits until `wanted` sockets are connected or connecting to the address.
pub(crate) async fn until_towards(peer: SocketAddr, wanted: usize) {
    let reached = async {
        while towards(peer) != wanted {
            sleep(Duration::from_millis(2)).await;
        }
    };
    super::within(&format!("{wanted} sockets towards {peer}"), reached).await;
}

/// A listener whose backlog is full, so that connection requests to it get no response.
pub(crate) struct Unreachable {
    pub(crate) addr: SocketAddr,
    /// The number of sockets that fill the backlog.
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
        // Kernels differ in how many they let in beyond the requested backlog; four always suffice.
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

/// Returns a loopback address on which nothing listens.
pub(crate) fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
