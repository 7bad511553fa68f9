//! `steadfast kill9`: kills a server under load again and again, and judges what its clients saw.

use std::{
    num::NonZeroU32,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use steadfast_chaos::{Proxy, judge::Verdict};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    child_process::this_program,
    clients::Dial,
    demo::plan,
    load::{counters::Counters, judge, publishers::Publishers, start},
    output::{self, FAINT, styled},
    server_process::ServerProcess,
    settings::Settings,
    signals::INTERRUPTED,
    units::{self, grouped, readable},
};

/// Arguments of `kill9`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of kills
    #[arg(long, default_value = "100", value_name = "N")]
    cycles: NonZeroU32,
    /// Seed of subscriptions, documents and the times of the kills
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Publishers, each with its own connection
    #[arg(long, default_value = "4", value_name = "N")]
    publishers: NonZeroU32,
    /// Subscribing clients, each with its own connection and three subscriptions
    #[arg(long, default_value = "8", value_name = "N")]
    subscribers: NonZeroU32,
    /// Documents per second of all publishers together
    #[arg(long, default_value = "2000", value_name = "N")]
    rate: NonZeroU32,
    /// The program whose server is killed [default: this one]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    // What hangs does so for ever, and a loaded machine does not. A server with 2 % of a core took 24 s,
    // and a stalled attempt ends after two timeouts of 10 s.
    /// Longest wait for an acknowledgement after a restart
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = units::duration)]
    back_within: Duration,
    /// Print a JSON object instead of a sentence
    #[arg(long)]
    json: bool,
}

/// Kills after which the clients are judged and replaced. It bounds the memory for what they saw.
const ROUND: u32 = 100;
/// Longest time from the first acknowledgement of a server to its kill.
const LIFE_MAX: Duration = Duration::from_millis(250);
/// Longest time from the start of a server to its kill, if it is killed while it starts.
const START_MAX: Duration = Duration::from_millis(60);
/// The rest of an interrupted commit is reported at level `warn`, at almost every start.
const QUIET: &[&str] = &["--log", "error"];
/// Delays of the clients' attempts: a cycle should take less than a second.
const BACKOFF: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(120)];

/// What the kills did.
#[derive(Clone, Copy, Debug, Default)]
struct Report {
    cycles: u32,
    /// Kills while entries waited for their acknowledgement.
    in_flight: u32,
    /// Kills before the server was ready.
    starting: u32,
    acknowledged: u64,
    gaps: u64,
    verdict: Verdict,
}

/// The server, and the clients' way to it.
struct Target {
    server: ServerProcess,
    proxy: Proxy,
    /// The epoch of the last server that acknowledged an entry.
    acknowledged_in: u64,
    rng: ChaCha8Rng,
}

/// Kills the server `--cycles` times and prints the report.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let program = match &args.binary {
        Some(program) => program.clone(),
        None => this_program()?,
    };
    // Removed when this function returns, also after an interrupt.
    let directory = tempfile::tempdir().context("create a directory for the log")?;
    let server = ServerProcess::start_program(program, directory.path().to_owned(), QUIET).await?;
    let proxy = Proxy::start(server.addr()).context("start the proxy")?;
    let mut target = Target {
        server,
        proxy,
        acknowledged_in: 0,
        rng: ChaCha8Rng::seed_from_u64(args.seed),
    };
    let began = Instant::now();
    let mut report = Report::default();
    let mut round = 0;
    while report.cycles < args.cycles.get() && !stop.is_cancelled() {
        let kills = ROUND.min(args.cycles.get() - report.cycles);
        target
            .round(&args, round, kills, &mut report, stop)
            .await
            .with_context(|| format!("after {} kills", report.cycles))?;
        round += 1;
        output::note(&styled(FAINT, &report.to_text(began.elapsed())));
        if !report.is_clean() {
            // The evidence is in the log of the deviations; more of the same adds nothing.
            break;
        }
    }
    target.proxy.shutdown().await;
    target.server.kill().await?;
    if args.json {
        output::line(&report.to_json(began.elapsed()).to_string())?;
    } else {
        output::line(&report.to_text(began.elapsed()))?;
    }
    Ok(match report {
        report if !report.is_clean() => ExitCode::FAILURE,
        report if report.cycles < args.cycles.get() => ExitCode::from(INTERRUPTED),
        _ => ExitCode::SUCCESS,
    })
}

