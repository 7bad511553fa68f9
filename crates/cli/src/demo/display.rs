//! Progress of the demo: a line that is overwritten on a terminal, plain lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    output,
    units::{grouped, readable},
};

/// The counters at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) elapsed: Duration,
    pub(crate) acknowledged: u64,
    pub(crate) delivered: u64,
    pub(crate) connected: usize,
    pub(crate) clients: usize,
}

/// The progress line on stderr.
pub(crate) struct Display {
    bar: Option<ProgressBar>,
    /// The elapsed time of the last plain line.
    printed: Duration,
}

/// Interval of plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

impl Display {
    pub(crate) fn new(total: Duration) -> Self {
        let bar = output::is_terminal().then(|| {
            let bar = ProgressBar::new(total.as_millis() as u64);
            let style = ProgressStyle::with_template("{bar:24} {wide_msg}");
            bar.set_style(style.expect("the template above is well formed"));
            bar
        });
        Self {
            bar,
            printed: Duration::ZERO,
        }
    }

    /// Updates the line.
    pub(crate) fn show(&mut self, progress: &Progress) {
        let text = format!(
            "{:>4.1} s  {} acknowledged  {} delivered  {} of {} clients connected",
            progress.elapsed.as_secs_f64(),
            grouped(progress.acknowledged),
            grouped(progress.delivered),
            progress.connected,
            progress.clients,
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(progress.elapsed.as_millis() as u64);
                bar.set_message(text);
            }
            None if progress.elapsed >= self.printed + PLAIN_INTERVAL => {
                self.printed = progress.elapsed;
                output::note(&text);
            }
            None => {}
        }
    }

    /// Prints an event above the line.
    pub(crate) fn report(&self, elapsed: Duration, text: &str) {
        let line = format!("{:>7}  {text}", readable(elapsed));
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(&line)),
            None => output::note(&line),
        }
    }

    /// Removes the line.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
