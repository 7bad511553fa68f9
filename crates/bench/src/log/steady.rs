//! One publisher at a steady rate, with two subscribers.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use steadfast_bench::{
    figure::Figures,
    measure::{cpu_time, process_cpu_time},
};
use steadfast_streamer::{Entry, Publisher};
use steadfast_wire::streamer::streamer_message::Payload;
use tokio::{
    runtime,
    time::{MissedTickBehavior, interval, timeout},
};

use super::allocated;
use crate::streamer::{COLLECTION, DATABASE, Kind, Process, RawStream, Run, data};

/// Documents per second, and in all.
const RATE: u64 = 1_000;
const DOCUMENTS: u64 = 10 * RATE;
/// Documents before the measurement.
const WARM_UP: u64 = RATE;
/// Writes and syncs of the baseline.
const SYNCS: u64 = 5 * RATE;
/// The share of a core that is the goal, in percent.
const GOAL: f64 = 5.0;
/// The longest time for all documents.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Measures the share of a core that the server needs.
pub(super) fn run(dir: &Path, figures: &mut Figures) -> Result<()> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Process::start(Kind::Disk(&dir.join("steady")), nowhere, 0)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (run, waits) = runtime.block_on(async {
        timeout(TIMEOUT, publish(&server))
            .await
            .context("the documents do not arrive")?
    })?;
    let share = run.server_cpu / run.seconds * 100.0;
    figures.put_less("steady_1000_per_second_share_of_a_core", "%", share, GOAL);
    let waits = waits as f64 / DOCUMENTS as f64;
    figures.put("steady_1000_per_second_waits_per_document", "", waits);
    let rate = DOCUMENTS as f64 / run.seconds;
    figures.put("steady_1000_per_second_delivered", "1/s", rate);
    let share = syncs(&dir.join("syncs"))? * 100.0;
    figures.put("syncs_1000_per_second_share_of_a_core", "%", share);
    let share = bare_server(&dir.join("bare"))? * 100.0;
    figures.put("bare_server_1000_per_second_share_of_a_core", "%", share);
    Ok(())
}

/// Returns the share of a core that a thread needs for one write and one sync per document at the same
/// rate, and for nothing else.
#[expect(
    clippy::disallowed_methods,
    reason = "a timer of the runtime would be measured as well"
)]
fn syncs(path: &Path) -> Result<f64> {
    let file = allocated(path)?;
    let period = Duration::from_secs(1) / u32::try_from(RATE)?;
    let (start, cpu) = (Instant::now(), process_cpu_time());
    for number in 0..SYNCS {
        file.write_all_at(&[0xa5; 300], number * 300)?;
        file.sync_data()?;
        let due = period * u32::try_from(number + 1)?;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok((process_cpu_time() - cpu) / start.elapsed().as_secs_f64())
}

/// Returns the share of a core that a thread needs which receives each document from a socket, writes and
/// syncs it, sends it to two subscribers and acknowledges it, all with blocking calls: what the system takes
/// for these five calls and the switches between them.
#[expect(
    clippy::disallowed_methods,
    reason = "a timer of the runtime would be measured as well"
)]
fn bare_server(path: &Path) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut connections = Vec::new();
    for _ in 0..3 {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(TIMEOUT))?;
        }
        let mut receiving = client.try_clone()?;
        std::thread::spawn(move || std::io::copy(&mut receiving, &mut std::io::sink()));
        connections.push((client, server));
    }
    let file = allocated(path)?;
    let mut publisher = connections[0].0.try_clone()?;
    let period = Duration::from_secs(1) / u32::try_from(RATE)?;
    let publishing = std::thread::spawn(move || {
        let start = Instant::now();
        for number in 1..=u32::try_from(SYNCS)? {
            publisher.write_all(&[0xa5; 300])?;
            std::thread::sleep((period * number).saturating_sub(start.elapsed()));
        }
        anyhow::Ok(())
    });
    let (start, cpu) = (Instant::now(), cpu_time());
    let mut document = [0; 300];
    for number in 0..SYNCS {
        connections[0].1.read_exact(&mut document)?;
        file.write_all_at(&document, number * 300)?;
        file.sync_data()?;
        for (_, subscriber) in &mut connections[1..] {
            subscriber.write_all(&document)?;
        }
        connections[0].1.write_all(&document[..30])?;
    }
    let share = (cpu_time() - cpu) / start.elapsed().as_secs_f64();
    publishing.join().expect("the publisher does not panic")?;
    Ok(share)
}

/// Returns the run, and how often a thread of the server waited in it.
async fn publish(server: &Process) -> Result<(Run, u64)> {
    let mut subscribers = Vec::new();
    for _ in 0..2 {
        let mut stream = RawStream::subscribe(server.address()).await?;
        while !matches!(stream.next().await?, Payload::SubscribeResponse(_)) {}
        subscribers.push(tokio::spawn(receive(stream, WARM_UP + DOCUMENTS)));
    }
    let publisher = Publisher::builder(server.address().to_string())
        .producer("bench")
        .build()?;
    publisher.connect().await?;
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(RATE)?);
    // The rate is kept over a disturbance.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut began = None;
    for number in 0..WARM_UP + DOCUMENTS {
        ticks.tick().await;
        if number == WARM_UP {
            began = Some((Run::begin(server)?, server.waits()?));
        }
        let id = format!("order-{}", number % 10_000);
        let entry = Entry::upsert(DATABASE, COLLECTION, id, data(number));
        // Its acknowledgement is not waited for: the publisher's queue is bounded.
        drop(publisher.enqueue(entry).await?);
    }
    for subscriber in subscribers {
        subscriber.await??;
    }
    let (began, waits) = began.context("no document")?;
    let measured = (began.end(server)?, server.waits()? - waits);
    publisher.close().await;
    Ok(measured)
}

async fn receive(mut stream: RawStream, mut count: u64) -> Result<()> {
    while count > 0 {
        if let Payload::Delivery(_) = stream.next().await? {
            count -= 1;
        }
    }
    Ok(())
}
