//! The measured proxy in a separate process.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use steadfast_bench::{
    child::{Child, wait_for_end},
    measure::memory_mib,
};
use steadfast_fodc_proxy::{Config, Proxy};
use tokio::runtime;

use super::AGENTS;

/// Runs the proxy until the parent ends it.
pub(crate) fn serve(deadline: u64) -> Result<()> {
    let mut config = Config::default();
    config.grpc_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.http_listen = config.grpc_listen;
    config.max_agents = AGENTS;
    config.agent_deadline = Duration::from_secs(deadline);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let proxy = runtime.block_on(Proxy::start(config))?;
    let addresses = format!("{} {}", proxy.grpc_address(), proxy.http_address());
    wait_for_end(&addresses)
}

/// The parent's handle of the process. Dropping it ends the process.
pub(super) struct Process {
    child: Child,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Process {
    /// Starts the proxy with this many seconds for an agent's response.
    pub(super) fn start(deadline: u64) -> Result<Self> {
        let child = Child::start(["proxy-process", "--deadline", &deadline.to_string()])?;
        let (grpc, http) = child
            .ready_line()
            .split_once(' ')
            .context("the proxy process printed no addresses")?;
        let (grpc, http) = (grpc.parse()?, http.parse()?);
        Ok(Self { child, grpc, http })
    }

    pub(super) fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Returns the user and system time so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        self.child.cpu_seconds()
    }

    pub(super) fn memory_mib(&self) -> Result<f64> {
        memory_mib(self.child.id(), "VmRSS:")
    }

    pub(super) fn peak_memory_mib(&self) -> Result<f64> {
        memory_mib(self.child.id(), "VmHWM:")
    }
}
