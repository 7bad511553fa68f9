//! The measured proxy in a separate process.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use steadfast_bench::measure::memory_mib;
use steadfast_fodc_proxy::{Config, Proxy};
use tokio::runtime;

use super::AGENTS;

/// Runs the proxy until standard input is closed, by the parent or by its end.
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
    println!("{} {}", proxy.grpc_address(), proxy.http_address());
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing)?;
    drop(proxy);
    Ok(())
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
        let mut child = Command::new(std::env::current_exe()?)
            .arg("proxy-process")
            .args(["--deadline", &deadline.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child
            .stdout
            .take()
            .context("the proxy process has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let (grpc, http) = line
            .trim()
            .split_once(' ')
            .context("the proxy process printed no addresses")?;
        Ok(Self {
            child,
            grpc: grpc.parse()?,
            http: http.parse()?,
        })
    }

    pub(super) fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    pub(super) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Returns the user and system time so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the process, in parentheses, may contain blanks.
        let after = stat
            .rsplit_once(')')
            .context("/proc/PID/stat has no name in parentheses")?
            .1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    pub(super) fn memory_mib(&self) -> Result<f64> {
        memory_mib(self.child.id(), "VmRSS:")
    }

    pub(super) fn peak_memory_mib(&self) -> Result<f64> {
        memory_mib(self.child.id(), "VmHWM:")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}
