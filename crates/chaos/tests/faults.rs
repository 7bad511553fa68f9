//! Each fault on real sockets: its effect, its reach, and its end with its guard.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::{io, net::SocketAddr, time::Duration};

use steadfast_chaos::{Direction, Fault, Proxy, Reach, Stats};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Longer than anything on loopback takes.
const QUIET: Duration = Duration::from_millis(80);
/// Longer than any step of a test takes.
const LIMIT: Duration = Duration::from_secs(5);

/// A server whose connections the test accepts one by one.
struct Server {
    listener: TcpListener,
}

impl Server {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (Self { listener }, addr)
    }

    async fn accept(&self) -> TcpStream {
        timeout(LIMIT, self.listener.accept())
            .await
            .unwrap()
            .unwrap()
            .0
    }

    /// Connects a client through the proxy. Returns both ends.
    async fn pair(&self, proxy: &Proxy) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(proxy.addr()).await.unwrap();
        let mut pair = (client, self.accept().await);
        assert_eq!(passes(&mut pair.0, &mut pair.1).await, Some(true));
        pair
    }
}

async fn setup() -> (Server, Proxy) {
    let (server, addr) = Server::start().await;
    (server, Proxy::start(addr).unwrap())
}

/// Returns a server, its proxy, and both ends of a connection through it.
async fn connected() -> (Server, Proxy, TcpStream, TcpStream) {
    let (server, proxy) = setup().await;
    let (client, peer) = server.pair(&proxy).await;
    (server, proxy, client, peer)
}

/// Returns true if one byte sent on one side arrives on the other; `None` if a side failed.
async fn passes(from: &mut TcpStream, to: &mut TcpStream) -> Option<bool> {
    from.write_all(b"x").await.ok()?;
    let mut byte = [0];
    match timeout(QUIET, to.read(&mut byte)).await {
        Err(_silence) => Some(false),
        Ok(Ok(1)) => Some(true),
        Ok(_) => None,
    }
}

async fn read(socket: &mut TcpStream) -> io::Result<usize> {
    let mut buffer = [0; 1024];
    timeout(LIMIT, socket.read(&mut buffer))
        .await
        .expect("an end within the limit")
}

