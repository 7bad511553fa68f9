//! Another `steadfast` as a child process, so that it can be killed.

use std::{ffi::OsStr, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, stdin},
    process::{Child, Command},
    time::timeout,
};

/// A running child. Dies with this value, and also when this process dies: it stops when its standard
/// input ends.
#[derive(Debug)]
pub(crate) struct OwnProcess {
    child: Child,
}

/// What a server prints before its addresses once it takes connections.
pub(crate) const READY: &str = "ready ";
/// Opening a log or a record after a kill checks it; on a slow disk that takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// An orderly stop may take so long before it is a failure.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

impl OwnProcess {
    /// Starts a child with these arguments and `--stop-with-stdin`, and waits until it is ready.
    /// Returns what it printed after [`READY`], too.
    pub(crate) async fn start<A: AsRef<OsStr>>(
        args: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<(Self, String)> {
        let program = std::env::current_exe().context("find our own program")?;
        let mut child = Command::new(program)
            .args(args)
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // An interrupt from the terminal is for us; the child is told by us.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("start a child process")?;
        let output = child
            .stdout
            .take()
            .context("the child's output is not ours")?;
        let mut lines = BufReader::new(output).lines();
        let first = timeout(START_TIMEOUT, lines.next_line())
            .await
            .context("a child process did not get ready in time")?
            .context("read a child's output")?;
        match first.as_deref().and_then(|line| line.strip_prefix(READY)) {
            Some(ready) => Ok((Self { child }, ready.to_owned())),
            None => bail!("a child process ended before it was ready; its reason is above"),
        }
    }

    /// An error when it has ended although nobody ended it.
    pub(crate) fn check(&mut self, name: &str) -> anyhow::Result<()> {
        match self
            .child
            .try_wait()
            .context("look after a child process")?
        {
            None => Ok(()),
            Some(status) => bail!("{name} ended by itself ({status}); what it said is above"),
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill a child process")
    }

    /// Asks it to stop in order and waits until it has.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = timeout(STOP_TIMEOUT, self.child.wait())
            .await
            .context("a child process did not stop in time")?
            .context("wait for a child process")?;
        if status.success() {
            Ok(())
        } else {
            bail!("a child process stopped with {status}; what it said is above")
        }
    }
}

/// Returns when standard input ends: with `wanted`, the parent process is gone then; without, never.
pub(crate) async fn orphaned(wanted: bool) {
    if wanted {
        let mut buffer = [0; 64];
        while matches!(stdin().read(&mut buffer).await, Ok(count) if count > 0) {}
    } else {
        std::future::pending::<()>().await;
    }
}
