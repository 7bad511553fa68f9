//! A Streamer server as a child process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use steadfast_chaos::{Fault, FaultGuard, Proxy, Reach};
use tokio::time::sleep;

use crate::child_process::{self, ChildProcess};

/// A running `steadfast streamer serve` on a free port. It ends with this value.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    program: PathBuf,
    data: PathBuf,
    options: &'static [&'static str],
    process: ChildProcess,
    addr: SocketAddr,
}

impl ServerProcess {
    /// Starts a server on a data directory and waits until it accepts connections.
    pub(crate) async fn start(data: PathBuf) -> anyhow::Result<Self> {
        Self::start_program(child_process::this_program()?, data, &[]).await
    }

    /// Starts the server of a program with these options.
    pub(crate) async fn start_program(
        program: PathBuf,
        data: PathBuf,
        options: &'static [&'static str],
    ) -> anyhow::Result<Self> {
        let mut process = spawn(&program, &data, options)?;
        let addr = ready(&mut process).await?;
        Ok(Self {
            program,
            data,
            options,
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

    /// Kills it while `proxy` leads to it. The proxy refuses connections until
    /// [`Self::restart_behind`]: the system may give the port of the killed process to another server,
    /// which would answer the clients that it does not know their entries and positions.
    pub(crate) async fn kill_behind(&mut self, proxy: &Proxy) -> anyhow::Result<FaultGuard> {
        let refusal = proxy.inject(Fault::Refuse, Reach::Later);
        self.kill().await?;
        Ok(refusal)
    }

    /// Restarts it after [`Self::kill_behind`], on the same data and another port. The clients keep the
    /// address of the proxy.
    pub(crate) async fn restart_behind(
        &mut self,
        proxy: &Proxy,
        refusal: FaultGuard,
    ) -> anyhow::Result<()> {
        self.process = spawn(&self.program, &self.data, self.options)?;
        self.addr = ready(&mut self.process).await?;
        proxy.set_upstream(self.addr);
        drop(refusal);
        Ok(())
    }

    /// Starts it after a kill, and kills it after this time, whether it is ready or not.
    pub(crate) async fn kill_while_starting(&mut self, after: Duration) -> anyhow::Result<()> {
        self.process = spawn(&self.program, &self.data, self.options)?;
        sleep(after).await;
        self.process.kill().await
    }
}

fn spawn(program: &Path, data: &Path, options: &[&str]) -> anyhow::Result<ChildProcess> {
    let data = data.to_str().context("the data directory is not UTF-8")?;
    let args = [
        "streamer",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--operations",
        "off",
        "--data",
        data,
    ];
    ChildProcess::spawn(program, args.iter().chain(options))
}

async fn ready(process: &mut ChildProcess) -> anyhow::Result<SocketAddr> {
    let ready = process.ready().await?;
    ready.parse().context("read the server's address")
}