fn is_reset(read: &io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

async fn until(proxy: &Proxy, what: impl Fn(Stats) -> bool) {
    let waited = async {
        while !what(proxy.stats()) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, waited)
        .await
        .unwrap_or_else(|_| panic!("timed out: {:?}", proxy.stats()));
}

#[tokio::test]
async fn bytes_pass_both_ways_and_are_counted() {
    let (_server, proxy, mut client, mut peer) = connected().await;
    assert_eq!(passes(&mut peer, &mut client).await, Some(true));
    assert_eq!(passes(&mut peer, &mut client).await, Some(true));
    let stats = proxy.stats();
    assert_eq!((stats.to_server, stats.to_client), (1, 2));
    assert_eq!((stats.accepted, stats.open, stats.held), (1, 1, 0));
    drop((client, peer));
    until(&proxy, |stats| stats.open == 0).await;
    assert_eq!(
        proxy.stats().to_client,
        2,
        "the bytes of closed connections stay counted"
    );
}

#[tokio::test]
async fn half_close_leaves_the_other_direction_open() {
    let (_server, _proxy, mut client, mut peer) = connected().await;
    client.shutdown().await.unwrap();
    assert_eq!(read(&mut peer).await.unwrap(), 0);
    assert_eq!(passes(&mut peer, &mut client).await, Some(true));
}

#[tokio::test]
async fn reset_reaches_both_sides_of_present_connections() {
    let (server, proxy, mut client, mut peer) = connected().await;
    assert_eq!(proxy.reset().connections, 1);
    assert!(is_reset(&read(&mut client).await));
    assert!(is_reset(&read(&mut peer).await));
    until(&proxy, |stats| stats.open == 0).await;
    server.pair(&proxy).await;
}

#[tokio::test]
async fn reset_of_later_connections_ends_with_its_guard() {
    let (server, proxy, mut client, mut peer) = connected().await;
    let guard = proxy.inject(Fault::Reset, Reach::Later);
    assert_eq!(guard.affected().connections, 0);
    let mut later = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(read(&mut later).await.is_err());
    server.accept().await;
    assert_eq!(passes(&mut client, &mut peer).await, Some(true));
    drop(guard);
    server.pair(&proxy).await;
}

#[tokio::test]
async fn close_is_orderly_on_both_sides_even_with_unread_bytes() {
    let (_server, proxy, mut client, mut peer) = connected().await;
    let freeze = proxy.inject(Fault::Freeze, Reach::Present);
    client.write_all(b"unread").await.unwrap();
    until(&proxy, |stats| stats.held == 6).await;
    assert_eq!(proxy.close().held, 6);
    assert_eq!(read(&mut client).await.unwrap(), 0);
    assert_eq!(read(&mut peer).await.unwrap(), 0);
    drop((client, peer, freeze));
    until(&proxy, |stats| stats.open == 0).await;
}

#[tokio::test]
async fn blackhole_takes_one_direction_or_both() {
    for (direction, up, down) in [
        (Direction::ToServer, false, true),
        (Direction::ToClient, true, false),
        (Direction::Both, false, false),
    ] {
        let (server, proxy, mut client, mut peer) = connected().await;
        let guard = proxy.inject(Fault::Blackhole(direction), Reach::Present);
        assert_eq!(
            passes(&mut client, &mut peer).await,
            Some(up),
            "{direction:?}"
        );
        assert_eq!(
            passes(&mut peer, &mut client).await,
            Some(down),
            "{direction:?}"
        );
        let (mut later, mut later_peer) = server.pair(&proxy).await;
        drop(guard);
        assert!(
            is_reset(&read(&mut client).await),
            "swallowed bytes are lost"
        );
        assert!(is_reset(&read(&mut peer).await));
        assert_eq!(passes(&mut later, &mut later_peer).await, Some(true));
    }
}

#[tokio::test]
async fn blackhole_for_everything_reaches_later_connections() {
    let (server, proxy, mut client, mut peer) = connected().await;
    let guard = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Everything);
    let mut later = TcpStream::connect(proxy.addr()).await.unwrap();
    let mut later_peer = server.accept().await;
    assert_eq!(passes(&mut client, &mut peer).await, Some(false));
    assert_eq!(passes(&mut later, &mut later_peer).await, Some(false));
    drop(guard);
    assert!(is_reset(&read(&mut later).await));
}

#[tokio::test]
async fn blackhole_lets_the_senders_buffers_fill() {
    let (_server, proxy, mut client, _peer) = connected().await;
    let _guard = proxy.inject(Fault::Blackhole(Direction::ToServer), Reach::Present);
    let block = vec![0; 1 << 20];
    let stuck = async {
        loop {
            client.write_all(&block).await.unwrap();
        }
    };
    assert!(timeout(Duration::from_millis(500), stuck).await.is_err());
    let stats = proxy.stats();
    assert_eq!((stats.to_server, stats.held), (1, 64 * 1024));
}

#[tokio::test]
async fn freeze_loses_nothing_and_counts_held_bytes() {
    let (_server, proxy, mut client, mut peer) = connected().await;
    let freeze = proxy.inject(Fault::Freeze, Reach::Everything);
    client.write_all(b"question").await.unwrap();
    peer.write_all(b"answer").await.unwrap();
    until(&proxy, |stats| stats.held == 14).await;
    let second = proxy.inject(
        Fault::Delay(Direction::Both, Duration::ZERO),
        Reach::Present,
    );
    assert_eq!(second.affected().held, 14);
    drop(freeze);
    let mut text = [0; 8];
    peer.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"question");
    client.read_exact(&mut text[..6]).await.unwrap();
    assert_eq!(&text[..6], b"answer");
    assert_eq!(proxy.stats().held, 0);
}

