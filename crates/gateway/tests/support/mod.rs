//! A Streamer, a gateway and clients, on real sockets.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod http;
pub mod v1;

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use steadfast::dial::Dialer;
use steadfast_access::NewToken;
use steadfast_gateway::{Gateway, GatewayOptions, UpstreamOptions};
use steadfast_streamer::{Entry, Epoch, MemoryLog, Publisher, Server, ServerOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, protocol::CloseFrame},
};

pub const SOON: Duration = Duration::from_secs(60);

/// A Streamer and a gateway in front of it.
pub struct World {
    pub server: Server,
    pub gateway: Gateway,
    pub publisher: Publisher,
}

/// A client that does what it is told.
pub struct Client(pub WebSocketStream<TcpStream>);

pub async fn soon<F: Future>(what: F) -> F::Output {
    timeout(SOON, what).await.expect("in time")
}

/// Waits until `holds` resolves to true.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub fn upstream(address: SocketAddr) -> UpstreamOptions {
    let mut options = UpstreamOptions::new(Dialer::new([address.into()]));
    options.session.initial_backoff = Duration::from_millis(50);
    options.session.max_backoff = Duration::from_millis(500);
    options.connections = 2;
    options
}

impl World {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut GatewayOptions)) -> Self {
        Self::on(Box::new(MemoryLog::with_epoch(Epoch(7))), change).await
    }

    pub async fn on(
        log: Box<dyn steadfast_streamer::log::Log>,
        change: impl FnOnce(&mut GatewayOptions),
    ) -> Self {
        let server = Server::start(listener().await, log, ServerOptions::default()).unwrap();
        let mut options = GatewayOptions::new(upstream(server.address()));
        change(&mut options);
        let gateway = Gateway::start(listener().await, options).unwrap();
        let address = server.address().to_string();
        let publisher = Publisher::builder(address).build().unwrap();
        Self {
            server,
            gateway,
            publisher,
        }
    }

    /// Publishes a document of the collection `orders`.
    pub async fn put(&self, id: &str, data: &Value) {
        self.publish("orders", id, data).await;
    }

    pub async fn publish(&self, collection: &str, id: &str, data: &Value) {
        let entry = Entry::upsert("db", collection, id, data.to_string());
        soon(self.publisher.publish(entry)).await.unwrap();
    }

    pub async fn delete(&self, collection: &str, id: &str) {
        let entry = Entry::delete("db", collection, id);
        soon(self.publisher.publish(entry)).await.unwrap();
    }

    /// Starts with a policy.
    pub async fn guarded(policy: &Policy) -> Self {
        Self::with(|options| options.access = Some(policy.path())).await
    }

    /// Starts another gateway of the same Streamer.
    pub async fn another_gateway(&self) -> Gateway {
        let options = GatewayOptions::new(upstream(self.server.address()));
        Gateway::start(listener().await, options).unwrap()
    }

    pub async fn connect(&self) -> Client {
        self.connect_with(&[], "").await.unwrap()
    }

    /// Connects with headers and a query.
    pub async fn connect_with(
        &self,
        headers: &[(&'static str, &str)],
        query: &str,
    ) -> Result<Client, Error> {
        let address = self.gateway.address();
        let tcp = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}/realtime/ws{query}");
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, _) = soon(client_async(request, tcp)).await?;
        Ok(Client(socket))
    }

    /// A client that is authenticated.
    pub async fn client(&self) -> Client {
        let mut client = self.connect().await;
        client.authenticate("any").await;
        client
    }

    /// Sends a request on a connection of its own, and returns the connection after the head of the
    /// response, which is also returned.
    pub async fn get(&self, path: &str, headers: &str) -> (String, TcpStream) {
        let address = self.gateway.address();
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let head = read_until(&mut tcp, "\r\n\r\n").await;
        (head, tcp)
    }
}

/// Reads up to and including a text.
pub async fn read_until(tcp: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let byte = soon(tcp.read_u8()).await;
        read.push(
            byte.unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&read))
            }),
        );
    }
    String::from_utf8(read).unwrap()
}

impl Client {
    pub async fn send(&mut self, message: Value) {
        soon(self.0.send(Message::text(message.to_string())))
            .await
            .unwrap();
    }

