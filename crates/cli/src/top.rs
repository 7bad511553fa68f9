//! `steadfast top`: a server in the terminal, read once a second.

pub(crate) mod lists;
mod model;
mod rates;
mod summary;
#[cfg(test)]
pub(crate) mod tests;
mod view;

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{Fuse, FusedFuture as _},
};
use ratatui::{DefaultTerminal, buffer::Buffer, layout::Rect};
use steadfast_gateway::{GatewayStatus, Status};
use steadfast_streamer::server::operations::Report;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use self::model::Model;
use crate::{
    operations::{HttpAddressOrOff, Operations, OperationsArgs},
    output,
    settings::{Given, Settings},
    signals::INTERRUPTED,
};

/// Arguments of `top`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Address of a gateway, to be read in place of --operations: it has its own figures and those of its
    /// server; `off`, which a server may have in the same variable, is none
    #[arg(long, env, value_name = "HOST:PORT")]
    gateway: Option<Given<HttpAddressOrOff>>,
    #[command(flatten)]
    operations: OperationsArgs,
}

/// What is read.
enum Source {
    Server(Operations),
    Gateway(Operations),
}

/// What a source tells: each part, or the reason why it is missing.
struct Reading {
    report: anyhow::Result<Report>,
    gateway: Option<GatewayStatus>,
}

impl Source {
    async fn read(&self) -> Reading {
        let gateway = match self {
            Self::Server(operations) => {
                let status = operations.status(TIMEOUT).await;
                return Reading {
                    report: status.map(|(_, report)| report),
                    gateway: None,
                };
            }
            Self::Gateway(operations) => operations.gateway_status(TIMEOUT).await,
        };
        let Status {
            gateway,
            streamer,
            problem,
            ..
        } = match gateway {
            Ok(status) => status,
            Err(error) => {
                return Reading {
                    report: Err(error),
                    gateway: None,
                };
            }
        };
        let report = match streamer {
            Some(json) => serde_json::from_str(json.get()).context("the status of the server"),
            None => Err(anyhow!(problem.unwrap_or_default())),
        };
        Reading {
            report,
            gateway: Some(gateway),
        }
    }

    fn address(&self) -> String {
        let (Self::Server(source) | Self::Gateway(source)) = self;
        source.address.clone()
    }
}

const EXAMPLES: &str =
    "Keys: j k next and previous row, 1 2 3 4 lists, enter details, / filter, s sort, ? help, q quit.
Where the output is not a terminal, one report is printed.

Exit status: 0, or 1 if the output is not a terminal and the server does not answer or is not ready;
130 after an interrupt.

Examples:
  steadfast top
  steadfast top --operations db-0:9080 --token-file admin.token
  steadfast top --gateway gateway-0:8080
  steadfast top | head -8";

/// The time between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for a response. It is not longer, because a person waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The size of a report that is not shown on a terminal.
const REPORT: Rect = Rect::new(0, 0, 140, 60);

/// Shows the server until the user quits.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let source = match settings.get(args.gateway) {
        Some(HttpAddressOrOff(Some(gateway))) => {
            Source::Gateway(args.operations.resolve_gateway(gateway, &mut settings))
        }
        Some(HttpAddressOrOff(None)) | None => {
            Source::Server(args.operations.resolve(&mut settings))
        }
    };
    settings.finish()?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return report(&source, stop).await;
    }
    // Without a handler it would end the process and leave the terminal in raw mode.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminal = ratatui::try_init()?;
    let shown = select! {
        shown = watch(&source, &mut terminal, stop) => shown,
        _ = hangup.recv() => Ok(()),
    };
    ratatui::try_restore()?;
    shown.map(|()| ExitCode::SUCCESS)
}

/// Prints one report. Rates need two readings.
async fn report(source: &Source, stop: &CancellationToken) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut model = Model::new(source.address());
    let mut is_ready = false;
    for pause in [Duration::ZERO, INTERVAL] {
        let reading = async {
            sleep(pause).await;
            source.read().await
        };
        let Reading { report, gateway } = select! {
            () = stop.cancelled() => return Ok(INTERRUPTED.into()),
            reading = reading => reading,
        };
        let report = match report {
            // A gateway has figures of its own to print.
            Err(error) if gateway.is_some() => Err(last_cause(&error)),
            report => Ok(report?),
        };
        is_ready = report.as_ref().is_ok_and(|report| report.state == "ready");
        model.on_status(began.elapsed(), report, gateway);
    }
    let mut buf = Buffer::empty(REPORT);
    view::draw_report(&mut model, REPORT, &mut buf);
    output::text(&view::text(&buf))?;
    Ok(output::status(is_ready))
}

fn last_cause(error: &anyhow::Error) -> String {
    output::causes(error).pop().unwrap_or_default()
}

async fn watch(
    source: &Source,
    terminal: &mut DefaultTerminal,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut model = Model::new(source.address());
    let mut keys = EventStream::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At most one reading at a time, however slowly the server responds.
    let mut reading = pin!(Fuse::terminated());
    loop {
        terminal
            .draw(|frame| view::draw(&model, began.elapsed(), frame.area(), frame.buffer_mut()))?;
        select! {
            () = stop.cancelled() => return Ok(()),
            event = keys.next() => match event.transpose()? {
                // The terminal is gone.
                None => return Ok(()),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if !model.on_key(key) {
                        return Ok(());
                    }
                }
                Some(_) => {}
            },
            _ = ticks.tick() => if reading.is_terminated() {
                reading.set(source.read().fuse());
            },
            read = &mut reading, if !reading.is_terminated() => {
                let Reading { report, gateway } = read;
                model.on_status(began.elapsed(), report.map_err(|error| last_cause(&error)), gateway);
            }
        }
    }
}
