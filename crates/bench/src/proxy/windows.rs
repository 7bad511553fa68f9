//! Windows of many agents: the newest values while windows run, and the first bytes of a long one.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use steadfast_bench::figure::Figures;
use tokio::{
    runtime,
    task::{JoinSet, spawn_blocking},
    time::{interval, timeout},
};

use super::{
    Scrape, TIMEOUT,
    agents::{Agents, Content, History, SERIES},
    process::Process,
    request, scrape,
};

const AGENTS: usize = 100;

/// The number of windows that run at once. They differ, so that they do not share responses.
const WINDOWS: u64 = 10;
const WINDOW: u64 = 60;

/// The length of the long window, and the time between its samples, as in the releases.
const LONG_WINDOW: u64 = 15 * 60;
const LONG_STEP: u64 = 10;

/// The limits of the newest values beside windows, and of the first bytes, in seconds.
const NEWEST: f64 = 0.2;
const FIRST_BYTES: f64 = 2.0;

pub(super) async fn measure(figures: &mut Figures) -> Result<()> {
    measure_newest(figures).await?;
    measure_long(figures).await
}

/// Starts a proxy with agents that have samples up to the returned time, in Unix seconds.
async fn start(length: u64, step: u64) -> Result<(Process, Agents, u64)> {
    // The agents share this process, so that on a busy machine they are late.
    let process = Process::start(50)?;
    let end = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 60 * 60;
    let content = Content::History(Arc::new(History::new(end - length..=end, step)));
    let agents = Agents::connect_all(process.grpc(), AGENTS, &content, &[]);
    let agents = timeout(TIMEOUT, agents).await??;
    Ok((process, agents, end))
}

/// Measures `/metrics` while ten windows of a minute run.
async fn measure_newest(figures: &mut Figures) -> Result<()> {
    let (process, _agents, end) = start(WINDOW + WINDOWS, 1).await?;
    let (http, cpu) = (process.http(), process.cpu_seconds()?);
    let mut windows = JoinSet::new();
    for before in 0..WINDOWS {
        windows.spawn(window(
            http,
            end - before - WINDOW + 1,
            end - before,
            WINDOW,
        ));
    }
    let mut ticks = interval(Duration::from_millis(100));
    let (mut took, mut slowest) = (Vec::new(), 0.0_f64);
    let (mut pages, mut whole_windows) = (0, 0_u32);
    while !windows.is_empty() {
        ticks.tick().await;
        // On a thread of its own: this one is busy with the agents.
        let newest = spawn_blocking(move || scrape_alone(http)).await??;
        pages += usize::from(newest.missing.is_none() && newest.lines == AGENTS * SERIES);
        took.push(newest.took.as_secs_f64());
        while let Some(window) = windows.try_join_next() {
            let window = window??;
            whole_windows += u32::from(window.is_whole);
            slowest = slowest.max(window.took);
        }
    }
    let incomplete = took.len() - pages;
    figures.put(
        "proxy_newest_beside_windows_incomplete",
        "pages",
        incomplete as f64,
    );
    figures.put(
        "proxy_ten_windows_whole",
        "windows",
        f64::from(whole_windows),
    );
    took.sort_by(f64::total_cmp);
    let percentile = |share: usize| took[(took.len() - 1) * share / 100];
    figures.put("proxy_newest_beside_windows_median", "s", percentile(50));
    figures.put_less(
        "proxy_newest_beside_windows_p99",
        "s",
        percentile(99),
        NEWEST,
    );
    figures.put(
        "proxy_newest_beside_windows_count",
        "pages",
        took.len() as f64,
    );
    figures.put("proxy_ten_windows", "s", slowest);
    figures.put("proxy_ten_windows_cpu", "s", process.cpu_seconds()? - cpu);
    figures.put(
        "proxy_ten_windows_memory_peak",
        "MiB",
        process.peak_memory_mib()?,
    );
    Ok(())
}

fn scrape_alone(http: SocketAddr) -> Result<Scrape> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(scrape(http))
}

/// Measures when a window of 15 minutes begins to arrive.
async fn measure_long(figures: &mut Figures) -> Result<()> {
    let (process, _agents, end) = start(LONG_WINDOW, LONG_STEP).await?;
    let samples = LONG_WINDOW / LONG_STEP;
    let window = window(process.http(), end - LONG_WINDOW + LONG_STEP, end, samples);
    let window = window.await?;
    let whole = u32::from(window.is_whole);
    figures.put("proxy_long_window_whole", "windows", f64::from(whole));
    figures.put_less(
        "proxy_long_window_first_bytes",
        "s",
        window.first,
        FIRST_BYTES,
    );
    figures.put("proxy_long_window", "s", window.took);
    figures.put(
        "proxy_long_window_memory_peak",
        "MiB",
        process.peak_memory_mib()?,
    );
    Ok(())
}

struct Window {
    is_whole: bool,
    /// The seconds to the first bytes, and to the last.
    first: f64,
    took: f64,
}

/// Reads a window of this many samples per series.
async fn window(http: SocketAddr, start: u64, end: u64, samples: u64) -> Result<Window> {
    let path = format!(
        "/metrics-windows?start_time={}&end_time={}",
        rfc3339(start),
        rfc3339(end)
    );
    let response = request(http, &path).await?;
    // Each sample, each series and its labels are objects.
    let objects = AGENTS * SERIES * (usize::try_from(samples)? + 2);
    Ok(Window {
        is_whole: response.missing.is_none() && response.objects == objects,
        first: response.first.as_secs_f64(),
        took: response.took.as_secs_f64(),
    })
}

fn rfc3339(seconds: u64) -> String {
    let time = prost_types::Timestamp {
        seconds: seconds.cast_signed(),
        nanos: 0,
    };
    time.to_string()
}
