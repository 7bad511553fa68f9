//! Another `steadfast` as a child process that can be killed.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, stdin},
    process::{Child, Command},
    time::timeout,
};

/// A running child. It ends with this value. It also ends with this process, because it stops when
/// its standard input ends.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    child: Child,
}

/// The prefix of the line that a server prints, with its addresses, once it accepts connections.
pub(crate) const READY: &str = "ready ";
/// A log or a record is checked when it is opened after a kill. The log syncs up to ten times, each of
/// which took up to a second on a loaded disk; the rest is for the processor.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest orderly stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

impl ChildProcess {
    /// Starts a child with these arguments and `--stop-with-stdin`, and waits until it is ready.
    /// Returns the child and the text after [`READY`].
    pub(crate) async fn start<A: AsRef<OsStr>>(
        args: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<(Self, String)> {
        let mut process = Self::spawn(&this_program()?, args)?;
        let ready = process.ready().await?;
        Ok((process, ready))
    }

    /// Starts a program with these arguments and `--stop-with-stdin`.
    pub(crate) fn spawn<A: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<Self> {
        let child = Command::new(program)
            .args(args)
            .arg("--stop-with-stdin")
            // The open pipe tells the child that this process lives; see `parent_gone`.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // ctrl-c in the terminal must reach this process only, which then stops its children.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child })
    }

    /// Waits until the child is ready, and returns the text after [`READY`]. To be called once.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<String> {
        let output = self
            .child
            .stdout
            .take()
            .context("the child has no output")?;
        let mut lines = BufReader::new(output).lines();
        let first = timeout(START_TIMEOUT, lines.next_line())
            .await
            .context("a child process did not get ready in time")?
            .context("read a child's output")?;
        // The pipe is not read any further: servers print nothing else to standard output.
        match first.as_deref().and_then(|line| line.strip_prefix(READY)) {
            Some(ready) => Ok(ready.to_owned()),
            None => bail!("a child process ended before it was ready; its reason is above"),
        }
    }

    /// Returns an error if the child has ended by itself.
    pub(crate) fn check(&mut self, name: &str) -> anyhow::Result<()> {
        match self.child.try_wait().context("check a child process")? {
            None => Ok(()),
            Some(status) => bail!("{name} ended by itself ({status}); its output is above"),
        }
    }

    /// Sends SIGKILL and waits for the end of the process.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill a child process")
    }

    /// Stops the child in order and waits for its end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        // The end of its input is the child's signal for an orderly stop.
        drop(self.child.stdin.take());
        let status = timeout(STOP_TIMEOUT, self.child.wait())
            .await
            .context("a child process did not stop in time")?
            .context("wait for a child process")?;
        if status.success() {
            Ok(())
        } else {
            bail!("a child process stopped with {status}; its output is above")
        }
    }
}

/// Returns the path of this program.
pub(crate) fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("find this program")
}

/// Returns when standard input ends, which means that the parent process is gone. Without `watch` it
/// never returns.
pub(crate) async fn parent_gone(watch: bool) {
    if watch {
        let mut buffer = [0; 64];
        while matches!(stdin().read(&mut buffer).await, Ok(count) if count > 0) {}
    } else {
        std::future::pending::<()>().await;
    }
}
