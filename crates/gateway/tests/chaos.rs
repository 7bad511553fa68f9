//! Gateway and Streamer as processes that are killed in turn, under sockets of `steadfast.v1`: each receives every
//! change of its collection once and in order, as the payloads tell.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use steadfast::{LinkOptions, dial::Dialer, session::Config};
use steadfast_chaos::{Fault, Proxy, Reach};
use steadfast_gateway::{Gateway, GatewayOptions, UpstreamOptions};
use steadfast_streamer::{
    Entry, Epoch, Publisher, SegmentLog, Server, ServerOptions, StoreOptions,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

/// The role of a child process, and what it needs.
const ROLE: &str = "STEADFAST_CHAOS_ROLE";
const WITH: &str = "STEADFAST_CHAOS_WITH";

const COLLECTIONS: u64 = 8;

/// The longest wait for anything. It only ends tests that would hang.
const SOON: Duration = Duration::from_secs(120);

/// The extent of a test.
#[derive(Clone, Copy, Debug)]
struct Plan {
    sockets: u64,
    kills: u64,
    /// The time between two kills.
    pause: Duration,
    /// Documents per second.
    rate: u32,
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name);
    text.map_or(default, |text| text.parse().expect(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateways_and_servers_cost_no_change() {
    let plan = Plan {
        sockets: 48,
        kills: 6,
        pause: Duration::from_millis(1_500),
        rate: 200,
    };
    run(plan).await;
}

/// `cargo xtask chaos gateway`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn hundreds_of_sockets_survive_kills() {
    let plan = Plan {
        sockets: number("STEADFAST_CHAOS_SOCKETS", 500),
        kills: number("STEADFAST_CHAOS_KILLS", 24),
        pause: Duration::from_millis(number("STEADFAST_CHAOS_PAUSE_MS", 5_000)),
        rate: 400,
    };
    run(plan).await;
}

/// A process of the tests above. It ends when it is killed, or with its parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the other tests"]
async fn process() {
    let role = std::env::var(ROLE).unwrap();
    let with = std::env::var(WITH).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Ends the process when the parent is gone.
    std::thread::spawn(|| {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        std::process::exit(0);
    });
    if role == "server" {
        let options = StoreOptions::new(Epoch(number("STEADFAST_CHAOS_EPOCH", 1)));
        let log = SegmentLog::open(Path::new(&with), &options).unwrap();
        let _server = Server::start(listener, Box::new(log), ServerOptions::default()).unwrap();
        println!("\nready {address}");
        return std::future::pending().await;
    }
    let mut upstream =
        UpstreamOptions::new(Dialer::new([with.parse::<SocketAddr>().unwrap().into()]));
    upstream.session = quick();
    let mut options = GatewayOptions::new(upstream);
    // All clients have one address here.
    options.request_rate = None;
    let _gateway = Gateway::start(listener, options).unwrap();
    println!("\nready {address}");
    std::future::pending::<()>().await;
}

/// Settings with which a client is back soon after its server.
fn quick() -> Config {
    let mut config = Config::default();
    config.initial_backoff = Duration::from_millis(50);
    config.max_backoff = Duration::from_millis(500);
    config
}

/// A process behind a proxy, whose address stays.
struct Target {
    role: &'static str,
    with: String,
    proxy: Proxy,
    child: Child,
    starts: u64,
}

impl Target {
    async fn start(role: &'static str, with: String) -> Self {
        let (child, address) = start(role, &with, 1).await;
        Self {
            role,
            with,
            proxy: Proxy::start(address).unwrap(),
            child,
            starts: 1,
        }
    }

    /// Kills the process and starts another one.
    async fn kill(&mut self) {
        // The system may give its port to another process.
        let refusal = self.proxy.inject(Fault::Refuse, Reach::Later);
        self.child.kill().await.unwrap();
        self.starts += 1;
        let (child, address) = start(self.role, &self.with, self.starts).await;
        self.child = child;
        self.proxy.set_upstream(address);
        drop(refusal);
    }
}

async fn start(role: &str, with: &str, epoch: u64) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .env(WITH, with)
        .env("STEADFAST_CHAOS_EPOCH", epoch.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it gets ready");
            if let Some(address) = line.strip_prefix("ready ") {
                return address.parse().unwrap();
            }
        }
    };
    let address = timeout(SOON, ready).await.expect("it gets ready in time");
    (child, address)
}

/// What all sockets have in common.
struct Shared {
    gateway: SocketAddr,
    /// The sockets that were accepted for the first time.
    accepted: AtomicU64,
    connections: AtomicU64,
    /// The number of the last document of each collection, once all are published.
    last: watch::Receiver<Option<u64>>,
}

/// One client: it stores the position of each item with what it saw.
struct Reader {
    collection: String,
    position: Option<String>,
    /// The number of the last document.
    seen: u64,
}

impl Reader {
    /// Receives until everything was seen, over as many connections as that takes.
    async fn run(mut self, shared: Arc<Shared>, number: u64) -> u64 {
        let mut was_accepted = false;
        loop {
            // Spread, as clients do it.
            sleep(Duration::from_millis(20 + number * 7 % 400)).await;
            if let Ok(Some(mut socket)) = timeout(SOON, connect(shared.gateway)).await {
                shared.connections.fetch_add(1, Relaxed);
                if self.receive(&mut socket, &shared, &mut was_accepted).await {
                    return self.seen;
                }
            }
        }
    }

