//! Interrupts: the first starts an orderly stop, the second ends the process.

use std::io;

use rustix::process::Signal;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
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
            loop {
                select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if stop.is_cancelled() {
                    output::note("interrupted again: stopping at once");
                    // No destructor runs: this is for an orderly stop that does not end.
                    std::process::exit(INTERRUPTED.into());
                }
                stop.cancel();
            }
        });
        Ok(Self {
            token,
            _task: AbortOnDropHandle::new(task),
        })
    }
}
