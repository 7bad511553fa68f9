//! What one sees while the demo runs: a line that is painted over for people, plain lines otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    output,
    units::{grouped, humane},
};

/// The figures of a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) elapsed: Duration,
    pub(crate) acknowledged: u64,
    pub(crate) delivered: u64,
    pub(crate) connected: usize,
    pub(crate) clients: usize,
}

/// Where the demo shows itself.
pub(crate) struct Screen {
    bar: Option<ProgressBar>,
    said: Duration,
}

/// Without a terminal the figures are told this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

impl Screen {
    pub(crate) fn new(total: Duration) -> Self {
        let bar = output::is_watched().then(|| {
            let bar = ProgressBar::new(total.as_millis() as u64);
            let style = ProgressStyle::with_template("{bar:24} {wide_msg}");
            bar.set_style(style.expect("the template above is well formed"));
            bar
        });
        Self {
            bar,
            said: Duration::ZERO,
        }
    }

    /// Shows the figures.
    pub(crate) fn show(&mut self, moment: &Moment) {
        let text = format!(
            "{:>4.1} s  {} acknowledged  {} delivered  {} of {} clients connected",
            moment.elapsed.as_secs_f64(),
            grouped(moment.acknowledged),
            grouped(moment.delivered),
            moment.connected,
            moment.clients,
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(moment.elapsed.as_millis() as u64);
                bar.set_message(text);
            }
            None if moment.elapsed >= self.said + PLAIN_EVERY => {
                self.said = moment.elapsed;
                output::note(&text);
            }
            None => {}
        }
    }

    /// Tells of something that happened, above the figures.
    pub(crate) fn tell(&self, elapsed: Duration, text: &str) {
        let line = format!("{:>7}  {text}", humane(elapsed));
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(&line)),
            None => output::note(&line),
        }
    }

    /// Takes the figures away.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
