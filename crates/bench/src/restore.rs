//! Restoring subscriptions after the server was killed and started again.
//!
//! One client with many subscriptions is measured beside tonic's generated client and server, which
//! send the same requests and responses, pipelined, on a new connection. Then many clients find the
//! killed server again; their attempts are counted.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use steadfast_bench::{
    figure::Figures,
    measure::{load_average, median, process_cpu_time},
};
use steadfast_streamer::{Client, Filter, client::Subscription};
use steadfast_wire::streamer::{
    Filter as WireFilter, Position, SubscribeRequest, Value, gateway_message::Payload as Request,
    streamer_message::Payload, value::Kind,
};
use tokio::{runtime, task::JoinSet, time::timeout};

use crate::{
    streamer::{COLLECTION, DATABASE, EPOCH, Kind as Server, Process, RawStream, Run},
    target::Target,
};

/// The number of runs of each row; the median counts.
const RUNS: usize = 5;

/// The number of events in the log.
const EVENTS: u64 = 1_000;

/// The longest time for one run.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The number of clients that find the server again.
const CLIENTS: usize = 1_000;

pub(crate) fn run(quick: bool) -> Result<Figures> {
    let subscriptions = if quick { 20_000 } else { 100_000 };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut figures = Figures::new();
    runtime.block_on(measure_one(&mut figures, subscriptions))?;
    runtime.block_on(measure_many(&mut figures, subscriptions / CLIENTS))?;
    figures.put("restore_load_average", "tasks", load_average()?);
    Ok(figures)
}

async fn measure_one(figures: &mut Figures, subscriptions: usize) -> Result<()> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut server = Process::start(Server::Memory, nowhere, EVENTS)?;
    let raw_server = Process::start(Server::Raw, nowhere, 0)?;
    let address = server.address();
    let client = Client::builder(address.to_string()).build()?;
    let held = timeout(TIMEOUT, subscribe(&client, 0..subscriptions)).await??;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..RUNS {
        raw.push(timeout(TIMEOUT, restore_raw(&raw_server, subscriptions)).await??);
        let before = client.link_counters();
        server.kill()?;
        // With the same address, epoch and events, so that the client's positions stay valid.
        server = Process::start(Server::Memory, address, EVENTS)?;
        let began = Run::begin(&server)?;
        timeout(TIMEOUT, established(&client, before.streams_established)).await?;
        let outage = timeout(TIMEOUT, outage_over(&client, ours.len() + 1)).await?;
        ours.push(Run {
            seconds: outage.as_secs_f64(),
            ..began.end(&server)?
        });
        bytes = client.link_counters().bytes_out - before.bytes_out;
    }
    drop(held);
    client.close().await;
    let each = 1e9 / subscriptions as f64;
    let mut add = |name: &str, key: fn(&Run) -> f64, factor, unit| {
        let of = |runs: &[Run]| median(runs.iter().map(key)) * factor;
        let (ours, raw) = (of(&ours), of(&raw));
        figures.put_less(format!("restore_{name}"), unit, ours, raw);
    };
    add("one_client", |run| run.seconds, 1.0, "s");
    add("server_cpu", |run| run.server_cpu, each, "ns each");
    add("client_cpu", |run| run.client_cpu, each, "ns each");
    add(
        "cpu",
        |run| run.server_cpu + run.client_cpu,
        each,
        "ns each",
    );
    figures.put(
        "restore_request",
        "bytes",
        bytes as f64 / subscriptions as f64,
    );
    Ok(())
}

/// Returns the filters' text and wire form of a subscription.
fn filter(number: usize) -> (String, WireFilter) {
    let user = format!("user-{number}");
    let wire = WireFilter {
        field: "user".to_owned(),
        op: "==".to_owned(),
        value: Some(Value {
            kind: Some(Kind::StringValue(user.clone())),
        }),
        path: Vec::new(),
    };
    (format!("user == \"{user}\""), wire)
}

