//! The proxy as a process of its own.

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

/// Serves until the parent closes our standard input, or is no more.
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

/// Its parent's view of it.
pub(super) struct Process {
    child: Child,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Process {
    /// With so many seconds for an agent's answer.
    pub(super) fn start(deadline: u64) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("proxy-process")
            .args(["--deadline", &deadline.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("it has an output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let (grpc, http) = line
            .trim()
            .split_once(' ')
            .context("it says where it listens")?;
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

    /// User and system time so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the process, in parentheses, may hold blanks.
        let after = stat.rsplit_once(')').context("a name in parentheses")?.1;
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
