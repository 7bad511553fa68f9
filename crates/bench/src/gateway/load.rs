//! The servers that are measured and their load.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::socket::{Frame, Socket, count, number_after};
use crate::target::Target;

/// The longest wait for a server.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// The bytes of a document, apart from its id and the group that selects it.
const TEXT: usize = 200;

/// Handshakes at a time.
const OPENING: usize = 64;

/// A server of sockets, and what it needs behind it.
pub(super) struct Broker {
    /// The process that holds the sockets.
    front: Target,
    /// The Streamer behind the gateway.
    behind: Option<Target>,
    /// The bearer token of subscribers and publishers.
    token: String,
}

/// Open sockets, each with one subscription. Dropping it closes them.
pub(super) struct Sockets {
    _tasks: JoinSet<Result<()>>,
    received: Arc<Received>,
}

#[derive(Default)]
struct Received {
    events: AtomicUsize,
    more: Notify,
}

impl Broker {
    /// Starts a Streamer and a gateway with a policy in front of it.
    pub(super) fn gateway() -> Result<Self> {
        let behind = Target::product()?;
        let (front, token) = Target::gateway(behind.address())?;
        Ok(Self {
            front,
            behind: Some(behind),
            token,
        })
    }

    /// Starts Centrifugo. Its clients are anonymous, which costs it less than a token.
    pub(super) async fn centrifugo(program: &Path) -> Result<Self> {
        let front = Target::centrifugo(program)?;
        let listens = async {
            while TcpStream::connect(front.address()).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let listens = timeout(TIMEOUT, listens).await;
        listens.context("Centrifugo does not listen")?;
        Ok(Self {
            front,
            behind: None,
            token: String::new(),
        })
    }

    fn is_gateway(&self) -> bool {
        self.behind.is_some()
    }

    /// Returns the resident memory of the process with the sockets.
    pub(super) fn resident(&self) -> Result<f64> {
        self.front.resident()
    }

    /// Returns the CPU time of all processes.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let mut sum = 0.0;
        for target in [Some(&self.front), self.behind.as_ref()]
            .into_iter()
            .flatten()
        {
            let time = target.cpu_time()?;
            sum += time.delivery + time.log;
        }
        Ok(sum)
    }

