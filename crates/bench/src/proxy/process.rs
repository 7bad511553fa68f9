//! The measured proxy: the shipped binary, because an allocator decides about the memory.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context as _, Result};
use steadfast_bench::{child::Child, measure::memory_mib};

use crate::target::beside;

/// The parent's handle of the process. Dropping it ends the process.
pub(super) struct Process {
    child: Child,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Process {
    /// Starts the proxy with this many seconds for an agent's response.
    pub(super) fn start(deadline: u64) -> Result<Self> {
        let mut command = Command::new(beside("steadfast")?);
        command.args(["fodc", "proxy", "--stop-with-stdin"]);
        for listener in ["--grpc-listen-addr", "--http-listen-addr"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.arg(format!("--agent-deadline={deadline}s"));
        let child = Child::start(command)?;
        let addresses = child.ready_line().strip_prefix("ready ");
        let (grpc, http) = addresses
            .and_then(|addresses| addresses.split_once(' '))
            .with_context(|| format!("the proxy printed {:?}", child.ready_line()))?;
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
