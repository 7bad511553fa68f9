//! A Streamer server as a child process.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::child_process::ChildProcess;

/// A running `steadfast streamer serve` on a free port. It ends with this value.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    data: PathBuf,
    process: ChildProcess,
    addr: SocketAddr,
}

impl ServerProcess {
    /// Starts a server on a data directory and waits until it accepts connections.
    pub(crate) async fn start(data: PathBuf) -> anyhow::Result<Self> {
        let (process, addr) = start(&data).await?;
        Ok(Self {
            data,
            process,
            addr,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns an error if the server has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.process.check("the server")
    }

    /// Sends SIGKILL and waits for the end of the process.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Restarts it after a kill, on the same data and another port.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        (self.process, self.addr) = start(&self.data).await?;
        Ok(())
    }
}

async fn start(data: &Path) -> anyhow::Result<(ChildProcess, SocketAddr)> {
    let args = ["streamer", "serve", "--listen", "127.0.0.1:0", "--data"];
    let args = args.iter().map(OsStr::new).chain([data.as_os_str()]);
    let (process, ready) = ChildProcess::start(args).await?;
    let addr = ready.parse().context("read the server's address")?;
    Ok((process, addr))
}
