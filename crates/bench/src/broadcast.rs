//! The cost of delivering events: CPU time per delivery, and the delay of others while the server is busy.
//!
//! The server is the shipped binary with its log on disk or, where there is one, on a file system in
//! memory. Beside it run a tonic server that encodes every message per stream and a raw TCP server that
//! writes each burst with one call per connection. All get the same bursts in turn.

mod busy;
mod load;
pub(crate) mod memory;
pub(crate) mod tls;

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use steadfast_bench::{figure::Figures, measure::median};
use steadfast_wire::streamer::gateway_message::Payload;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};

use self::load::{Publisher, Received, TIMEOUT};
use crate::target::{CpuTime, Target, load_runtime};

/// Connections, streams per connection and subscriptions per stream.
struct Case {
    name: &'static str,
    connections: u64,
    streams: u64,
    subscriptions: u64,
}

const CASES: [Case; 3] = [
    Case {
        name: "100_connections",
        connections: 100,
        streams: 1,
        subscriptions: 1,
    },
    Case {
        name: "100_streams_of_one_connection",
        connections: 1,
        streams: 100,
        subscriptions: 1,
    },
    Case {
        name: "1000_subscriptions_of_one_stream",
        connections: 1,
        streams: 1,
        subscriptions: 1_000,
    },
];

/// Events that are published at once, and the number of such bursts that are measured together.
const BURSTS: [(u64, u64); 3] = [(1, 150), (8, 80), (32, 40)];

const PAIRS: usize = 7;

/// Clients of one process.
const CLIENTS: u64 = 100;

/// The bytes of an event's document.
const DOCUMENT: usize = 200;

/// The bytes of a delivery around its document: names, ids, and the head of the message.
const ENVELOPE: usize = 110;

const COLLECTION: &str = "broadcast";

/// A server under load. The last part is the reader's count.
struct Loaded {
    server: Target,
    source: Source,
    received: Received,
    /// Kept, because a stream ends when its sender is dropped.
    _streams: Vec<h2::SendStream<Bytes>>,
}

/// What makes the server send.
enum Source {
    Publisher(Publisher),
    Commands(TcpStream),
}

pub(crate) fn run(quick: bool) -> Result<Figures> {
    load_runtime()?.block_on(async {
        let mut figures = Figures::new();
        for case in &CASES {
            measure_case(case, &mut figures).await?;
        }
        if !quick {
            measure_clients(&mut figures).await?;
            busy::measure(&mut figures).await?;
        }
        Ok(figures)
    })
}

/// Measures the servers in turn, so that a disturbance of the machine meets all of them.
async fn measure_case(case: &Case, figures: &mut Figures) -> Result<()> {
    let mut product = Loaded::start(Target::product()?, case).await?;
    let mut tonic = Loaded::start(Target::baseline(&["tonic"])?, case).await?;
    let raw = Target::baseline(&["tcp", &(DOCUMENT + ENVELOPE).to_string()])?;
    let mut raw = Loaded::start_raw(raw, case).await?;
    for (burst, bursts) in BURSTS {
        let mut taken = Vec::new();
        for pair in 0..=PAIRS {
            let one = product.measure(case, burst, bursts).await?;
            let other = tonic.measure(case, burst, bursts).await?;
            let least = raw.measure(case, burst, bursts).await?;
            // The first round is a warm-up.
            if pair > 0 {
                taken.push((one, other.delivery, least.delivery));
            }
        }
        let name = format!("{}_burst_{burst:02}", case.name);
        compare(
            format!("{name}_and_tonic"),
            taken.iter().map(|(one, other, _)| (one.delivery, *other)),
            figures,
        );
        compare(
            format!("{name}_and_raw_tcp"),
            taken.iter().map(|(one, _, least)| (one.delivery, *least)),
            figures,
        );
        let log = median(taken.iter().map(|(one, ..)| one.log));
        figures.put(format!("{name}_log_writer"), "ns", log);
    }
    Ok(())
}