    /// Publishes events of a group, one after another, each with a response.
    pub(super) async fn publish(&self, group: &str, events: usize) -> Result<()> {
        let mut tcp = TcpStream::connect(self.front.address()).await?;
        tcp.set_nodelay(true)?;
        let text = "x".repeat(TEXT);
        for number in 0..events {
            let (path, body) = if self.is_gateway() {
                let document = format!(r#"{{"id":"d{number}","group":"{group}","text":"{text}"}}"#);
                ("/v1/databases/db/collections/messages", document)
            } else {
                let data = format!(r#"{{"id":"d{number}","text":"{text}"}}"#);
                (
                    "/api/publish",
                    format!(r#"{{"channel":"{group}","data":{data}}}"#),
                )
            };
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                self.token,
                body.len(),
            );
            let exchanged = timeout(TIMEOUT, exchange(&mut tcp, request.as_bytes())).await;
            exchanged.context("the server does not respond")??;
        }
        Ok(())
    }

    /// Opens a socket and subscribes to a group.
    async fn subscribe(&self, group: &str) -> Result<Socket> {
        let tcp = TcpStream::connect(self.front.address()).await?;
        if self.is_gateway() {
            let subprotocol = "Sec-WebSocket-Protocol: steadfast.v1\r\n";
            let mut socket = Socket::open(tcp, "/realtime/ws", subprotocol).await?;
            let auth = format!(r#"{{"type":"auth","token":"{}"}}"#, self.token);
            socket.send(false, auth.as_bytes()).await?;
            let subscribe = format!(
                r#"{{"type":"subscribe","id":"s","database":"db","collection":"messages","filters":["group == {group}"]}}"#
            );
            socket.send(false, subscribe.as_bytes()).await?;
            wait_for(&mut socket, r#""subscribed""#).await?;
            Ok(socket)
        } else {
            let mut socket = Socket::open(tcp, "/connection/websocket", "").await?;
            socket.send(false, br#"{"id":1,"connect":{}}"#).await?;
            let subscribe = format!(r#"{{"id":2,"subscribe":{{"channel":"{group}"}}}}"#);
            socket.send(false, subscribe.as_bytes()).await?;
            wait_for(&mut socket, r#""subscribe""#).await?;
            Ok(socket)
        }
    }
}

impl Sockets {
    /// Opens sockets that subscribe each to a group of its own, or to `all`.
    pub(super) async fn open(broker: &Broker, group: &str, sockets: usize) -> Result<Self> {
        let received = Arc::new(Received::default());
        let mut tasks = JoinSet::new();
        for first in (0..sockets).step_by(OPENING) {
            let opening = (first..sockets.min(first + OPENING)).map(|number| {
                let mut name = group.to_owned();
                if group != "all" {
                    write!(name, "-{number}").expect("writing to a string cannot fail");
                }
                async move { broker.subscribe(&name).await }
            });
            let opened = timeout(TIMEOUT, futures_util::future::try_join_all(opening)).await;
            for socket in opened.context("the server does not accept sockets")?? {
                tasks.spawn(read(socket, broker.is_gateway(), Arc::clone(&received)));
            }
        }
        Ok(Self {
            _tasks: tasks,
            received,
        })
    }

    /// Waits until the sockets have received so many events in all.
    pub(super) async fn wait_for(&self, events: usize) -> Result<()> {
        let wait = async {
            loop {
                let more = self.received.more.notified();
                if self.received.events.load(Ordering::Relaxed) >= events {
                    return;
                }
                more.await;
            }
        };
        let waited = timeout(TIMEOUT, wait).await;
        waited.with_context(|| {
            let received = self.received.events.load(Ordering::Relaxed);
            format!("only {received} of {events} events arrived")
        })
    }
}

/// Answers what a server expects of a subscriber that lives, and counts events.
async fn read(mut socket: Socket, is_gateway: bool, received: Arc<Received>) -> Result<()> {
    // A page sends a ping when it received nothing for the heartbeat of the gateway.
    let silence = if is_gateway { 25 } else { 3_600 };
    loop {
        let Ok(frame) = timeout(Duration::from_secs(silence), socket.next()).await else {
            socket.send(false, br#"{"type":"ping","n":1}"#).await?;
            continue;
        };
        let text = match frame? {
            Frame::Text(text) => text,
            Frame::Ping(payload) => {
                socket.send(true, &payload).await?;
                continue;
            }
            Frame::Close => bail!("the server closed a socket"),
            Frame::Other => continue,
        };
        if !is_gateway && text.starts_with(b"{}") {
            socket.send(false, b"{}").await?;
            continue;
        }
        let event = if is_gateway {
            r#""type":"change""#
        } else {
            r#""pub""#
        };
        received
            .events
            .fetch_add(count(&text, event), Ordering::Relaxed);
        received.more.notify_waiters();
    }
}

/// Reads frames until one contains a text.
async fn wait_for(socket: &mut Socket, text: &str) -> Result<()> {
    loop {
        match socket.next().await? {
            Frame::Text(received) if count(&received, text) > 0 => return Ok(()),
            Frame::Text(received) if count(&received, r#""error""#) > 0 => {
                bail!("refused: {}", String::from_utf8_lossy(&received));
            }
            Frame::Close => bail!("the server closed a socket"),
            _ => {}
        }
    }
}

/// Sends a request and reads its response, which says its length.
async fn exchange(tcp: &mut TcpStream, request: &[u8]) -> Result<()> {
    tcp.write_all(request).await?;
    let mut response = Vec::new();
    let end = loop {
        if let Some(end) = memchr::memmem::find(&response, b"\r\n\r\n") {
            break end + 4;
        }
        anyhow::ensure!(tcp.read_buf(&mut response).await? > 0, "no response");
    };
    let text = String::from_utf8_lossy(&response).to_lowercase();
    anyhow::ensure!(text.starts_with("http/1.1 200"), "the response is {text:?}");
    let length = number_after(text.as_bytes(), "content-length: ")? as usize;
    while response.len() < end + length {
        anyhow::ensure!(tcp.read_buf(&mut response).await? > 0, "half a response");
    }
    Ok(())
}
