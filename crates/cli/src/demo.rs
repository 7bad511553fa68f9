//! `steadfast demo`: real servers, real sockets, faults on purpose, and a judge that counts.

pub(crate) mod condition;
mod figures;
pub(crate) mod judge;
mod naive;
mod plan;
mod publishers;
mod recovery;
mod report;
mod screen;
mod storm;
mod subscribers;
pub(crate) mod workload;

use std::{num::NonZeroU32, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use steadfast_chaos::{Direction, Fault, Proxy, Reach};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    figures::Figures, plan::Plan, publishers::Publishers, report::Report, screen::Screen,
    storm::Storm, subscribers::Subscribers,
};
use crate::{
    config::Settings,
    output::{self, FAINT, styled},
    server_process::ServerProcess,
    units::{self, humane},
};

/// Arguments of `demo`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How long documents are published while faults come
    #[arg(long, default_value = "20s", value_parser = duration)]
    duration: Duration,
    /// Decides subscriptions, documents, and which faults come when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Publishers, each on a connection of its own
    #[arg(long, default_value = "4", value_name = "N")]
    publishers: NonZeroU32,
    /// Subscribing clients, each on a connection of its own with three subscriptions
    #[arg(long, default_value = "24", value_name = "N")]
    subscribers: NonZeroU32,
    /// Documents per second, all publishers together
    #[arg(long, default_value = "400", value_name = "N")]
    rate: NonZeroU32,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  steadfast demo
  steadfast demo --duration 2m --seed 7 --subscribers 200 --json

Status 1 if anything was lost, doubled, changed, or out of order.";

/// The network between clients and server takes this long, one way. It also makes sure that there
/// is something on the way when a fault comes.
const LATENCY: Duration = Duration::from_millis(3);
/// How long all subscriptions may take to be acknowledged.
const START: Duration = Duration::from_secs(30);

fn duration(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text)?;
    if duration < plan::SHORTEST {
        return Err(format!("a demo takes at least {}", humane(plan::SHORTEST)));
    }
    Ok(duration)
}

/// Runs the demo and tells what it found.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let directory = tempfile::tempdir().context("make a directory for the log")?;
    let mut server = ServerProcess::start(directory.path().to_owned()).await?;
    let proxy = Proxy::start(server.addr()).context("start the fault proxy")?;
    let report = demonstrate(&args, &mut server, &proxy, stop).await?;
    server.check()?;
    proxy.shutdown().await;
    server.kill().await?;
    if args.json {
        output::line(&report.to_json().to_string())?;
    } else {
        output::line(&report.to_table())?;
    }
    output::note(&report.conclusion());
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn demonstrate(
    args: &Args,
    server: &mut ServerProcess,
    proxy: &Proxy,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let _latency = proxy.inject(Fault::Delay(Direction::Both, LATENCY), Reach::Everything);
    let plan = Plan::new(args.seed, args.subscribers.get() as usize, args.duration);
    let figures = Arc::new(Figures::default());
    let starting = Subscribers::start(plan.clients, proxy.addr(), &figures);
    let subscribers = timeout(START, starting)
        .await
        .context("the server did not take the subscriptions")??;
    let publishers = Publishers::start(
        args.publishers.get(),
        args.rate,
        args.seed,
        proxy.addr(),
        &figures,
    )?;
    output::note(&styled(
        FAINT,
        &format!(
            "{} publishers, {} clients with {} subscriptions, {} faults in {}, seed {}",
            args.publishers,
            args.subscribers,
            subscribers.subscriptions(),
            plan.faults.len(),
            humane(args.duration),
            args.seed,
        ),
    ));
    let storm = Storm {
        server,
        proxy,
        figures: Arc::clone(&figures),
        screen: Screen::new(args.duration),
        sessions: (args.subscribers.get() + args.publishers.get()) as usize,
        began: Instant::now(),
    };
    let mut faults = storm.run(&plan.faults, args.duration, stop).await?;
    output::note(&styled(
        FAINT,
        "the faults are over, waiting for everybody to catch up",
    ));
    let sent = publishers.stop().await?;
    let behind = subscribers.catch_up(&sent).await;
    if behind > 0 {
        output::note(&format!(
            "{behind} subscriptions did not catch up; what they lack counts as lost"
        ));
    }
    let subscriptions = subscribers.subscriptions();
    let (ledgers, gaps) = subscribers.stop().await?;
    let outages = figures.outages();
    for (kind, injected) in &mut faults {
        injected.recovery = outages.spread_of(*kind);
    }
    let mut report = Report {
        verdict: judge::judge(&sent, &ledgers),
        unacknowledged: sent.iter().filter(|sent| !sent.acknowledged).count() as u64,
        gaps,
        subscriptions,
        cuts: outages.cuts(),
        recovery: outages.spread(),
        faults,
        void: None,
    };
    report.look_for_voids();
    Ok(report)
}
