//! A streamer server of our own as a child process.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::own_process::OwnProcess;

/// A running `steadfast streamer serve` on a port of its own. Dies with this value.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    data: PathBuf,
    process: OwnProcess,
    addr: SocketAddr,
}

impl ServerProcess {
    /// Starts a server on that data directory and waits until it takes connections.
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

    /// An error when the server has ended although nobody ended it.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.process.check("the server")
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Starts it again after a kill, on the same data and another port.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        (self.process, self.addr) = start(&self.data).await?;
        Ok(())
    }
}

async fn start(data: &Path) -> anyhow::Result<(OwnProcess, SocketAddr)> {
    let args = ["streamer", "serve", "--listen", "127.0.0.1:0", "--data"];
    let args = args.iter().map(OsStr::new).chain([data.as_os_str()]);
    let (process, ready) = OwnProcess::start(args).await?;
    let addr = ready.parse().context("read the server's address")?;
    Ok((process, addr))
}