    /// Returns true if everything was seen, and false if the connection was lost.
    async fn receive(
        &mut self,
        socket: &mut WebSocketStream<TcpStream>,
        shared: &Shared,
        was_accepted: &mut bool,
    ) -> bool {
        let mut last = shared.last.clone();
        let mut subscribe = json!({"type": "subscribe", "id": "s", "database": "db", "collection": self.collection});
        if let Some(position) = &self.position {
            subscribe["from"] = position.as_str().into();
        }
        if socket
            .send(Message::text(subscribe.to_string()))
            .await
            .is_err()
        {
            return false;
        }
        loop {
            if last
                .borrow_and_update()
                .is_some_and(|last| self.seen == last)
            {
                return true;
            }
            let frame = tokio::select! {
                frame = socket.next() => frame,
                _ = last.changed() => continue,
            };
            let Some(Ok(frame)) = frame else { return false };
            let Message::Text(text) = frame else { continue };
            let messages = match serde_json::from_str(&text).unwrap() {
                Value::Array(messages) => messages,
                message => vec![message],
            };
            for message in messages {
                match message["type"].as_str().unwrap() {
                    "subscribed" if !*was_accepted => {
                        *was_accepted = true;
                        shared.accepted.fetch_add(1, Relaxed);
                    }
                    "change" => self.judge(&message["data"]["n"]),
                    // Of a server that was killed.
                    "refused" | "ended" => {
                        assert_eq!(message["code"], "unavailable", "{message}");
                        return false;
                    }
                    "welcome" | "subscribed" | "progress" => {}
                    _ => panic!("{message}"),
                }
                if let Some(position) = message["position"].as_str() {
                    self.position = Some(position.to_owned());
                }
            }
        }
    }

    fn judge(&mut self, n: &Value) {
        let n = n.as_u64().unwrap();
        assert_eq!(
            n,
            self.seen + 1,
            "{}: each once and in order",
            self.collection
        );
        self.seen = n;
    }
}

async fn connect(gateway: SocketAddr) -> Option<WebSocketStream<TcpStream>> {
    let tcp = TcpStream::connect(gateway).await.ok()?;
    let mut request = format!("ws://{gateway}/realtime/ws")
        .into_client_request()
        .unwrap();
    let protocol = "steadfast.v1".parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    let (socket, _) = client_async(request, tcp).await.ok()?;
    Some(socket)
}

/// Publishes document `n` of every collection, for each `n`, until it is told to stop. Returns the last `n`.
async fn publish(server: SocketAddr, rate: u32, mut stop: watch::Receiver<bool>) -> u64 {
    let dialer = Dialer::new([server.into()]);
    let publisher = Publisher::builder(dialer)
        .link(LinkOptions::from(quick()))
        .build()
        .unwrap();
    let pause = Duration::from_secs(COLLECTIONS) / rate;
    let mut n = 0;
    let mut pending = Vec::new();
    while !*stop.borrow_and_update() {
        n += 1;
        for collection in 0..COLLECTIONS {
            let data = format!("{{\"n\":{n}}}");
            let entry = Entry::upsert(
                "db",
                format!("c{collection}"),
                format!("d{}", n % 100),
                data,
            );
            pending.push(publisher.enqueue(entry).await.unwrap());
        }
        sleep(pause).await;
    }
    for entry in pending {
        timeout(SOON, entry).await.expect("in time").unwrap();
    }
    publisher.close().await;
    n
}

async fn run(plan: Plan) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap().to_owned();
    let mut server = Target::start("server", data).await;
    let mut gateway = Target::start("gateway", server.proxy.addr().to_string()).await;
    let (tell_last, last) = watch::channel(None);
    let shared = Arc::new(Shared {
        gateway: gateway.proxy.addr(),
        accepted: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        last,
    });
    let mut readers = JoinSet::new();
    for number in 0..plan.sockets {
        let reader = Reader {
            collection: format!("c{}", number % COLLECTIONS),
            position: None,
            seen: 0,
        };
        readers.spawn(reader.run(Arc::clone(&shared), number));
    }
    let deadline = Instant::now() + SOON;
    while shared.accepted.load(Relaxed) < plan.sockets {
        assert!(Instant::now() < deadline, "not all were accepted in time");
        sleep(Duration::from_millis(20)).await;
    }
    let (stop, stopped) = watch::channel(false);
    let publishing = tokio::spawn(publish(server.proxy.addr(), plan.rate, stopped));
    for kill in 0..plan.kills {
        // Not always at the same distance from the last restart.
        sleep(plan.pause.mul_f64(0.5 + (kill * 7 % 10) as f64 / 10.0)).await;
        let target = if kill % 2 == 0 {
            &mut gateway
        } else {
            &mut server
        };
        target.kill().await;
        if let Some(ended) = readers.try_join_next() {
            panic!("a client ended: {ended:?}");
        }
    }
    stop.send_replace(true);
    let count = publishing.await.unwrap();
    tell_last.send_replace(Some(count));
    let seen = timeout(SOON, readers.join_all())
        .await
        .expect("all is received in time");
    assert_eq!(seen, vec![count; plan.sockets as usize]);
    println!(
        "{} kills, {} sockets, {} connections: {count} changes of each collection, {} received, each once and in order",
        plan.kills,
        plan.sockets,
        shared.connections.load(Relaxed),
        count * plan.sockets,
    );
}