    /// Returns the next text message, other than heartbeats.
    pub async fn next(&mut self) -> Value {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let message: Value = serde_json::from_str(&text).unwrap();
                        if message["type"] != "heartbeat" {
                            return message;
                        }
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        // Around all of it: heartbeats must not begin the wait anew.
        soon(next).await
    }

    /// Returns the close frame; text messages before it are dropped.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        let closed = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Close(frame))) => return frame,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        soon(closed).await
    }

    pub async fn authenticate(&mut self, token: &str) {
        self.send(auth(token)).await;
        assert_eq!(self.next().await, json!({"id": "a", "type": "auth_ack"}));
    }

    /// Subscribes and waits for the acknowledgement.
    pub async fn subscribe(&mut self, id: &str, query: Value, snapshot: bool) {
        self.send(subscribe(id, query, snapshot)).await;
        let ack = json!({"id": id, "type": "subscribe_ack"});
        assert_eq!(self.next().await, ack);
    }

    /// Returns `kind id` of the next event.
    pub async fn event(&mut self) -> String {
        let message = self.next().await;
        assert_eq!(message["type"], "event", "{message}");
        let delta = &message["payload"]["delta"];
        format!(
            "{} {}",
            delta["type"].as_str().unwrap(),
            delta["id"].as_str().unwrap()
        )
    }

    /// Returns the text of the next error.
    pub async fn error(&mut self) -> String {
        let message = self.next().await;
        assert_eq!(message["type"], "error", "{message}");
        message["payload"]["message"].as_str().unwrap().to_owned()
    }
}

pub fn auth(token: &str) -> Value {
    json!({"id": "a", "type": "auth", "payload": {"token": token, "database": "db"}})
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "queries are written where they are used"
)]
pub fn subscribe(id: &str, query: Value, snapshot: bool) -> Value {
    let payload = json!({"query": query, "includeData": true, "sendSnapshot": snapshot});
    json!({"id": id, "type": "subscribe", "payload": payload})
}

/// A policy file in a directory of its own, with a token for each principal.
pub struct Policy {
    folder: tempfile::TempDir,
    entries: Vec<(String, NewToken)>,
}

impl Policy {
    pub fn new(principals: &[&str]) -> Self {
        let token = |name: &&str| ((*name).to_owned(), NewToken::generate().unwrap());
        Self {
            folder: tempfile::tempdir().unwrap(),
            entries: principals.iter().map(token).collect(),
        }
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("access.toml")
    }

    pub fn token(&self, principal: &str) -> String {
        let entry = self.entries.iter().find(|(name, _)| name == principal);
        entry.unwrap().1.reveal().to_owned()
    }

    /// Writes the file. Each member is a principal and its role; each grant is a role, a collection and a
    /// filter. `more` is put into the entries of all tokens.
    pub fn write(&self, members: &[(&str, &str)], grants: &[(&str, &str, &str)], more: &str) {
        let text = self.text(members, grants, more);
        let beside = self.folder.path().join("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.path()).unwrap();
    }

    /// Writes a file with an administrator.
    pub fn write_with_admin(
        &self,
        members: &[(&str, &str)],
        grants: &[(&str, &str, &str)],
        admin: &str,
    ) {
        let text = self.text(members, grants, "");
        let more = format!(
            "[[grants]]\nrole = 'admin'\nactions = ['admin']\n\
             [[members]]\nroles = ['admin']\nprincipals = ['token:{admin}']\n"
        );
        std::fs::write(self.path(), text + &more).unwrap();
    }

    fn text(&self, members: &[(&str, &str)], grants: &[(&str, &str, &str)], more: &str) -> String {
        let mut text = String::new();
        for (name, token) in &self.entries {
            writeln!(text, "{}\n{more}", token.entry(name)).unwrap();
        }
        for (role, collection, filter) in grants {
            writeln!(
                text,
                "[[grants]]\nrole = '{role}'\ndatabases = ['db']\ncollections = ['{collection}']\n\
                 actions = ['subscribe']"
            )
            .unwrap();
            if !filter.is_empty() {
                writeln!(text, "filter = ['{filter}']").unwrap();
            }
        }
        for (principal, role) in members {
            writeln!(
                text,
                "[[members]]\nroles = ['{role}']\nprincipals = ['token:{principal}']"
            )
            .unwrap();
        }
        text
    }
}