#[tokio::test]
async fn refused_connection_fails_at_once_and_others_live_on() {
    let (_server, proxy, mut client, mut peer) = connected().await;
    let guard = proxy.inject(Fault::Refuse, Reach::Later);
    let refused = async {
        // The listener goes when its task gets to it; until then a connection is reset instead.
        while TcpStream::connect(proxy.addr()).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
        TcpStream::connect(proxy.addr()).await.unwrap_err()
    };
    let error = timeout(LIMIT, refused).await.unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(passes(&mut client, &mut peer).await, Some(true));
    drop(guard);
    let reached = async {
        while TcpStream::connect(proxy.addr()).await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, reached).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_made_during_refusal_never_reaches_the_server() {
    let (server, proxy) = setup().await;
    for _ in 0..50 {
        let refused = proxy.inject(Fault::Refuse, Reach::Later);
        // The listener may still be closing: then the connection is made, and reset.
        if let Ok(mut client) = TcpStream::connect(proxy.addr()).await {
            // One whose listener closed during its handshake hears of it when it speaks.
            let written = client.write_all(b"x").await;
            let reset = written.is_err() || read(&mut client).await.is_err();
            assert!(reset, "it is reset");
        }
        drop(refused);
        let open = timeout(LIMIT, async {
            loop {
                // A connection may still be caught in the backlog of the listener that closes.
                if let Ok(client) = TcpStream::connect(proxy.addr()).await
                    && timeout(QUIET, server.listener.accept()).await.is_ok()
                {
                    break drop(client);
                }
                sleep(Duration::from_millis(1)).await;
            }
        });
        open.await.unwrap();
    }
    let none = timeout(QUIET, server.listener.accept()).await;
    assert!(none.is_err(), "only the ones made while it was open came");
}

#[tokio::test]
async fn delay_holds_every_byte_for_its_duration() {
    let (_server, proxy, mut client, mut peer) = connected().await;
    let delay = Duration::from_millis(60);
    let _guard = proxy.inject(Fault::Delay(Direction::ToServer, delay), Reach::Present);
    let sent = Instant::now();
    client.write_all(b"x").await.unwrap();
    read(&mut peer).await.unwrap();
    assert!(sent.elapsed() >= delay);
    let sent = Instant::now();
    peer.write_all(b"x").await.unwrap();
    read(&mut client).await.unwrap();
    assert!(sent.elapsed() < delay, "the other direction is not delayed");
}

#[tokio::test]
async fn new_upstream_takes_later_connections() {
    let (_first, proxy, mut client, mut peer) = connected().await;
    let (second, addr) = Server::start().await;
    proxy.set_upstream(addr);
    second.pair(&proxy).await;
    assert_eq!(passes(&mut client, &mut peer).await, Some(true));
}

#[tokio::test]
async fn client_of_a_dead_upstream_is_reset() {
    let (server, proxy) = setup().await;
    drop(server);
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(is_reset(&read(&mut client).await));
    until(&proxy, |stats| stats.open == 0).await;
}

#[tokio::test]
async fn shutdown_and_drop_leave_no_task_and_no_socket() {
    let before = Handle::current().metrics().num_alive_tasks();
    for orderly in [true, false] {
        let (_server, proxy, mut client, mut peer) = connected().await;
        let guard = proxy.inject(Fault::Blackhole(Direction::Both), Reach::Everything);
        client.write_all(b"held").await.unwrap();
        until(&proxy, |stats| stats.held == 4).await;
        let addr = proxy.addr();
        if orderly {
            proxy.shutdown().await;
        } else {
            drop(proxy);
        }
        assert!(matches!(read(&mut client).await, Ok(0) | Err(_)));
        assert!(matches!(read(&mut peer).await, Ok(0) | Err(_)));
        assert!(TcpStream::connect(addr).await.is_err());
        assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
        drop(guard);
    }
}

#[tokio::test]
async fn counters_balance_after_a_storm_of_resets() {
    let (server, proxy) = setup().await;
    let accepting: JoinHandle<()> = tokio::spawn(async move {
        while let Ok((mut socket, _)) = server.listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                tokio::io::copy(&mut reader, &mut writer).await.ok();
            });
        }
    });
    for _ in 0..20 {
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
            client.write_all(b"x").await.ok();
            clients.push(client);
        }
        proxy.reset();
    }
    until(&proxy, |stats| stats.accepted == 200 && stats.open == 0).await;
    accepting.abort();
}