/// Measures server and clients together: the product on both sides, and tonic on both sides.
async fn measure_clients(figures: &mut Figures) -> Result<()> {
    let case = Case {
        name: "",
        connections: 0,
        streams: 0,
        subscriptions: 0,
    };
    let mut pairs = Vec::new();
    for (server, role) in [
        (Target::product()?, "steadfast-client"),
        (Target::baseline(&["tonic"])?, "tonic-client"),
    ] {
        let address = server.address().to_string();
        let clients = Target::baseline(&[role, &address, &CLIENTS.to_string()])?;
        pairs.push((Loaded::start(server, &case).await?, clients, 0));
    }
    let (burst, bursts) = BURSTS[1];
    let mut taken = Vec::new();
    for pair in 0..=PAIRS {
        let mut sums = Vec::new();
        for (loaded, clients, total) in &mut pairs {
            let before = (loaded.server.cpu_time()?, clients.cpu_time()?);
            for _ in 0..bursts {
                loaded.burst(burst).await?;
                *total += burst * CLIENTS;
                clients.command(&total.to_string())?;
            }
            sleep(SETTLE).await;
            let after = (loaded.server.cpu_time()?, clients.cpu_time()?);
            let deliveries = (burst * bursts * CLIENTS) as f64;
            let server = (after.0.delivery - before.0.delivery) / deliveries * 1e9;
            let client = (after.1.delivery - before.1.delivery) / deliveries * 1e9;
            sums.push((server + client, client));
        }
        if pair > 0 {
            taken.push((sums[0], sums[1]));
        }
    }
    compare(
        format!("100_clients_burst_{burst:02}_both_sides_and_tonic"),
        taken.iter().map(|(one, other)| (one.0, other.0)),
        figures,
    );
    compare(
        format!("100_clients_burst_{burst:02}_client_and_tonic"),
        taken.iter().map(|(one, other)| (one.1, other.1)),
        figures,
    );
    Ok(())
}

impl Loaded {
    /// Subscribes to the collection as the case says.
    async fn start(server: Target, case: &Case) -> Result<Self> {
        let received = Received::default();
        let endpoint = server.endpoint()?;
        let publisher = Publisher::connect(&endpoint, "bench").await?;
        let mut streams = Vec::new();
        for connection in 0..case.connections {
            let requests = load::connect(&endpoint).await?;
            for stream in 0..case.streams {
                let mut sender = load::open_counted(&requests, &received).await?;
                let ids = (0..case.subscriptions).map(|n| format!("{connection}-{stream}-{n:06}"));
                let subscribe = |id| Payload::Subscribe(load::subscribe(id, COLLECTION));
                load::send(&mut sender, ids.map(subscribe))?;
                streams.push(sender);
            }
        }
        let subscriptions = case.connections * case.streams * case.subscriptions;
        received.wait_for_responses(subscriptions).await?;
        Ok(Self {
            server,
            source: Source::Publisher(publisher),
            received,
            _streams: streams,
        })
    }

    async fn start_raw(server: Target, case: &Case) -> Result<Self> {
        let received = Received::default();
        let commands = TcpStream::connect(server.address()).await?;
        commands.set_nodelay(true)?;
        for _ in 0..case.connections {
            load::open_raw(server.address(), DOCUMENT + ENVELOPE, &received).await?;
        }
        // The server accepts them on a thread of its own.
        sleep(Duration::from_millis(200)).await;
        Ok(Self {
            server,
            source: Source::Commands(commands),
            received,
            _streams: Vec::new(),
        })
    }

    async fn burst(&mut self, events: u64) -> Result<()> {
        match &mut self.source {
            Source::Publisher(publisher) => {
                publisher.publish(COLLECTION, (0..events).map(|_| document()))
            }
            Source::Commands(commands) => {
                Ok(timeout(TIMEOUT, commands.write_all(&[u8::try_from(events)?])).await??)
            }
        }
    }

    /// Returns the CPU time per delivery in nanoseconds.
    async fn measure(&mut self, case: &Case, burst: u64, bursts: u64) -> Result<CpuTime> {
        let messages = match &self.source {
            Source::Publisher(_) => case.connections * case.streams * burst,
            // The raw server has no streams. Figures are per delivery and compare all the same.
            Source::Commands(_) => case.connections * burst,
        };
        let before = self.server.cpu_time()?;
        for _ in 0..bursts {
            let expected = self.received.deliveries() + messages;
            self.burst(burst).await?;
            self.received.wait_for_deliveries(expected).await?;
        }
        // The server does the last of its work after the last message has left.
        sleep(SETTLE).await;
        let after = self.server.cpu_time()?;
        let deliveries = (messages * case.subscriptions * bursts) as f64;
        Ok(CpuTime {
            delivery: (after.delivery - before.delivery) / deliveries * 1e9,
            log: (after.log - before.log) / deliveries * 1e9,
        })
    }
}

/// Returns a JSON object of [`DOCUMENT`] bytes.
fn document() -> Bytes {
    let head = r#"{"kind":"message","n":1,"text":""#;
    let text = "x".repeat(DOCUMENT - head.len() - 2);
    format!("{head}{text}\"}}").into()
}

/// Adds the median of our values with the median of the ratios of pairs.
fn compare(name: String, pairs: impl Iterator<Item = (f64, f64)> + Clone, figures: &mut Figures) {
    let ours = median(pairs.clone().map(|(ours, _)| ours));
    let baseline = median(pairs.clone().map(|(_, baseline)| baseline));
    let ratio = median(pairs.map(|(ours, baseline)| baseline / ours.max(1e-9)));
    figures.put_against(name, "ns", ours, (baseline, ratio));
}

/// The wait for work that follows the last message of a measurement.
const SETTLE: Duration = Duration::from_millis(5);
