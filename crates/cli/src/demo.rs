//! `steadfast demo`: a real server and real sockets under injected faults, and a verdict.

mod display;
mod injector;
pub(crate) mod plan;
mod report;

use std::{num::NonZeroU32, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use steadfast_chaos::{Direction, Fault, Proxy, Reach};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{display::Display, injector::Injector, plan::Plan, report::Report};
use crate::{
    clients::Dial,
    load::{counters::Counters, judge, start},
    output::{self, FAINT, styled},
    server_process::ServerProcess,
    settings::Settings,
    units::{self, readable},
};

/// Arguments of `demo`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Duration of the load and of the faults
    #[arg(long, default_value = "20s", value_parser = duration)]
    duration: Duration,
    /// Seed of subscriptions, documents and faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Publishers, each with its own connection
    #[arg(long, default_value = "4", value_name = "N")]
    publishers: NonZeroU32,
    /// Subscribing clients, each with its own connection and three subscriptions
    #[arg(long, default_value = "24", value_name = "N")]
    subscribers: NonZeroU32,
    /// Documents per second of all publishers together
    #[arg(long, default_value = "400", value_name = "N")]
    rate: NonZeroU32,
    /// Print a JSON object instead of the table
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  steadfast demo
  steadfast demo --duration 2m --seed 7 --subscribers 200 --json

Exits with status 1 if anything was lost, duplicated, altered or out of order.";

/// Network latency, one way. It also keeps data in flight, which the faults need.
const LATENCY: Duration = Duration::from_millis(3);

fn duration(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text)?;
    if duration < plan::SHORTEST {
        return Err(format!(
            "a demo takes at least {}",
            readable(plan::SHORTEST)
        ));
    }
    Ok(duration)
}

/// Runs the demo and prints its report.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let directory = tempfile::tempdir().context("create a directory for the log")?;
    let mut server = ServerProcess::start(directory.path().to_owned()).await?;
    let proxy = Proxy::start(server.addr()).context("start the fault proxy")?;
    let report = demonstrate(&args, &mut server, &proxy, stop).await?;
    // A server that ended by itself would make the report meaningless.
    server.check()?;
    proxy.shutdown().await;
    server.kill().await?;
    if args.json {
        output::line(&report.to_json().to_string())?;
    } else {
        output::line(&report.to_table())?;
    }
    output::note(&report.conclusion());
    Ok(output::status(report.passed()))
}

async fn demonstrate(
    args: &Args,
    server: &mut ServerProcess,
    proxy: &Proxy,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let _latency = proxy.inject(Fault::Delay(Direction::Both, LATENCY), Reach::Everything);
    let plan = Plan::new(args.seed, args.subscribers.get() as usize, args.duration);
    let counters = Arc::new(Counters::default());
    let dial = Dial::with_short_timeouts(proxy.addr());
    let subscribers = start::subscribers(&counters, &dial, plan.clients).await?;
    let named = ("demo", 0..args.publishers.get());
    let publishers = start::publishers(&counters, &dial, named, args.seed, args.rate)?;
    output::note(&styled(
        FAINT,
        &format!(
            "{} publishers, {} clients with {} subscriptions, {} faults in {}, seed {}",
            args.publishers,
            args.subscribers,
            subscribers.subscriptions(),
            plan.faults.len(),
            readable(args.duration),
            args.seed,
        ),
    ));
    let injector = Injector {
        server,
        proxy,
        counters: Arc::clone(&counters),
        display: Display::new(args.duration),
        sessions: (args.subscribers.get() + args.publishers.get()) as usize,
        began: Instant::now(),
    };
    let mut faults = injector.run(&plan.faults, args.duration, stop).await?;
    output::note(&styled(
        FAINT,
        "the faults are over; waiting for all subscriptions to catch up",
    ));
    let sent = publishers.stop().await?;
    let behind = subscribers.catch_up(&sent).await;
    if behind > 0 {
        output::note(&format!(
            "{behind} subscriptions did not catch up; their missing deliveries count as lost"
        ));
    }
    let subscriptions = subscribers.subscriptions();
    let deliveries = subscribers.stop().await?;
    let outages = counters.outages();
    for (kind, injected) in &mut faults {
        injected.recovery = outages.percentiles_of(*kind);
    }
    let published = sent.iter().filter(|sent| sent.acknowledged).count() as u64;
    let mut report = Report {
        verdict: judge::judge(&sent, &deliveries),
        published,
        unacknowledged: sent.len() as u64 - published,
        gaps: deliveries
            .iter()
            .map(|subscription| subscription.gaps)
            .sum(),
        subscriptions,
        cuts: outages.cuts(),
        recovery: outages.percentiles(),
        faults,
        inconclusive: None,
    };
    report.check_conclusive();
    Ok(report)
}