async fn subscribe(client: &Client, numbers: std::ops::Range<usize>) -> Result<Vec<Subscription>> {
    let mut pending = JoinSet::new();
    for number in numbers {
        let filter = Filter::from_text([filter(number).0])?;
        let subscribe = client.subscribe(DATABASE, COLLECTION, filter);
        pending.spawn(subscribe.into_future());
    }
    let mut held = Vec::new();
    while let Some(subscription) = pending.join_next().await {
        held.push(subscription??);
    }
    Ok(held)
}

/// Waits until a client has more live streams behind it than before. A stream is live when everything
/// is restored.
async fn established(client: &Client, before: u64) {
    while client.link_counters().streams_established <= before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a client has been through so many outages, and returns how long the restoration of the
/// last one took.
async fn outage_over(client: &Client, count: usize) -> Duration {
    loop {
        let outages = client.outages();
        if outages.len() >= count
            && let Some(last) = outages.last()
        {
            return last.restore;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends the same requests with generated code and waits for the responses.
async fn restore_raw(server: &Process, subscriptions: usize) -> Result<Run> {
    let session = "0c9e4b1e-5a0f-4e4e-9c53-7f2c4f4b4c11";
    let requests: Vec<_> = (0..subscriptions)
        .map(|number| SubscribeRequest {
            subscription_id: format!("{session}-{number}"),
            database: DATABASE.to_owned(),
            collection: COLLECTION.to_owned(),
            filters: vec![filter(number).1],
            resume: Some(Position {
                epoch: EPOCH.0,
                offset: EVENTS,
            }),
            credit_messages: 1,
            credit_bytes: 83,
            request: number as u64 + 1,
            ..SubscribeRequest::default()
        })
        .collect();
    let began = Run::begin(server)?;
    let mut stream = RawStream::open(server.address()).await?;
    for request in requests {
        stream.send(Request::Subscribe(request))?;
    }
    for _ in 0..subscriptions {
        let Payload::SubscribeResponse(response) = stream.next().await? else {
            anyhow::bail!("not a response");
        };
        anyhow::ensure!(response.success, "refused: {}", response.error);
    }
    began.end(server)
}

/// Kills the shipped server of many clients, each with a connection of its own, and starts it again.
async fn measure_many(figures: &mut Figures, each: usize) -> Result<()> {
    let server = Target::product()?;
    let address = server.address();
    let (mut clients, mut held) = (Vec::new(), Vec::new());
    for index in 0..CLIENTS {
        let client = Client::builder(address.to_string()).build()?;
        let numbers = index * each..(index + 1) * each;
        held.push(timeout(TIMEOUT, subscribe(&client, numbers)).await??);
        clients.push(client);
    }
    let attempts = |clients: &[Client]| -> u64 {
        let counters = clients.iter().map(Client::link_counters);
        counters.map(|counters| counters.attempts).sum()
    };
    let before = attempts(&clients);
    let killed = Instant::now();
    let server = server.kill_and_restart()?;
    let (ready, client_cpu) = (Instant::now(), process_cpu_time());
    let whole = async {
        for client in &clients {
            // Each client has established one stream before the kill.
            established(client, 1).await;
        }
    };
    timeout(TIMEOUT, whole).await.context("some are not back")?;
    let (ready, killed) = (ready.elapsed(), killed.elapsed());
    let client_cpu = process_cpu_time() - client_cpu;
    let made = attempts(&clients) - before;
    let mut add = |name: &str, value, unit| {
        figures.put(format!("restore_1000_clients_{name}"), unit, value);
    };
    add("after_restart", ready.as_secs_f64(), "s");
    add("after_kill", killed.as_secs_f64(), "s");
    add("attempts", made as f64, "attempts");
    add("server_cpu", server.cpu_time()?.delivery, "s");
    add("client_cpu", client_cpu, "s");
    drop(held);
    Ok(())
}
