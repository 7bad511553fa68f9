//! Interrupts: the first starts an orderly stop, one that comes a second later or more ends the process.

use std::{io, time::Duration};

use rustix::process::Signal;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::output;

/// Cancels its token at the first SIGINT or SIGTERM, until dropped.
#[derive(Debug)]
pub(crate) struct Interrupts {
    pub(crate) token: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

/// Exit status after an interrupt that left the work undone, as a shell reports it.
pub(crate) const INTERRUPTED: u8 = 130;

/// The time after the first interrupt within which others are the same one: a supervisor often signals a process and
/// then its group, and a terminal may do so beside it.
const SAME_INTERRUPT: Duration = Duration::from_secs(1);

/// The consequence of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consequence {
    /// The orderly stop begins.
    Stop,
    /// None: it is the interrupt that began the orderly stop.
    Nothing,
    /// The process ends.
    EndAtOnce,
}

/// Returns the consequence of an interrupt now, given when the first one came.
fn consequence(first: Option<Instant>, now: Instant) -> Consequence {
    match first {
        None => Consequence::Stop,
        Some(first) if now < first + SAME_INTERRUPT => Consequence::Nothing,
        Some(_) => Consequence::EndAtOnce,
    }
}

/// Makes SIGHUP do nothing, for servers: they read changed files without it, and whoever sends it to have them read
/// must not end the process.
pub(crate) fn ignore_hangups() -> io::Result<()> {
    signal(SignalKind::hangup()).map(drop)
}

impl Interrupts {
    pub(crate) fn listen() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // With a handler for it, a write beyond a limit on file sizes fails instead of ending the
        // process, and the log refuses entries as on a full disk.
        drop(signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?);
        let token = CancellationToken::new();
        let stop = token.clone();
        let task = tokio::spawn(async move {
            let mut first = None;
            loop {
                select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                let now = Instant::now();
                match consequence(first, now) {
                    Consequence::Stop => {
                        first = Some(now);
                        stop.cancel();
                    }
                    Consequence::Nothing => {}
                    Consequence::EndAtOnce => {
                        output::note("interrupted again: stopping at once");
                        // No destructor runs: this is for an orderly stop that does not end.
                        std::process::exit(INTERRUPTED.into());
                    }
                }
            }
        });
        Ok(Self {
            token,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_within_a_second_are_one() {
        let first = Instant::now();
        assert_eq!(consequence(None, first), Consequence::Stop);
        for (after, expected) in [
            (0, Consequence::Nothing),
            (1, Consequence::Nothing),
            (999, Consequence::Nothing),
            (1_000, Consequence::EndAtOnce),
            (60_000, Consequence::EndAtOnce),
        ] {
            let now = first + Duration::from_millis(after);
            assert_eq!(consequence(Some(first), now), expected, "{after} ms");
        }
    }
}
