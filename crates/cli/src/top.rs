//! `steadfast top`: a server in the terminal, read once a second.

mod lists;
mod model;
mod rates;
mod summary;
#[cfg(test)]
mod tests;
mod view;

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{Fuse, FusedFuture as _},
};
use ratatui::{DefaultTerminal, buffer::Buffer, layout::Rect};
use tokio::{
    select,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use self::model::Model;
use crate::{
    operations::{Operations, OperationsArgs},
    output,
    settings::Settings,
};

/// Arguments of `top`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    operations: OperationsArgs,
}

const EXAMPLES: &str =
    "Keys: j k next and previous row, 1 2 3 lists, enter details, / filter, s sort, ? help, q quit.
Where the output is not a terminal, one report is printed.

Exit status: 0, or 1 if the output is not a terminal and the server does not answer or is not ready.

Examples:
  steadfast top
  steadfast top --operations db-0:9080 --token-file admin.token
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
    let operations = args.operations.resolve(&mut settings);
    settings.finish()?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return report(&operations).await;
    }
    let mut terminal = ratatui::try_init()?;
    let shown = watch(&operations, &mut terminal, stop).await;
    ratatui::try_restore()?;
    shown.map(|()| ExitCode::SUCCESS)
}

/// Prints one report. Rates need two readings.
async fn report(operations: &Operations) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut model = Model::new(operations.address.clone());
    let (_, first) = operations.status(TIMEOUT).await?;
    model.on_status(began.elapsed(), Ok(first));
    sleep(INTERVAL).await;
    let (_, second) = operations.status(TIMEOUT).await?;
    let is_ready = second.state == "ready";
    model.on_status(began.elapsed(), Ok(second));
    let mut buf = Buffer::empty(REPORT);
    view::draw_report(&mut model, REPORT, &mut buf);
    output::text(&view::text(&buf))?;
    Ok(output::status(is_ready))
}

async fn watch(
    operations: &Operations,
    terminal: &mut DefaultTerminal,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut model = Model::new(operations.address.clone());
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
                reading.set(operations.status(TIMEOUT).fuse());
            },
            status = &mut reading, if !reading.is_terminated() => {
                let status = status.map(|(_, report)| report);
                let status = status.map_err(|error| output::causes(&error).last().cloned().unwrap_or_default());
                model.on_status(began.elapsed(), status);
            }
        }
    }
}
