//! `steadfast tour`: the main thing, seen in half a minute, with nothing else installed.

mod account;
mod reader;
mod source;
pub(crate) mod telling;
mod writer;

use std::{
    num::NonZeroU32,
    process::ExitCode,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context as _;
use steadfast_chaos::Proxy;
use steadfast_streamer::filter::Filter;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    account::Account,
    reader::Reader,
    source::Source,
    telling::{head, note, rest},
    writer::Writer,
};
use crate::{
    config::Settings,
    output::{self, BAD, GOOD, styled},
    server_process::ServerProcess,
    units::humane,
    wiring::{Dial, Publisher, Subscriber, Turn},
};

/// Arguments of `tour`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Documents per second
    #[arg(long, default_value = "600", value_name = "N")]
    rate: NonZeroU32,
    /// Use the generator even where there is a package index
    #[arg(long)]
    generator: bool,
}

const EXAMPLES: &str = "Status 0 if the subscription got every matching document exactly once.

Examples:
  steadfast tour
  steadfast tour --generator --rate 100";

/// Undisturbed time before, between and after the cuts.
const STAGE: Duration = Duration::from_secs(5);
/// The killed server stays away so long.
const AWAY: Duration = Duration::from_millis(700);
/// Nothing takes longer to recover; beyond it the tour has failed.
const PATIENCE: Duration = Duration::from_secs(15);
/// Turns of the subscriber's session that may wait to be told; more are not told.
const TURNS: usize = 64;

/// A turn and its time.
type Timed = (Instant, Turn);

/// Runs the tour.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let directory = tempfile::tempdir().context("make a directory for the log")?;
    let mut server = ServerProcess::start(directory.path().to_owned()).await?;
    let proxy =
        Proxy::start(server.addr()).context("start the proxy that will break connections")?;
    head(
        1,
        "a server of its own",
        &format!(
            "{}, its log in {}",
            server.addr(),
            directory.path().display()
        ),
    );
    let account = tour(&args, &mut server, &proxy, stop).await?;
    server.check()?;
    proxy.shutdown().await;
    server.kill().await?;
    output::line("")?;
    output::line(&account.to_table())?;
    let good = account.passed();
    let style = if good { GOOD } else { BAD };
    output::note(&styled(style, &account.conclusion()));
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn tour(
    args: &Args,
    server: &mut ServerProcess,
    proxy: &Proxy,
    stop: &CancellationToken,
) -> anyhow::Result<Account> {
    let source = Source::open(args.generator).await?;
    let dial = Dial::impatient(proxy.addr());
    let (turns, mut told) = mpsc::channel(TURNS);
    let client = Subscriber::open(&dial, move |turn| {
        // Nobody waits for the telling, so what does not fit is not told.
        turns.try_send((Instant::now(), turn)).ok();
    })?;
    let ledger = source.ledger();
    let texts: Vec<String> = ledger.conditions.iter().map(ToString::to_string).collect();
    let filter = Filter::from_text(&texts)?;
    let subscription = client
        .subscribe(ledger.database, ledger.collection, filter, None)
        .await?;
    head(
        2,
        "a subscription",
        &format!(
            "{}/{} where {}",
            ledger.database,
            ledger.collection,
            texts.join(" and ")
        ),
    );
    let newest = Arc::new(AtomicU64::new(0));
    let publisher = Publisher::open(&dial, "tour", |_| {})?;
    head(
        3,
        "a feed",
        &format!("{} documents a second from {}", args.rate, source.origin()),
    );
    let reader = Reader::start(subscription, ledger.clone(), source.columns());
    let writer = Writer::start(publisher, source, args.rate, Arc::clone(&newest));

    let mut account = Account::new(ledger, Arc::clone(&newest));
    let mut cuts = Cuts {
        server,
        proxy,
        told: &mut told,
        account: &mut account,
    };
    let whole = cuts.all(stop).await?;
    let sent = writer.stop().await?;
    let received = reader.stop(&sent).await?;
    client.close().await;
    account.close(&sent, received, whole);
    Ok(account)
}

/// The interruptions of the tour, told as they happen.
struct Cuts<'a> {
    server: &'a mut ServerProcess,
    proxy: &'a Proxy,
    told: &'a mut mpsc::Receiver<Timed>,
    account: &'a mut Account,
}

impl Cuts<'_> {
    /// Both cuts with their stages; `false` when stopped before the end.
    async fn all(&mut self, stop: &CancellationToken) -> anyhow::Result<bool> {
        if !rest(STAGE, stop).await {
            return Ok(false);
        }
        head(4, "a cut", "every connection is reset");
        self.account.mark("until the reset");
        let at = Instant::now();
        self.proxy.reset();
        self.recover(at).await;
        if !rest(STAGE, stop).await {
            return Ok(false);
        }
        head(
            5,
            "a worse one",
            "the server is killed with -9, and started again on the same log",
        );
        self.account.mark("until the kill");
        let at = Instant::now();
        self.server.kill().await?;
        sleep(AWAY).await;
        self.server.restart().await?;
        self.proxy.set_upstream(self.server.addr());
        self.recover(at).await;
        let whole = rest(STAGE, stop).await;
        self.account.mark("after the kill");
        Ok(whole)
    }

    /// Tells the session's turns until it is connected again.
    async fn recover(&mut self, since: Instant) {
        let deadline = since + PATIENCE;
        let mut lost = false;
        while let Ok(Some((at, turn))) = timeout_at(deadline, self.told.recv()).await {
            match turn {
                // Turns before the cut were waiting to be told; they say nothing of it.
                _ if at < since => {}
                Turn::Lost { reason } => {
                    lost = true;
                    let after = humane(at.duration_since(since));
                    note(&format!("lost after {after}: {reason}"));
                }
                Turn::Connected if lost => {
                    let took = at.duration_since(since);
                    self.account.recovered(took);
                    let text = format!("connected again {} after the cut, resuming", humane(took));
                    note(&styled(GOOD, &text));
                    return;
                }
                Turn::Connected => {}
            }
        }
        note(&styled(
            BAD,
            &format!("not connected again within {}", humane(PATIENCE)),
        ));
    }
}