impl Target {
    /// Kills the server `kills` times under the load of new clients, and judges what these saw.
    async fn round(
        &mut self,
        args: &Args,
        round: u32,
        kills: u32,
        report: &mut Report,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let [initial, max] = BACKOFF;
        let dial = Dial::with_short_timeouts(self.proxy.addr()).with_backoff(initial, max);
        let counters = Arc::new(Counters::default());
        let wanted = plan::subscriptions(&mut self.rng, args.subscribers.get() as usize);
        let subscribers = start::subscribers(&counters, &dial, wanted).await?;
        let count = args.publishers.get();
        // Numbered over all rounds: an entry's id is its publisher's number and its own.
        let named = ("kill9", round * count..(round + 1) * count);
        let mut publishers = start::publishers(&counters, &dial, named, args.seed, args.rate)?;
        for _ in 0..kills {
            // Only here: a cycle takes less than a second, and ends with a running server.
            if stop.is_cancelled() {
                break;
            }
            self.cycle(&counters, &mut publishers, args.back_within, report)
                .await?;
            report.cycles += 1;
        }
        let sent = publishers.stop().await?;
        let acknowledged = sent.iter().filter(|sent| sent.acknowledged).count() as u64;
        if acknowledged < sent.len() as u64 {
            let missing = sent.len() as u64 - acknowledged;
            bail!("{missing} entries were not acknowledged after the last restart");
        }
        subscribers.catch_up(&sent).await;
        let deliveries = subscribers.stop().await?;
        report.acknowledged += acknowledged;
        report.gaps += deliveries.iter().map(|it| it.gaps).sum::<u64>();
        judge::add(&mut report.verdict, &sent, &deliveries);
        Ok(())
    }

    /// Waits for an acknowledgement, kills the server at a random time after it, and restarts it.
    async fn cycle(
        &mut self,
        counters: &Counters,
        publishers: &mut Publishers,
        back_within: Duration,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let last = self.acknowledged_in;
        let back = async {
            loop {
                self.server.check()?;
                publishers.check()?;
                let epoch = load(&counters.acknowledged_in);
                // Acknowledgements of the server before this one may still be on their way.
                if epoch != 0 && epoch != last {
                    return anyhow::Ok(epoch);
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        let Ok(back) = timeout(back_within, back).await else {
            let within = readable(back_within);
            let found = publishers.describe();
            bail!("no entry was acknowledged within {within} after a restart: {found}");
        };
        self.acknowledged_in = back?;
        sleep(LIFE_MAX.mul_f64(self.rng.random())).await;
        let in_flight = load(&counters.sent) > load(&counters.acknowledged);
        report.in_flight += u32::from(in_flight);
        let refusal = self.server.kill_behind(&self.proxy).await?;
        // Recovery must survive a kill as well.
        if self.rng.random_range(0..4) == 0 {
            let after = START_MAX.mul_f64(self.rng.random());
            self.server.kill_while_starting(after).await?;
            report.starting += 1;
        }
        self.server.restart_behind(&self.proxy, refusal).await
    }
}

impl Report {
    fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.gaps == 0
    }

    fn to_json(self, took: Duration) -> serde_json::Value {
        json!({
            "cycles": self.cycles,
            "acknowledged": self.acknowledged,
            "delivered": self.verdict.delivered,
            "lost": self.verdict.lost,
            "duplicated": self.verdict.duplicated,
            "reordered": self.verdict.reordered,
            "unexpected": self.verdict.unexpected,
            "altered": self.verdict.altered,
            "gaps": self.gaps,
            "killed_in_flight": self.in_flight,
            "killed_starting": self.starting,
            "seconds": took.as_secs(),
        })
    }

    fn to_text(self, took: Duration) -> String {
        let Verdict {
            lost,
            duplicated,
            reordered,
            unexpected,
            altered,
            ..
        } = self.verdict;
        format!(
            "{} cycles in {}: {} acknowledged, {lost} lost, {duplicated} duplicated, {reordered} \
             reordered, {unexpected} unexpected, {altered} altered, {} gaps",
            self.cycles,
            readable(took),
            grouped(self.acknowledged),
            self.gaps,
        )
    }
}
