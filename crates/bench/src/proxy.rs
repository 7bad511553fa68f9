//! The cost of a proxy with a thousand agents of a thousand metrics each, scraped every ten seconds.
//!
//! The proxy is a separate process, whose CPU time and memory the kernel reports. The agents are
//! connections of this process, and their responses are encoded beforehand. The baseline is decoding
//! the same responses with `prost` and nothing else, the least that a proxy of stock parts needs.

mod agents;
mod process;
mod windows;

use std::{
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use steadfast_bench::{
    figure::Figures,
    measure::{cpu_time, median},
};
use steadfast_wire::fodc::StreamMetricsRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::yield_now,
    time::{sleep_until, timeout},
};

use self::{
    agents::{Agents, OTHERS},
    process::Process,
};
use crate::target::load_runtime;

const AGENTS: usize = 1_000;
const METRICS: usize = 1_000;

/// The interval between scrapes of the proxy.
const INTERVAL: Duration = Duration::from_secs(10);

/// The number of measured rounds, after one that is not.
const ROUNDS: u32 = 3;

/// The proxy's limits: cores, MiB, and seconds of delay.
const CORES: f64 = 0.1;
const MEMORY: f64 = 64.0;
const LATE: f64 = 2.0;

/// The longest wait of this measurement.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) fn run() -> Result<Figures> {
    load_runtime()?.block_on(measure())
}

async fn measure() -> Result<Figures> {
    let mut figures = Figures::new();
    measure_rounds(&mut figures).await?;
    measure_silence(&mut figures).await?;
    measure_all_streams(&mut figures).await?;
    windows::measure(&mut figures).await?;
    Ok(figures)
}

/// Measures complete responses. The agents get a long deadline, because on a busy machine they are
/// late: all of them share this process.
async fn measure_rounds(figures: &mut Figures) -> Result<()> {
    let process = Process::start(8)?;
    let idle = process.memory_mib()?;
    let agents = timeout(TIMEOUT, Agents::connect(process.grpc(), &[])).await??;
    let connected = process.memory_mib()?;
    let mut next = tokio::time::Instant::now();
    let mut took = Vec::new();
    let mut began = (process.cpu_seconds()?, Instant::now());
    for round in 0..=ROUNDS {
        sleep_until(next).await;
        next += INTERVAL;
        if round == 1 {
            began = (process.cpu_seconds()?, Instant::now());
        }
        let scrape = scrape(process.http()).await?;
        ensure!(scrape.missing.is_none(), "missing: {:?}", scrape.missing);
        ensure!(
            scrape.lines == AGENTS * METRICS,
            "{} lines of samples instead of {}",
            scrape.lines,
            AGENTS * METRICS
        );
        took.push(scrape.took.as_secs_f64());
    }
    sleep_until(next).await;
    let cores = (process.cpu_seconds()? - began.0) / began.1.elapsed().as_secs_f64();
    let peak = process.peak_memory_mib()?;
    figures.put_less("proxy_cores", "cores", cores, CORES);
    let prost = prost_cores(agents.sample());
    figures.put_less("proxy_cores_and_prost_alone", "cores", cores, prost);
    figures.put_less("proxy_memory_peak", "MiB", peak, MEMORY);
    figures.put("proxy_memory_idle", "MiB", idle);
    figures.put("proxy_memory_connected", "MiB", connected);
    figures.put("proxy_answer", "s", median(took));
    Ok(())
}

/// Measures the delay of responses while one agent is silent.
async fn measure_silence(figures: &mut Figures) -> Result<()> {
    let process = Process::start(2)?;
    let agents = timeout(TIMEOUT, Agents::connect(process.grpc(), &[])).await??;
    let mut before = Vec::new();
    for _ in 0..3 {
        before.push(scrape(process.http()).await?.took.as_secs_f64());
    }
    let usual = median(before);
    agents.silence_one();
    let mut after = Vec::new();
    for _ in 0..6 {
        let scrape = scrape(process.http()).await?;
        ensure!(scrape.missing.is_some(), "the silent agent is not reported");
        after.push((scrape.took.as_secs_f64() - usual).max(0.0));
    }
    figures.put_less("proxy_first_answer_late_by", "s", after[0], LATE);
    figures.put(
        "proxy_later_answers_late_by",
        "s",
        median(after.split_off(1)),
    );
    Ok(())
}

