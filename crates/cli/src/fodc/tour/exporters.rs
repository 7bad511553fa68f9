//! Exporters from the system's packages, as child processes.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};

/// A running exporter. It ends with this value.
#[derive(Debug)]
pub(super) struct Exporter {
    program: PathBuf,
    args: Vec<String>,
    pub(super) port: u16,
    child: Child,
}

const NODE_EXPORTER: &str = "prometheus-node-exporter";
const PROMETHEUS: &str = "prometheus";

/// Returns the paths of both programs. The error names the packages of missing ones.
pub(super) fn find() -> anyhow::Result<(PathBuf, PathBuf)> {
    match (on_path(NODE_EXPORTER), on_path(PROMETHEUS)) {
        (Some(node), Some(prometheus)) => Ok((node, prometheus)),
        (node, prometheus) => {
            let missing = [(NODE_EXPORTER, node), (PROMETHEUS, prometheus)];
            let missing: Vec<_> = missing
                .into_iter()
                .filter_map(|(name, found)| found.is_none().then_some(name))
                .collect();
            bail!(
                "{} not found; on Debian: apt-get install --no-install-recommends {}",
                missing.join(" and "),
                missing.join(" ")
            )
        }
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(name));
    candidates.find(|candidate| candidate.is_file())
}

impl Exporter {
    /// Starts the node exporter.
    pub(super) fn node(program: PathBuf) -> anyhow::Result<Self> {
        let port = free_port()?;
        let args = vec![format!("--web.listen-address=127.0.0.1:{port}")];
        Self::start(program, args, port)
    }

    /// Starts Prometheus as an exporter of its own metrics. It scrapes itself and the node exporter
    /// every second, so that its metrics change.
    pub(super) fn prometheus(program: PathBuf, node: u16, folder: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n\
             - {{job_name: all, static_configs: [{{targets: ['127.0.0.1:{node}', '127.0.0.1:{port}']}}]}}\n"
        );
        std::fs::write(&config, text).context("write a configuration for Prometheus")?;
        let args = vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("tsdb").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        Self::start(program, args, port)
    }

    fn start(program: PathBuf, args: Vec<String>, port: u16) -> anyhow::Result<Self> {
        let child = spawn(&program, &args)?;
        Ok(Self {
            program,
            args,
            port,
            child,
        })
    }

    /// Sends SIGKILL and waits for the end of the process.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill an exporter")
    }

    /// Restarts it on the same port.
    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.program, &self.args)?;
        Ok(())
    }
}

fn spawn(program: &Path, args: &[String]) -> anyhow::Result<Child> {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // ctrl-c in the terminal must not end it before the tour does.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", program.display()))
}

/// Returns a port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}
