//! A server of our own as a child process, so that it can be killed.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// A running `steadfast streamer serve` on a port of its own. Dies with this value, and also when
/// this process dies: it stops when its standard input ends.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    data: PathBuf,
    child: Child,
    addr: SocketAddr,
}

/// What the server prints before its address once it takes connections.
pub(crate) const READY: &str = "ready ";
/// Opening the log after a kill checks it; on a slow disk that takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(20);

impl ServerProcess {
    /// Starts a server on that data directory and waits until it takes connections.
    pub(crate) async fn start(data: PathBuf) -> anyhow::Result<Self> {
        let (child, addr) = start(&data).await?;
        Ok(Self { data, child, addr })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// An error when the server has ended although nobody ended it.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("look after the server")? {
            None => Ok(()),
            Some(status) => bail!("the server ended by itself ({status}); what it said is above"),
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill the server")
    }

    /// Starts it again after a kill, on the same data and another port.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        (self.child, self.addr) = start(&self.data).await?;
        Ok(())
    }
}

async fn start(data: &PathBuf) -> anyhow::Result<(Child, SocketAddr)> {
    let program = std::env::current_exe().context("find our own program")?;
    let mut child = Command::new(program)
        .args([
            "streamer",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--stop-with-stdin",
            "--data",
        ])
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // An interrupt from the terminal is for us; the server is told by us.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("start a server")?;
    let output = child
        .stdout
        .take()
        .context("the server's output is not ours")?;
    let mut lines = BufReader::new(output).lines();
    let first = timeout(START_TIMEOUT, lines.next_line())
        .await
        .context("the server did not get ready in time")?
        .context("read the server's output")?;
    let addr = first
        .as_deref()
        .and_then(|line| line.strip_prefix(READY)?.parse().ok());
    match addr {
        Some(addr) => Ok((child, addr)),
        None => bail!("the server ended before it was ready; its reason is above"),
    }
}