/// Measures the memory for agents that hold all seven streams.
async fn measure_all_streams(figures: &mut Figures) -> Result<()> {
    let process = Process::start(8)?;
    let _agents = timeout(TIMEOUT, Agents::connect(process.grpc(), OTHERS)).await??;
    let connected = process.memory_mib()?;
    let scrape = scrape(process.http()).await?;
    ensure!(scrape.missing.is_none(), "missing: {:?}", scrape.missing);
    let peak = process.peak_memory_mib()?;
    figures.put("proxy_seven_streams_memory_connected", "MiB", connected);
    figures.put("proxy_seven_streams_memory_peak", "MiB", peak);
    Ok(())
}

/// Returns the share of a core for decoding all responses of a round with prost.
fn prost_cores(response: &[u8]) -> f64 {
    // One response is decoded again and again: from caches, which favours the baseline.
    const TIMES: usize = 50;
    let began = cpu_time();
    for _ in 0..TIMES {
        black_box(StreamMetricsRequest::decode(black_box(response)).ok());
    }
    let one = (cpu_time() - began) / TIMES as f64;
    one * AGENTS as f64 / INTERVAL.as_secs_f64()
}

struct Scrape {
    took: Duration,
    /// The time to the first byte of the body.
    first: Duration,
    /// The lines of samples in a text.
    lines: usize,
    /// The objects in a JSON.
    objects: usize,
    missing: Option<String>,
}

/// Reads `GET /metrics` to its end.
async fn scrape(address: SocketAddr) -> Result<Scrape> {
    request(address, "/metrics").await
}

/// Reads the response to a request to its end.
async fn request(address: SocketAddr, path: &str) -> Result<Scrape> {
    timeout(TIMEOUT, exchange(address, path))
        .await
        .context("the proxy did not respond in time")?
}

async fn exchange(address: SocketAddr, path: &str) -> Result<Scrape> {
    let began = Instant::now();
    let mut socket = TcpStream::connect(address).await?;
    // In HTTP/1.0 the body has no chunks and ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 1 << 20];
    let mut head = Vec::new();
    let (mut lines, mut objects) = (0, 0);
    let mut first = None;
    // Samples begin with `m`, comments with `#`. A buffer may end at the end of a line.
    let mut at_start = false;
    let mut in_body = false;
    loop {
        let length = socket.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        // The agents and other clients share this thread, and a fast sender always has more.
        yield_now().await;
        let mut body = &buffer[..length];
        if !in_body {
            head.extend_from_slice(body);
            let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            (in_body, at_start) = (true, true);
            body = &body[body.len() - (head.len() - end - 4)..];
            head.truncate(end + 4);
        }
        if !body.is_empty() {
            first.get_or_insert_with(|| began.elapsed());
            lines += usize::from(at_start && body[0] == b'm');
            lines += memchr::memmem::find_iter(body, b"\nm").count();
            objects += memchr::memchr_iter(b'}', body).count();
            at_start = body.last() == Some(&b'\n');
        }
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(
        head.starts_with("HTTP/1.0 200"),
        "{}",
        head.lines().next().unwrap_or_default()
    );
    let missing = head
        .lines()
        .find_map(|line| line.strip_prefix("x-steadfast-missing: "))
        .map(str::to_owned);
    Ok(Scrape {
        took: began.elapsed(),
        first: first.unwrap_or_else(|| began.elapsed()),
        lines,
        objects,
        missing,
    })
}
