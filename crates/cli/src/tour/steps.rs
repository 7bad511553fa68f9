//! The engine of a tour: numbered steps, pauses between them, and checks at the end.

use std::{process::ExitCode, time::Duration};

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::output::{self, BAD, FAINT, GOOD, STRONG, styled};

/// The steps of a tour so far.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    number: u32,
    stop: &'a CancellationToken,
}

/// An interrupt ended the tour early.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the tour was stopped before its end")]
pub(crate) struct Stopped;

impl<'a> Steps<'a> {
    pub(crate) fn new(stop: &'a CancellationToken) -> Self {
        Self { number: 0, stop }
    }

    /// Announces the next step.
    pub(crate) fn begin(&mut self, title: &str, detail: &str) {
        self.number += 1;
        let title = styled(STRONG, &format!("{}. {title}:", self.number));
        output::note(&format!("{title} {detail}"));
    }

    /// Lets time pass.
    pub(crate) async fn pause(&self, duration: Duration) -> Result<(), Stopped> {
        select! {
            () = self.stop.cancelled() => Err(Stopped),
            () = sleep(duration) => Ok(()),
        }
    }
}

/// Prints an event within a step.
pub(crate) fn note(text: &str) {
    output::note(&format!("   {}", styled(FAINT, text)));
}

/// Prints each check with its result. The status is a failure if any does not hold.
pub(crate) fn conclude(checks: &[(&str, bool)]) -> ExitCode {
    for (what, holds) in checks {
        let (style, word) = if *holds { (GOOD, "yes") } else { (BAD, "NO ") };
        output::note(&format!("{} {what}", styled(style, word)));
    }
    output::status(checks.iter().all(|(_, holds)| *holds))
}
